"""The lab: training, comparison and pictures on CIFAR-10 (extra `lab`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optizoo.lab.lr_finder import RangeTest as RangeTest
    from optizoo.lab.lr_finder import find_lr as find_lr

__all__ = ["RangeTest", "find_lr"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from optizoo.lab import lr_finder  # torch comes with it, and the names of experiments and configs need none

    return getattr(lr_finder, name)
