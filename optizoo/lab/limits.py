"""What a machine can hold: asked before anything is begun, so that nobody waits for a crash.

Only what cannot be is refused: what needs more memory than the machine has in all, or far more threads than it has
cores.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from optizoo.lab.config import CompareConfig, RunConfig
    from optizoo.lab.sweep.config import SweepConfig

__all__ = ["at_once", "check_run", "lacking", "memory"]

PIXELS = 3 * 32 * 32
CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may take


def memory(device: "torch.device | str" = "cpu") -> int:
    """Return the bytes that a machine, its container, or a CUDA device has in all.

    >>> memory() > 2**20
    True
    """
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[1]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(CGROUP.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no container, or one that may take all ("max")
        return total


def lacking(needed: float, device: "torch.device | str" = "cpu") -> str:
    """Return in words how far memory is from holding so many bytes; empty where it can.

    >>> lacking(1000)
    ''
    """
    there, who = memory(device), device if str(device) != "cpu" else "this machine"
    return f"{needed / 1e9:,.1f} GB of memory, where {who} has {there / 1e9:,.1f} GB" if needed > there else ""


def at_once() -> int:
    """Return how many threads or processes are told from a mistake: some for each core, and never few."""
    return max(64, 8 * (os.cpu_count() or 1))


def check_run(
    config: "RunConfig | CompareConfig | SweepConfig",
    *,
    images: int,
    classes: int,
    device: "torch.device | str" = "cpu",
) -> None:
    """Raise where a run, or one of a comparison or sweep, on so many images cannot be held by the machine.

    Raises:
        ConfigError: The message names the key, its value, and what it would take.
    """
    from optizoo.lab.config import CompareConfig, ConfigError, RunConfig

    settings, model = config.train, config.model
    size = 8 if settings.dtype == "float64" else 4
    if settings.threads is not None and settings.threads > at_once():
        raise ConfigError(f"= {settings.threads}; must be at most {at_once()} on this machine", key="train.threads")
    steps = settings.total_steps(images)
    sections = {}  # a sweep's depend on what it draws
    if isinstance(config, RunConfig):
        sections = {"schedule": config.schedule}
    elif isinstance(config, CompareConfig):
        sections = {f"schedules[{index}]": section for index, section in enumerate(config.schedules)}
    for place, section in sections.items():
        try:
            section.build(steps)
        except ConfigError as error:
            raise error.inside(place) from None
    hidden = model.hidden if model.name == "two_layer" else 0
    parameters = hidden * (PIXELS + 1 + classes) + classes if hidden else classes * (PIXELS + 1)
    batch = images if settings.full_batch else min(settings.batch_size, images)
    for key, value, numbers, remedy in (
        ("model.hidden", model.hidden, 2 * parameters, "fewer units"),  # weights and gradients
        ("train.epochs", settings.epochs, steps, "fewer, or max_steps"),  # the losses
        ("train.batch_size", batch, batch * (PIXELS + 2 * hidden + classes), "smaller batches"),
    ):
        if words := lacking(size * numbers, device):
            raise ConfigError(f"= {value}; takes {words}: set {remedy}", key=key)
