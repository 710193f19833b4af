"""Rates in param groups, and what others have done to them since they were set.

A scheduler that knows what it left in a group can tell, at its next step, by what factor somebody else (another
scheduler, a program, a loaded state) has multiplied the rate meanwhile. Rates are compared as they were stored: a rate
that was rounded to a float32 tensor has not changed. A rate of 0, or one that is no finite number, tells nothing.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Mark", "copied", "held", "initial_lr", "multiple", "number", "numbers", "put", "stored"]


_SINGLE = torch.zeros((), dtype=torch.float32, device="cpu")


def number(value: Any) -> float:
    """Return a rate, a number or a tensor of one element, as a plain float."""
    return float(value.item()) if isinstance(value, Tensor) else float(value)


def copied(value: float | Tensor) -> float | Tensor:
    """Return a copy that shares nothing; as a plain float, so that checkpoints load with ``weights_only=True``."""
    return value.detach().clone() if isinstance(value, Tensor) else float(value)


def stored(rate: float, like: Any) -> float:
    """Return ``rate`` as it would be read back from a place that holds numbers of the kind of ``like``."""
    if type(like) is float:
        return rate
    if isinstance(like, Tensor):
        return torch.tensor(rate, dtype=like.dtype, device="cpu").item()
    try:  # NumPy's numbers are rounded to their own type
        return float(type(like)(rate))
    except (TypeError, ValueError, OverflowError):
        return rate


def put(group: dict[str, Any], rate: Any) -> None:
    """Set the group's lr. A tensor is filled in place, because captured graphs read that very one."""
    lr = group["lr"]
    if isinstance(lr, Tensor):
        with torch.no_grad():
            lr.fill_(rate.detach().reshape(()) if isinstance(rate, Tensor) else rate)
    else:
        group["lr"] = rate


def initial_lr(group: dict[str, Any]) -> float | Tensor:
    """Return a copy of the group's base rate, its lr where it was never scheduled; of the same kind as its lr."""
    if "initial_lr" not in group:
        group["initial_lr"] = copied(group["lr"])
    base_lr = group["initial_lr"]
    return copied(base_lr) if isinstance(group["lr"], Tensor) else number(base_lr)


def numbers(name: str, values: Any) -> list[float]:
    """Return a list of a state as floats; an empty one where the state has none."""
    message = f"Invalid {name} value: {values!r}; {name} of a scheduler's state must be a list of numbers"
    try:
        result = [number(value) for value in values or ()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(message) from error
    if name == "factors" and not all(map(math.isfinite, result)):
        raise ValueError(f"{message}, all of them finite")
    return result


def multiple(found: float, left: float) -> float:
    """Return by what factor the rate ``left`` became ``found``; 1 where one of them tells nothing."""
    if found == left or not left or not found or not math.isfinite(found):
        return 1.0
    ratio = found / left
    return ratio if ratio and math.isfinite(ratio) else 1.0


def held(found: float, left: float) -> bool:
    """Return whether others hold a rate, which was not left at 0, at 0 or at what is no finite number."""
    return left != 0 and (found == 0 or not math.isfinite(found))


@dataclass(slots=True)
class Mark:
    """What a scheduler left in a param group, and what others have done to the rate by then.

    Attributes:
        group: The group, to find it again where groups were removed.
        base: The base rate that the rate was computed from.
        place: The value of the schedule that it was computed with.
        rate: The rate that was set, as stored; where others hold the group at 0, the one that would have been.
        factor: The product of what others have done.
        known: Other rates that may stand in the group without anybody having changed it.
    """

    group: dict[str, Any]
    base: float
    place: float
    rate: float
    factor: float = 1.0
    known: tuple[float, ...] = ()
    _read: dict[str, tuple[Tensor, int, float]] = field(default_factory=dict, repr=False)

    def number(self, name: str) -> float:
        """Return an entry of the group as a float.

        Reading from an accelerator waits for it, so a tensor there is read again only after it was written to.
        """
        value = self.group[name]
        if type(value) is float:
            return value
        if not isinstance(value, Tensor) or value.device.type == "cpu":
            return number(value)
        tensor, version, result = self._read.get(name, (None, 0, 0.0))
        if tensor is not value or version != value._version:
            result = number(value)
            self._read[name] = (value, value._version, result)
        return result

    def untouched(self, found: float, rates: Sequence[float]) -> bool:
        """Return whether the group holds one of the rates, as they are stored there, or went through a float32."""
        if found in rates:
            return True
        kinds = self.group["lr"], _SINGLE
        return any(stored(rate, kind) == found for kind in kinds for rate in rates)

    def write(self, rate: float) -> None:
        """Set the group's lr, and keep in mind what it is, so that nobody has to wait for an accelerator."""
        put(self.group, rate)
        lr = self.group["lr"]
        if isinstance(lr, Tensor) and lr.device.type != "cpu":
            self._read["lr"] = (lr, lr._version, stored(rate, lr))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mark":
        return replace(self, group=deepcopy(self.group, memo), _read={})

    def __reduce__(self) -> tuple[Any, ...]:
        return Mark, (self.group, self.base, self.place, self.rate, self.factor, self.known)
