"""The names of ``torch.optim.lr_scheduler``: ours where :mod:`optizoo.schedulers` has one, else torch's own.

A program that says ``optim.lr_scheduler.StepLR(...)`` may exchange ``torch.optim`` for ``optizoo`` and keep its text.
What torch adds to its module in a later release is found here too.
"""

from typing import Any

from torch.optim import lr_scheduler as _torchs
from torch.optim.lr_scheduler import ChainedScheduler as ChainedScheduler
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from torch.optim.lr_scheduler import CyclicLR as CyclicLR
from torch.optim.lr_scheduler import LambdaLR as LambdaLR
from torch.optim.lr_scheduler import LRScheduler as LRScheduler
from torch.optim.lr_scheduler import MultiplicativeLR as MultiplicativeLR
from torch.optim.lr_scheduler import OneCycleLR as OneCycleLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as ReduceLROnPlateau

from optizoo import schedulers as _ours
from optizoo.schedulers import ConstantLR as ConstantLR
from optizoo.schedulers import CosineAnnealingLR as CosineAnnealingLR
from optizoo.schedulers import ExponentialLR as ExponentialLR
from optizoo.schedulers import InverseSqrtLR as InverseSqrtLR
from optizoo.schedulers import LinearLR as LinearLR
from optizoo.schedulers import MultiStepLR as MultiStepLR
from optizoo.schedulers import PolynomialLR as PolynomialLR
from optizoo.schedulers import ScheduleLR as ScheduleLR
from optizoo.schedulers import SequentialLR as SequentialLR
from optizoo.schedulers import StepLR as StepLR
from optizoo.schedulers import WarmupLR as WarmupLR

__all__ = sorted({*_torchs.__all__, *_ours.__all__})  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(_torchs, name)
    except AttributeError:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}, and torch.optim.lr_scheduler of this torch has none either"
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_torchs)})
