"""Schedulers: set an optimizer's learning rates from a schedule, ``lr = base_lr * schedule(last_epoch)``.

:class:`ScheduleLR` is a ``torch.optim.lr_scheduler.LRScheduler`` for any schedule. The classes with torch's names take
torch's arguments and give torch's numbers; they stand on it, and so do :class:`InverseSqrtLR` and :class:`WarmupLR`.

Rates are evaluated, never multiplied from step to step. The place on the schedule is one integer, ``last_epoch``
(torch's name; it counts calls of ``step()``, whatever a call stands for). The base rates are ``initial_lr`` of the
param groups, which the optimizer saves and loads. Nothing else is state, so a resumed run goes on at the right rate in
whatever order optimizer and scheduler are built and loaded.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

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
    checked,
    checked_factor,
    checked_fraction,
    checked_length,
)

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "InverseSqrtLR",
    "LinearLR",
    "MultiStepLR",
    "PolynomialLR",
    "ScheduleLR",
    "StepLR",
    "WarmupLR",
]


class ScheduleLR(LRScheduler):
    """Set every param group's rate to ``base_lr * schedule(last_epoch)``.

    ``base_lr`` is the group's ``initial_lr``. A group that has none, such as one added later with ``add_param_group``,
    takes its present lr for it and is scheduled from the next ``step()`` on. A tensor lr is filled in place.

    Unlike most of torch's schedulers this one *sets* the rate: changes made by others do not last, and of several in a
    ``ChainedScheduler`` the last one wins. Multiply the schedules instead:
    ``ScheduleLR(optimizer, lambda step: first(step) * second(step))``.

    Args:
        optimizer: The optimizer whose rates are set.
        schedule: A callable ``step -> factor``, such as those of :mod:`optizoo.schedules`, or a list with one for each
            param group. It is kept as the attribute ``schedule``; append to the list when you add a group.
        last_epoch: The last step of an earlier run, to go on behind it. Only for groups that have ``initial_lr``.

    Raises:
        TypeError: ``optimizer`` is no optimizer, a schedule cannot be called, or a factor is not a number.
        ValueError: A list of schedules does not fit the param groups, ``last_epoch`` is below -1, or a factor is
            negative, NaN or infinite.
        KeyError: ``last_epoch`` is given but a group has no ``initial_lr``.

    >>> import torch
    >>> from optizoo.schedules import Cosine, Warmup
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> scheduler = ScheduleLR(optimizer, Warmup(2, then=Cosine(2)))
    >>> for _ in range(6):
    ...     print(round(scheduler.get_last_lr()[0], 3), end=" ")
    ...     optimizer.step()
    ...     scheduler.step()
    0.0 0.05 0.1 0.05 0.0 0.0
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule | Sequence[Schedule], last_epoch: int = -1) -> None:
        several = isinstance(schedule, (list, tuple))
        for each in schedule if several else [schedule]:
            if not callable(each):
                raise TypeError(
                    f"Invalid schedule value: {each!r}; schedule must be a callable step -> factor, or a list of them, "
                    "such as Cosine(total_steps=10_000)"
                )
        self.schedule: Any = list(schedule) if several else schedule
        super().__init__(optimizer, _checked_last_epoch(last_epoch))

    @property
    def base_lrs(self) -> list[float | Tensor]:
        """The rates that the schedule multiplies; they live in the param groups as ``initial_lr``."""
        return [_copied(_base_lr(group)) for group in self.optimizer.param_groups]

    @base_lrs.setter
    def base_lrs(self, values: Sequence[float | Tensor]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            group["initial_lr"] = _copied(value)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates at ``last_epoch``, one for each param group. They depend on nothing else."""
        bases = [_base_lr(group) for group in self.optimizer.param_groups]
        return [self._rate(base_lr, factor) for base_lr, factor in zip(bases, self._factors(), strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state: ``last_epoch``. The base rates are part of the optimizer's state."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to the saved step and set the rates at once.

        The optimizer's state may be loaded before or after this. A state of one of torch's schedulers serves too: only
        its ``last_epoch`` is read, since the schedule is the program's and the base rates are the optimizer's.

        Raises:
            ValueError: The state has no valid ``last_epoch``.
        """
        if "last_epoch" not in state_dict:
            raise ValueError(
                f"The scheduler's state has no 'last_epoch', only {sorted(state_dict)}; pass what state_dict() returned"
            )
        self.last_epoch = _checked_last_epoch(state_dict["last_epoch"])
        self._step_count = int(self.last_epoch) + 1
        if self.last_epoch >= 0:  # below: one that waits for its turn in a SequentialLR
            self._update_lr(self.last_epoch)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied optimizer has lost the wrapper by which torch sees that optimizer.step() came first, and torch would
        # warn of it at the next step. From a count of 2 on it does not look.
        self.__dict__.update(state)
        self._step_count = max(self._step_count, 2)

    def _rate(self, base_lr: float | Tensor, factor: float) -> float | Tensor:
        return base_lr * factor

    def _factors(self) -> list[float]:
        groups = self.optimizer.param_groups
        if not isinstance(self.schedule, list):
            return [_factor(self.schedule, self.last_epoch)] * len(groups)
        if len(self.schedule) != len(groups):
            raise ValueError(
                f"{len(self.schedule)} schedules for {len(groups)} param groups; give one schedule, or one for each "
                "group (append to scheduler.schedule when you add a group)"
            )
        owners: dict[int, Schedule] = {}
        for index, (group, schedule) in enumerate(zip(groups, self.schedule, strict=True)):
            if isinstance(group["lr"], Tensor) and owners.setdefault(id(group["lr"]), schedule) != schedule:
                raise ValueError(
                    f"Param group {index} shares its lr tensor with another group but has a schedule of its own; "
                    "give every group its own tensor, such as lr.clone()"
                )
        return [_factor(schedule, self.last_epoch) for schedule in self.schedule]


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

    def _rate(self, base_lr: float | Tensor, factor: float) -> float | Tensor:
        return base_lr * factor + self.eta_min * (1 - factor)  # exactly base_lr at 1 and eta_min at 0


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


def _copied(lr: float | Tensor) -> float | Tensor:
    """Return a copy that shares nothing; as a plain float, so that checkpoints load with ``weights_only=True``."""
    return lr.clone() if isinstance(lr, Tensor) else float(lr)


def _base_lr(group: dict[str, Any]) -> float | Tensor:
    """Return the group's base rate, of the same kind as its lr; the lr itself where the group was never scheduled."""
    if "initial_lr" not in group:
        group["initial_lr"] = _copied(group["lr"])
    base_lr = group["initial_lr"]
    return base_lr if isinstance(group["lr"], Tensor) else float(base_lr)


def _factor(schedule: Schedule, step: int) -> float:
    factor = schedule(step)
    if not isinstance(factor, Real):
        raise TypeError(f"{schedule!r} returned {factor!r} at step {step}; a schedule must return a plain number")
    if not 0 <= factor < math.inf:
        raise ValueError(f"{schedule!r} returned {factor!r} at step {step}; a factor must be finite and at least 0")
    return float(factor)


def _checked_last_epoch(last_epoch: Any) -> Any:
    return checked("last_epoch", last_epoch, "a step of an earlier run, or -1 for none", low=-1)
