"""What processes that hold different parameters of one model decide together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import distributed


def together(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether param groups ask for it (``across_processes``), and there are several processes."""
    asked = any(group.get("across_processes") for group in groups)
    return asked and distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def summed(numbers: Sequence[float], device: torch.device) -> list[float]:
    """Return the sums over all processes of the default group, each of which must ask at once.

    Args:
        numbers: Those of this process.
        device: Where its parameters are, which the group may need its tensors on.
    """
    on_device = device if distributed.get_backend() == "nccl" else torch.device("cpu")
    found = torch.tensor(numbers, dtype=torch.float64, device=on_device)
    distributed.all_reduce(found)
    return found.tolist()
