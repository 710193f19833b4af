"""Schedulers: set an optimizer's learning rates from a schedule, ``lr = base_lr * schedule(last_epoch) * factor``.

:class:`ScheduleLR` is a ``torch.optim.lr_scheduler.LRScheduler`` for any schedule. The classes with torch's names take
torch's arguments and give torch's numbers; they stand on it, and so do :class:`InverseSqrtLR` and :class:`WarmupLR`.
:mod:`optizoo.lr_scheduler` has them under the names of torch's module, beside those that torch alone offers.

The schedule's part is evaluated, never multiplied from step to step. The place on it is one integer, ``last_epoch``
(torch's name; it counts calls of ``step()``, whatever a call stands for). The base rates are ``initial_lr`` of the
param groups, which the optimizer saves and loads.

The factor is what others have done to the rate: another scheduler of a chain, a ``ReduceLROnPlateau``, a program that
writes ``group["lr"]``. It is 1 until somebody does. At each step what is found in the group is held against what this
scheduler left there, as it was stored, and the ratio is multiplied up. So a rate that others have changed stays
changed, in proportion, and schedulers that share an optimizer multiply. Three rules complete it:

- A rate that differs from ``initial_lr`` when the scheduler is built has been changed by others.
- A rate of 0 tells no ratio. Where others set one it stays 0 until they set another, and the factor is what it was.
  Where the schedule itself says 0, what others write in its place does not last.
- With ``last_epoch=N`` the rate may be that of step ``N`` or ``N + 1`` of the schedule, or the base rate: neither tells
  of a change.

``last_epoch``, the factors and the rates that were set last are the state. With them a resumed run goes on at the right
rate in whatever order optimizer and scheduler are built and loaded: the scheduler's state decides, and the optimizer's
rates only tell of changes since.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from optizoo.schedule_lr import ScheduleLR
from optizoo.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    Schedule,
    Step,
    Warmup,
    checked_factor,
    checked_fraction,
    checked_length,
)
from optizoo.sequential_lr import SequentialLR

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "InverseSqrtLR",
    "LinearLR",
    "MultiStepLR",
    "PolynomialLR",
    "ScheduleLR",
    "SequentialLR",
    "StepLR",
    "WarmupLR",
]


def _field(name: str, doc: str) -> Any:
    """Torch's attribute for a field of the schedule; assigning it makes a new schedule, which checks the value."""

    def get(self: ScheduleLR) -> Any:
        return getattr(self.schedule, name)

    def set_(self: ScheduleLR, value: Any) -> None:
        self.schedule = replace(self.schedule, **{name: value})

    return property(get, set_, doc=doc)


class StepLR(ScheduleLR):
    """Multiply the rates by ``gamma`` every ``step_size`` steps: ``lr = base_lr * gamma ** floor(t / step_size)``.

    Args:
        optimizer: The optimizer whose rates are set.
        step_size: Number of steps between two cuts, above 0.
        gamma: What each cut multiplies by, at least 0.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range, NaN or infinite.
    """

    step_size = _field("period", "Number of steps between two cuts.")
    gamma = _field("gamma", "What each cut multiplies by.")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        super().__init__(optimizer, Step(checked_length("step_size", step_size), gamma), last_epoch)


class MultiStepLR(ScheduleLR):
    """Multiply the rates by ``gamma`` at each milestone: ``lr = base_lr * gamma ** (number of milestones <= t)``.

    Args:
        optimizer: The optimizer whose rates are set.
        milestones: The steps of the cuts, at least 0 each, in any order.
        gamma: What each cut multiplies by, at least 0.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: ``milestones`` is not an iterable of numbers, or another argument not a number.
        ValueError: An argument is out of range, NaN or infinite.
    """

    milestones = _field("milestones", "The steps of the cuts, a sorted tuple (in torch a ``Counter``).")
    gamma = _field("gamma", "What each cut multiplies by.")

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        super().__init__(optimizer, MultiStep(milestones, gamma), last_epoch)  # pyright: ignore[reportArgumentType]


class ConstantLR(ScheduleLR):
    """Multiply the rates by ``factor`` for ``total_iters`` steps: ``lr = base_lr * factor``, then ``lr = base_lr``.

    Args:
        optimizer: The optimizer whose rates are set.
        factor: The factor, from 0 to 1. Torch's divides by 0 at ``total_iters`` where it is 0.
        total_iters: Number of steps that it holds for, above 0.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range, NaN or infinite.
    """

    factor = _field("factor", "The factor of the first steps.")
    total_iters = _field("total_steps", "Number of steps that it holds for.")

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        schedule = Constant(checked_fraction("factor", factor), checked_length("total_iters", total_iters))
        super().__init__(optimizer, schedule, last_epoch)


class LinearLR(ScheduleLR):
    """Go from ``base_lr * start_factor`` to ``base_lr * end_factor`` in a straight line, then stay there.

    ``lr = base_lr * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters)``.

    Args:
        optimizer: The optimizer whose rates are set.
        start_factor: The first factor, from 0 to 1. Torch refuses 0, which is the usual start of a warm-up.
        end_factor: The last factor, from 0 to 1.
        total_iters: Number of steps between them, above 0.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range, NaN or infinite.
    """

    start_factor = _field("start", "The first factor.")
    end_factor = _field("floor", "The last factor.")
    total_iters = _field("total_steps", "Number of steps between them.")

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        schedule = Linear(
            checked_length("total_iters", total_iters),
            floor=checked_fraction("end_factor", end_factor),
            start=checked_fraction("start_factor", start_factor),
        )
        super().__init__(optimizer, schedule, last_epoch)


class ExponentialLR(ScheduleLR):
    """Multiply the rates by ``gamma`` at every step: ``lr = base_lr * gamma ** t``.

    Args:
        optimizer: The optimizer whose rates are set.
        gamma: What each step multiplies by, at least 0.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range, NaN or infinite.
    """

    gamma = _field("gamma", "What each step multiplies by.")

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        super().__init__(optimizer, Exponential(gamma), last_epoch)


class PolynomialLR(ScheduleLR):
    """Go from ``base_lr`` to 0 along a power of the steps that are left, then stay at 0.

    ``lr = base_lr * (1 - min(t, total_iters) / total_iters) ** power``.

    Args:
        optimizer: The optimizer whose rates are set.
        total_iters: Number of steps down to 0, above 0.
        power: The exponent, above 0; 1 is a straight line.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range, NaN or infinite.
    """

    total_iters = _field("total_steps", "Number of steps down to 0.")
    power = _field("power", "The exponent.")

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        super().__init__(optimizer, Polynomial(checked_length("total_iters", total_iters), power), last_epoch)


class CosineAnnealingLR(ScheduleLR):
    """Go from ``base_lr`` to ``eta_min`` along half a cosine wave, then stay at ``eta_min``.

    ``lr = eta_min + (base_lr - eta_min) * (1 + cos(pi * t / T_max)) / 2`` for ``t < T_max``, else ``eta_min``. Torch's
    numbers up to ``T_max``; past it torch's cosine climbs again (to 0.024 of the base rate at step 11 of ``T_max=10``),
    and this one does not. Source: https://arxiv.org/abs/1608.03983, equation 5.

    Args:
        optimizer: The optimizer whose rates are set.
        T_max: Number of steps down to ``eta_min``, above 0.
        eta_min: The last rate, at least 0. A rate, not a factor: it is the same for all param groups.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range, NaN or infinite.
    """

    T_max = _field("total_steps", "Number of steps down to ``eta_min``.")

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,  # noqa: N803 (torch's name)
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.eta_min = checked_factor("eta_min", eta_min)
        super().__init__(optimizer, Cosine(checked_length("T_max", T_max)), last_epoch)

    def _rate(self, base_lr: float, place: float) -> float:
        return base_lr * place + self.eta_min * (1 - place)  # exactly base_lr at 1 and eta_min at 0


class InverseSqrtLR(ScheduleLR):
    """Climb from 0 in ``warmup_steps`` steps, then fall with the inverse square root of the step (the Transformer's).

    ``lr = base_lr * min(t / warmup_steps, sqrt(warmup_steps / t))``: Vaswani et al. 2017, equation 3
    (https://arxiv.org/abs/1706.03762), with the peak ``base_lr`` in the place of ``(d_model * warmup_steps) ** -0.5``.

    Args:
        optimizer: The optimizer whose rates are set.
        warmup_steps: Number of steps from 0 to ``base_lr``, above 0.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range, NaN or infinite.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> scheduler = InverseSqrtLR(optimizer, warmup_steps=2)
    >>> for _ in range(9):
    ...     print(round(scheduler.get_last_lr()[0], 3), end=" ")
    ...     optimizer.step()
    ...     scheduler.step()
    0.0 0.05 0.1 0.082 0.071 0.063 0.058 0.053 0.05
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, last_epoch: int = -1) -> None:
        steps = checked_length("warmup_steps", warmup_steps)
        super().__init__(optimizer, Warmup(steps, then=InverseSqrt(steps)), last_epoch)


class WarmupLR(ScheduleLR):
    """Climb from ``base_lr * start_factor`` to ``base_lr`` in a straight line, then follow the schedule ``then``.

    Args:
        optimizer: The optimizer whose rates are set.
        warmup_steps: Number of steps of the climb, above 0.
        start_factor: The first factor, from 0 to 1.
        then: A callable ``step -> factor`` that counts from the end of the climb; ``None`` stays at ``base_lr``.
        last_epoch: The last step of an earlier run, to go on behind it.

    Raises:
        TypeError: An argument is not a number, or ``then`` cannot be called.
        ValueError: An argument is out of range, NaN or infinite.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> scheduler = WarmupLR(optimizer, warmup_steps=4, then=Linear(2))
    >>> for _ in range(7):
    ...     print(round(scheduler.get_last_lr()[0], 3), end=" ")
    ...     optimizer.step()
    ...     scheduler.step()
    0.0 0.025 0.05 0.075 0.1 0.05 0.0
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        start_factor: float = 0.0,
        then: Schedule | None = None,
        last_epoch: int = -1,
    ) -> None:
        schedule = Warmup(
            checked_length("warmup_steps", warmup_steps),
            then=Constant() if then is None else then,
            start=checked_fraction("start_factor", start_factor),
        )
        super().__init__(optimizer, schedule, last_epoch)
