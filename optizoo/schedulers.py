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

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any
from warnings import catch_warnings, simplefilter
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from optizoo.rates import Mark, copied, held, multiple, number, put, stored
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
    "SequentialLR",
    "StepLR",
    "WarmupLR",
]


@dataclass
class _Move:
    """What one step does to one param group."""

    mark: Mark
    base: float
    place: float
    factor: float
    rate: float  # what schedule and factor ask for
    held: bool  # whether others hold the group's rate at 0, so that it stays as it is

    @property
    def value(self) -> float:
        return self.mark.number("lr") if self.held else self.rate


class _Company:
    """The schedulers of this module on one optimizer, and the rates that the last of them to step has left."""

    def __init__(self) -> None:
        self.members: WeakSet[ScheduleLR] = WeakSet()
        self.left: list[float] = []


_COMPANIES: WeakKeyDictionary[Optimizer, _Company] = WeakKeyDictionary()


class ScheduleLR(LRScheduler):
    """Set every param group's rate to ``base_lr * schedule(last_epoch) * factor``.

    ``base_lr`` is the group's ``initial_lr``. A group that has none, such as one added later with ``add_param_group``,
    takes its present lr for it and is scheduled from the next ``step()`` on. A tensor lr is filled in place.

    ``factor``, one for each group, is what others have done to the rate: the other members of a ``ChainedScheduler``,
    a ``ReduceLROnPlateau``, a program that writes ``group["lr"]``. It is exactly 1 unless somebody does, and part of
    the state. A rate that others set to 0 stays 0 until they set another.

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

    A rate that is changed in between stays changed, in proportion:

    >>> scheduler = ScheduleLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), Exponential(0.5))
    >>> scheduler.optimizer.param_groups[0]["lr"] *= 0.1
    >>> scheduler.optimizer.step()
    >>> scheduler.step()
    >>> round(scheduler.get_last_lr()[0], 6)
    0.005
    """

    _active = False  # whether it was stepped since the last time that a scheduler was built or begun

    def __init__(self, optimizer: Optimizer, schedule: Schedule | Sequence[Schedule], last_epoch: int = -1) -> None:
        several = isinstance(schedule, (list, tuple))
        for each in schedule if several else [schedule]:
            if not callable(each):
                raise TypeError(
                    f"Invalid schedule value: {each!r}; schedule must be a callable step -> factor, or a list of them, "
                    "such as Cosine(total_steps=10_000)"
                )
        self.schedule: Any = list(schedule) if several else schedule
        self._marks: list[Mark] | None = None
        super().__init__(optimizer, _checked_last_epoch(last_epoch))

    @property
    def base_lrs(self) -> list[float | Tensor]:
        """The rates that the schedule multiplies; they live in the param groups as ``initial_lr``."""
        return [_initial_lr(group) for group in self.optimizer.param_groups]

    @base_lrs.setter
    def base_lrs(self, values: Sequence[float | Tensor]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        for mark in self._marks or ():
            self._observe(mark)  # what others did, they did over the former base rates
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            group["initial_lr"] = copied(value)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates at ``last_epoch``, one for each param group, with what others have done until now."""
        return [_like(move.value, move.mark.group["lr"]) for move in self._moves()]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as plain numbers: ``last_epoch``, and for each group its factor and its present rate.

        The base rates are part of the optimizer's state.
        """
        marks = self._aligned()
        if self.last_epoch < 0:  # one that waits for its turn in a SequentialLR
            return {"last_epoch": self.last_epoch, "factors": [mark.awaited for mark in marks]}
        return {
            "last_epoch": self.last_epoch,
            "factors": [self._factor(mark) for mark in marks],
            "_last_lr": [mark.number("lr") for mark in marks],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to the saved step, and set the rates as they were saved.

        The optimizer's state may be loaded before or after this. A state without factors, such as one of torch's
        schedulers, serves too: its ``last_epoch`` is read, and the factors follow from its ``_last_lr`` if it has them.

        Raises:
            ValueError: The state has no valid ``last_epoch``.
            TypeError: ``last_epoch``, a factor or a rate is not a number.
        """
        if "last_epoch" not in state_dict:
            raise ValueError(
                f"The scheduler's state has no 'last_epoch', only {sorted(state_dict)}; pass what state_dict() returned"
            )
        last_epoch = _checked_last_epoch(state_dict["last_epoch"])
        factors, rates, bases = (_numbers(name, state_dict.get(name)) for name in ("factors", "_last_lr", "base_lrs"))
        groups = self.optimizer.param_groups
        self.last_epoch = last_epoch
        self._step_count = int(last_epoch) + 1
        marks = []
        for index, group in enumerate(groups):
            place = self._place(index, last_epoch) if last_epoch >= 0 else 1.0
            base = number(_initial_lr(group))
            factor = factors[index] if index < len(factors) else 1.0
            mark = Mark(group, base, place, stored(self._rate(base, place) * factor, group["lr"]), factor, factor)
            if index < len(rates):
                if "factors" not in state_dict:
                    self._read_torchs(mark, rates[index], bases[index] if index < len(bases) else base)
                elif not held(rates[index], mark.rate):
                    mark.known = (mark.rate,)
                    mark.rate = rates[index]
            marks.append(mark)
        self._marks = marks
        if last_epoch < 0:  # one that waits for its turn in a SequentialLR
            return
        for index, mark in enumerate(marks):
            is_held = "factors" in state_dict and index < len(rates) and held(rates[index], mark.rate)
            self._write(mark, rates[index] if is_held else mark.rate)
        self._leave()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_left": self._company().left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied optimizer has lost the wrapper by which torch sees that optimizer.step() came first, and torch would
        # warn of it at the next step. From a count of 2 on it does not look.
        state = {"_marks": [], **state}
        left = state.pop("_left", [])
        self.__dict__.update(state)
        self._step_count = max(self._step_count, 2)
        self._company().left = self._company().left or list(left)

    def _update_lr(self, epoch: int | None = None) -> None:
        """Go to the next step or to ``epoch``, and write the rates."""
        fresh = self.last_epoch < 0
        if fresh and epoch is None:
            self._marks = None  # built just now, or started again by a SequentialLR that has reset the rates
        marks = self._aligned()
        if fresh and epoch is not None:  # one of torch's SequentialLR whose turn has come; others left what is found
            for mark in marks:
                mark.rate, mark.known, mark.factor, mark.awaited = mark.number("lr"), (), mark.awaited, 1.0
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        moves = self._moves()
        values = [move.value for move in moves]
        if type(self).get_lr is not ScheduleLR.get_lr:
            values = [number(value) for value in self.get_lr()]
        self._tell(moves, values, fresh)
        self._active = not fresh
        for move, value in zip(moves, values, strict=True):
            mark = move.mark
            self._write(mark, value)
            mark.base, mark.place, mark.factor, mark.known = move.base, move.place, move.factor, ()
            mark.rate = stored(move.rate if move.held else value, mark.group["lr"])
        self._leave()

    def _write(self, mark: Mark, rate: float) -> None:
        put(mark.group, rate)
        mark.wrote(rate)

    def _leave(self) -> None:
        """Note what stands in the groups now, for ``get_last_lr`` and for the other schedulers of this module."""
        self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]
        self._company().left = [mark.number("lr") for mark in self._aligned()]

    def _company(self) -> _Company:
        company = _COMPANIES.setdefault(self.optimizer, _Company())
        company.members.add(self)
        return company

    def _tell(self, moves: list[_Move], values: list[float], fresh: bool) -> None:
        """Tell the others of this module on the optimizer what they cannot see in its rates.

        In a rate of 0 they see no ratio, so where one is found, or set now, or said by their own schedule, they are
        told of this step; a schedule that says 0 counts there as 1, until it says something else. Those that wait for
        their turn are told what nobody of this module has done.
        """
        company = self._company()
        for other in company.members - {self}:
            other._active &= not fresh
            if len(other._marks or ()) != len(moves):
                continue
            for index, (move, mark) in enumerate(zip(moves, other._marks or (), strict=True)):
                found = move.mark.number("lr")
                if other.last_epoch >= 0 and not (found and values[index] and mark.rate):
                    mark.group = move.mark.group
                    other._observe(mark)
                    now, before = self._rate(move.base, move.place), self._rate(move.mark.base, move.mark.place)
                    ratio = multiple(now or move.base, before or move.mark.base)
                    mark.factor, mark.rate = mark.factor * ratio, mark.rate * ratio
                elif other.last_epoch < 0 and not fresh:
                    left = company.left[index : index + 1]
                    if left and not move.mark.untouched(found, left):
                        mark.awaited *= multiple(found, left[0])

    def _aligned(self) -> list[Mark]:
        """Return the marks, one for each param group, after groups were added, removed, loaded or exchanged."""
        groups = self.optimizer.param_groups
        building, marks = self._marks is None, self._marks or []
        if len(marks) != len(groups):
            mine = {id(mark.group): mark for mark in marks}
            if not any(id(group) in mine for group in groups):
                mine = {id(group): mark for group, mark in zip(groups, marks, strict=False)}
            marks = [mine.get(id(group)) for group in groups]
        result = []
        for index, (group, mark) in enumerate(zip(groups, marks, strict=True)):
            if mark is None or "initial_lr" not in group:
                mark = self._first_mark(index, building)
            mark.group = group
            result.append(mark)
        self._marks = result
        return result

    def _first_mark(self, index: int, building: bool) -> Mark:
        """Return the mark of a group that this scheduler has not written to yet: what stands there if nobody has."""
        group = self.optimizer.param_groups[index]
        scheduled = "initial_lr" in group
        base = number(_initial_lr(group))
        if self.last_epoch < 0 or not scheduled:
            zeros = self._zeros(index) if number(group["lr"]) == 0 else []
            factor = zeros[0][1].factor if zeros else 1.0  # behind the zero is what they know of others
            return Mark(group, base, 1.0, stored(base * factor, group["lr"]), factor)
        places = [self._place(index, self.last_epoch), self._place(index, self.last_epoch + 1)]
        if building:  # in a run that goes on behind last_epoch the rate of the next step is already set
            places.reverse()
        rate, other = (stored(self._rate(base, place), group["lr"]) for place in places)
        return Mark(group, base, places[0], rate, known=(other, base))

    def _factor(self, mark: Mark) -> float:
        """Return what others have done to the rate of a group until now."""
        found = mark.number("lr")
        if mark.untouched(found, (mark.rate, *mark.known)):
            return mark.factor
        base, left = mark.number("initial_lr"), mark.rate
        if base != mark.base:
            left = stored(self._rate(base, mark.place) * mark.factor, mark.group["lr"])
        return mark.factor * multiple(found, left)

    def _observe(self, mark: Mark) -> None:
        """Take what is found in the group for what was set, and what others have done to it into the factor."""
        found = mark.number("lr")
        if not held(found, mark.rate):
            mark.factor = self._factor(mark)
            mark.rate, mark.base, mark.known = found, mark.number("initial_lr"), ()

    def _moves(self) -> list[_Move]:
        moves = []
        for index, (mark, place) in enumerate(zip(self._aligned(), self._places(), strict=True)):
            base, factor = mark.number("initial_lr"), self._factor(mark)
            found = mark.number("lr")
            is_held = held(found, mark.rate) or (
                found == 0 == mark.rate and any(other._active for other, _ in self._zeros(index))
            )
            moves.append(_Move(mark, base, place, factor, self._rate(base, place) * factor, is_held))
        return moves

    def _zeros(self, index: int) -> list[tuple["ScheduleLR", Mark]]:
        """Return the other schedulers of this module on the optimizer whose schedules say 0 for a group."""
        others = [other for other in self._company().members - {self} if other.last_epoch >= 0]
        marks = [(other, mark) for other in others for mark in (other._marks or ())[index : index + 1]]
        return [(other, mark) for other, mark in marks if mark.rate == 0]

    def _read_torchs(self, mark: Mark, rate: float, base: float) -> None:
        """Find the factor in the rate that a scheduler of torch has set last; its recursion may have rounded it."""
        expected = self._rate(base, mark.place)
        mark.known = (rate,)
        if not math.isclose(rate, expected, rel_tol=1e-6):
            mark.factor = multiple(rate, expected)
            if mark.factor != 1:
                mark.known, mark.rate = (mark.rate,), rate

    def _rate(self, base_lr: float, place: float) -> float:
        return base_lr * place

    def _place(self, index: int, step: int) -> float:
        schedule = self.schedule[index] if isinstance(self.schedule, list) else self.schedule
        return _value(schedule, step)

    def _places(self) -> list[float]:
        """Return the value of the schedule at ``last_epoch`` for each param group."""
        groups = self.optimizer.param_groups
        if not isinstance(self.schedule, list):
            return [_value(self.schedule, self.last_epoch)] * len(groups)
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
        return [_value(schedule, self.last_epoch) for schedule in self.schedule]


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


class SequentialLR(lr_scheduler.SequentialLR):
    """Follow several schedulers one after the other, each from its own step 0 at its milestone.

    Torch's class, its arguments and its checkpoints, with four things mended: ``last_epoch=N`` goes on behind step
    ``N`` (torch's starts the first scheduler again); a ``ChainedScheduler`` may stand in any place (torch's raises
    behind the first); what others have done to the rate stays done at a milestone, as in :class:`ScheduleLR`; and the
    optimizer may be loaded before or after it is built. The members may be of this module, of torch or of any other.

    Args:
        optimizer: The optimizer whose rates are set.
        schedulers: The schedulers, in the order of their turns.
        milestones: The steps at which the second and the later ones begin.
        last_epoch: The last step of an earlier run, to go on behind it. Members that have no closed form are stepped
            to their place.

    Raises:
        TypeError: A scheduler has no optimizer.
        ValueError: The numbers of schedulers and milestones do not fit, the schedulers have several optimizers, one is
            a ``ReduceLROnPlateau``, or ``last_epoch`` is below -1.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> parts = [LinearLR(optimizer, 0.5, total_iters=2), ExponentialLR(optimizer, gamma=0.5)]
    >>> scheduler = SequentialLR(optimizer, parts, milestones=[2])
    >>> for _ in range(5):
    ...     print(round(scheduler.get_last_lr()[0], 4), end=" ")
    ...     optimizer.step()
    ...     scheduler.step()
    0.05 0.075 0.1 0.05 0.025
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ) -> None:
        last_epoch = _checked_last_epoch(last_epoch)
        with catch_warnings():
            simplefilter("ignore")  # torch's steps a ChainedScheduler here, before any step of the optimizer
            super().__init__(optimizer, schedulers, milestones)
        self._start(bisect_right(milestones, 0), [1.0] * len(optimizer.param_groups))
        if last_epoch >= 0:
            self._go_to(last_epoch + 1)
        self._leave([1.0] * len(optimizer.param_groups))

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step the scheduler whose turn it is, or begin with the next one."""
        factors = self._present_factors()
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            self._start(index, factors)
        else:
            self._schedulers[index].step()
        self._leave(factors)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with those of the members."""
        rates = [number(group["lr"]) for group in self.optimizer.param_groups]
        return {**super().state_dict(), "_factors": self._present_factors(), "_left": rates, "_last_lr": rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state and set the rates as they were saved; the optimizer's may be loaded before or after this."""
        groups = self.optimizer.param_groups
        self._factors = [1.0] * len(groups)
        super().load_state_dict(state_dict)
        rates = _numbers("_last_lr", state_dict.get("_last_lr"))
        if len(rates) == len(groups):
            for group, rate in zip(groups, rates, strict=True):
                put(group, rate)
        self._leave([float(factor) for factor in self._factors])

    def _present_factors(self) -> list[float]:
        """Return for each param group what others have done since the first step: to what the last step left."""
        groups = self.optimizer.param_groups
        factors = []
        for index, group in enumerate(groups):
            found = number(group["lr"])
            factor, left = (self._factors[index], self._left[index]) if index < len(self._left) else (1.0, found)
            factors.append(factor * (1.0 if found == stored(left, group["lr"]) else multiple(found, left)))
        return factors

    def _leave(self, factors: list[float]) -> None:
        groups = self.optimizer.param_groups
        self._factors, self._left = factors, [number(group["lr"]) for group in groups]
        self._last_lr = [copied(group["lr"]) for group in groups]

    def _start(self, index: int, factors: list[float]) -> None:
        """Begin with a member, at the base rates as others have changed them."""
        for group, factor in zip(self.optimizer.param_groups, factors, strict=True):
            initial_lr = _initial_lr(group)
            put(group, initial_lr if factor == 1 else initial_lr * factor)
        _start(self._schedulers[index])

    def _go_to(self, step: int) -> None:
        index = bisect_right(self._milestones, step)
        if index != bisect_right(self._milestones, 0):
            self._start(index, [1.0] * len(self.optimizer.param_groups))
        self.last_epoch = step
        _advance(self._schedulers[index], step - (self._milestones[index - 1] if index else 0))


def _start(scheduler: Any) -> None:
    """Put a scheduler, or all that it holds, to its step 0, over the rates that stand in the groups."""
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        scheduler.last_epoch = 0
        _start(scheduler._schedulers[bisect_right(scheduler._milestones, 0)])
        if isinstance(scheduler, SequentialLR):
            scheduler._leave([1.0] * len(scheduler.optimizer.param_groups))
    elif hasattr(scheduler, "_schedulers"):
        for each in scheduler._schedulers:
            _start(each)
    else:
        scheduler.last_epoch = -1
        if isinstance(scheduler, ScheduleLR):
            scheduler._update_lr()
        else:
            scheduler._initial_step()


def _advance(scheduler: Any, steps: int) -> None:
    """Make the steps that a scheduler, or each that it holds, has behind it."""
    if isinstance(scheduler, lr_scheduler.ChainedScheduler):
        for each in scheduler._schedulers:
            _advance(each, steps)
    elif isinstance(scheduler, SequentialLR):
        scheduler._go_to(steps)
    elif isinstance(scheduler, ScheduleLR):
        scheduler._update_lr(steps)
    else:
        with catch_warnings():
            simplefilter("ignore")  # the optimizer's steps were made in the earlier run
            for _ in range(steps):
                scheduler.step()


def _initial_lr(group: dict[str, Any]) -> float | Tensor:
    """Return a copy of the group's base rate, its lr where it was never scheduled; of the same kind as its lr."""
    if "initial_lr" not in group:
        group["initial_lr"] = copied(group["lr"])
    base_lr = group["initial_lr"]
    return copied(base_lr) if isinstance(group["lr"], Tensor) else number(base_lr)


def _like(rate: float, lr: Any) -> float | Tensor:
    return torch.full_like(lr.detach(), rate) if isinstance(lr, Tensor) else rate


def _numbers(name: str, values: Any) -> list[float]:
    """Return a list of the state as floats."""
    try:
        return [number(value) for value in values or ()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Invalid {name} value: {values!r}; {name} of a scheduler's state must be a list of numbers"
        ) from error


def _value(schedule: Schedule, step: int) -> float:
    factor = schedule(step)
    if not isinstance(factor, Real):
        raise TypeError(f"{schedule!r} returned {factor!r} at step {step}; a schedule must return a plain number")
    if not 0 <= factor < math.inf:
        raise ValueError(f"{schedule!r} returned {factor!r} at step {step}; a factor must be finite and at least 0")
    return float(factor)


def _checked_last_epoch(last_epoch: Any) -> Any:
    return checked("last_epoch", last_epoch, "a step of an earlier run, or -1 for none", low=-1)
