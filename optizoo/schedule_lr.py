"""The scheduler under all of ours: a schedule, and what others have done to the rate.

The contract stands in :mod:`optizoo.schedulers`.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from optizoo.rates import Mark, copied, held, initial_lr, multiple, number, numbers, stored
from optizoo.schedules import Schedule, checked

__all__ = ["ScheduleLR", "checked_last_epoch"]


@dataclass(slots=True)
class _Move:
    """What one step does to one param group."""

    mark: Mark
    base: float
    place: float
    factor: float
    rate: float  # what schedule and factor ask for
    found: float  # what stands in the group
    held: bool  # whether others hold the group's rate at 0, so that it stays as it is

    @property
    def value(self) -> float:
        return self.found if self.held else self.rate


_COMPANIES: "WeakKeyDictionary[Optimizer, WeakSet[ScheduleLR]]" = WeakKeyDictionary()  # who shares an optimizer


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
    >>> from optizoo.schedules import Cosine, Exponential, Warmup
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
        super().__init__(optimizer, checked_last_epoch(last_epoch))

    @property
    def base_lrs(self) -> list[float | Tensor]:
        """The rates that the schedule multiplies; they live in the param groups as ``initial_lr``."""
        return [initial_lr(group) for group in self.optimizer.param_groups]

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
        if self.last_epoch < 0:  # one that waits for its turn in a SequentialLR
            return {"last_epoch": self.last_epoch}
        marks = self._aligned()
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
        last_epoch = checked_last_epoch(state_dict["last_epoch"])
        factors, rates, bases = (numbers(name, state_dict.get(name)) for name in ("factors", "_last_lr", "base_lrs"))
        waiting = last_epoch < 0  # for its turn in a SequentialLR
        groups = self.optimizer.param_groups
        marks = []
        for index, (group, place) in enumerate(zip(groups, self._places(max(last_epoch, 0)), strict=True)):
            base = number(initial_lr(group))
            factor = factors[index] if index < len(factors) else 1.0
            mark = Mark(group, base, place, stored(self._rate(base, place) * factor, group["lr"]), factor)
            value = mark.rate
            if index < len(rates) and "factors" in state_dict:
                value = rates[index]
                if not held(value, mark.rate):
                    mark.rate, mark.known = value, (mark.rate,)
            elif index < len(rates):
                self._read_torchs(mark, rates[index], bases[index] if index < len(bases) else base)
                value = mark.rate
            marks.append(mark)
            if not waiting:
                mark.write(value)
        self.last_epoch, self._step_count, self._marks = last_epoch, int(last_epoch) + 1, marks
        if not waiting:
            self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied optimizer has lost the wrapper by which torch sees that optimizer.step() came first, and torch would
        # warn of it at the next step. From a count of 2 on it does not look.
        self.__dict__.update({"_marks": [], **state})
        self._step_count = max(self._step_count, 2)
        self._company()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Go to the next step or to ``epoch``, and write the rates."""
        fresh = self.last_epoch < 0
        for other in self._others() if fresh else ():
            other._active = False
        if fresh and epoch is None:
            self._marks = None  # built just now, or started again by a SequentialLR that has reset the rates
        marks = self._aligned()
        if fresh and epoch is not None:
            self._take_turn(marks, _former(self, sys._getframe(1)))
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        moves = self._moves()
        values = [move.value for move in moves]
        if type(self).get_lr is not ScheduleLR.get_lr:
            values = [number(value) for value in self.get_lr()]
        self._tell(moves, values)
        self._active = not fresh
        for move, value in zip(moves, values, strict=True):
            mark = move.mark
            mark.write(value)
            mark.base, mark.place, mark.factor, mark.known = move.base, move.place, move.factor, ()
            mark.rate = stored(move.rate if move.held else value, mark.group["lr"])
        self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]

    def _take_turn(self, marks: list[Mark], former: Sequence["ScheduleLR"]) -> None:
        """Begin in a SequentialLR of torch's: with what others have done while the former ones had their turn."""
        for index, mark in enumerate(marks):
            found = mark.number("lr")
            mark.rate, mark.factor, mark.known = found, done_by_others(former, index), ()
            if former and held_by_others(former, index):  # who have not let go
                mark.rate = mark.base

    def _company(self) -> "WeakSet[ScheduleLR]":
        company = _COMPANIES.get(self.optimizer)
        if company is None:
            company = _COMPANIES[self.optimizer] = WeakSet()
        if self not in company:
            company.add(self)
        return company

    def _others(self) -> list["ScheduleLR"]:
        company = self._company()
        return [other for other in company if other is not self] if len(company) > 1 else []

    def _tell(self, moves: list[_Move], values: list[float]) -> None:
        """Tell the others of this module on the optimizer what they cannot see in its rates.

        In a rate of 0 they see no ratio, so where one is found, or set now, or said by their own schedule, they are
        told of this step; a schedule that says 0 counts there as 1, until it says something else.
        """
        for other in self._others():
            if other.last_epoch < 0 or len(other._marks or ()) != len(moves):
                continue
            for index, (move, mark) in enumerate(zip(moves, other._marks or (), strict=True)):
                if not (move.found and values[index] and mark.rate):
                    mark.group = move.mark.group
                    other._observe(mark)
                    now, before = self._rate(move.base, move.place), self._rate(move.mark.base, move.mark.place)
                    ratio = multiple(now or move.base, before or move.mark.base)
                    mark.factor, mark.rate = mark.factor * ratio, mark.rate * ratio

    def _aligned(self) -> list[Mark]:
        """Return the marks, one for each param group, after groups were added, removed, loaded or exchanged."""
        groups = self.optimizer.param_groups
        building, marks = self._marks is None, self._marks or []
        if len(marks) == len(groups) and all(
            mark.group is group and "initial_lr" in group for mark, group in zip(marks, groups, strict=True)
        ):
            return marks
        mine = {id(mark.group): mark for mark in marks}
        kept = {id(group) for group in groups} & set(mine)
        by_place = len(marks) == len(groups) or not kept  # other dicts, loaded or put in the place of the former
        result = []
        for index, group in enumerate(groups):
            mark = mine.get(id(group))
            if mark is None and by_place and index < len(marks) and id(marks[index].group) not in kept:
                mark = marks[index]
            if mark is None or "initial_lr" not in group:
                mark = self._first_mark(index, building)
            result.append(mark)
        for group, mark in zip(groups, result, strict=True):
            mark.group = group
        self._marks = result
        return result

    def _first_mark(self, index: int, building: bool) -> Mark:
        """Return the mark of a group that this scheduler has not written to yet: what stands there if nobody has."""
        group = self.optimizer.param_groups[index]
        scheduled = "initial_lr" in group
        base = number(initial_lr(group))
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
        if found == mark.rate or mark.untouched(found, (mark.rate, *mark.known)):
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
        for index, (mark, place) in enumerate(zip(self._aligned(), self._places(self.last_epoch), strict=True)):
            base, factor, found = mark.number("initial_lr"), self._factor(mark), mark.number("lr")
            is_held = held(found, mark.rate) or (
                found == 0 == mark.rate and any(other._active for other, _ in self._zeros(index))
            )
            moves.append(_Move(mark, base, place, factor, self._rate(base, place) * factor, found, is_held))
        return moves

    def _zeros(self, index: int) -> list[tuple["ScheduleLR", Mark]]:
        """Return the other schedulers of this module on the optimizer whose schedules say 0 for a group."""
        others = [other for other in self._others() if other.last_epoch >= 0]
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

    def _places(self, step: int) -> list[float]:
        """Return the value of the schedule at a step for each param group."""
        groups = self.optimizer.param_groups
        if not isinstance(self.schedule, list):
            return [_value(self.schedule, step)] * len(groups)
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
        return [_value(schedule, step) for schedule in self.schedule]


def leaves(scheduler: Any) -> list[Any]:
    """Return the schedulers that a chain, or a chain of chains, holds; one that holds none is its own leaf."""
    if isinstance(scheduler, lr_scheduler.ChainedScheduler):
        return [leaf for each in scheduler._schedulers for leaf in leaves(each)]
    return [scheduler]


def done_by_others(schedulers: Sequence[ScheduleLR], index: int) -> float:
    """Return what others than these, which are stepped together, have done to the rate of a param group."""
    factor = 1.0
    for scheduler in schedulers:
        mark = scheduler._aligned()[index]
        if scheduler is schedulers[0]:
            factor = scheduler._factor(mark)
        else:  # its part is in the factor of the first
            factor /= multiple(scheduler._rate(mark.base, mark.place), mark.base)
    return factor


def held_by_others(schedulers: Sequence[ScheduleLR], index: int) -> bool:
    """Return whether others than these, which are stepped together, hold the rate of a param group at 0."""
    marks = [scheduler._aligned()[index] for scheduler in schedulers]
    return all(held(mark.number("lr"), mark.rate) for mark in marks)


def _former(scheduler: ScheduleLR, caller: FrameType | None) -> list[ScheduleLR]:
    """Return those of this module that had their turn before ``scheduler`` in the SequentialLR of torch's that calls.

    Torch's class gives the turn with ``_update_lr(0)`` and says no more, so the members are read from its frame. Where
    there is none, or members are torch's, whose part nobody can tell, the rates begin at the base rates, as torch's do.
    """
    sequence = caller.f_locals.get("self") if caller else None
    if not isinstance(sequence, lr_scheduler.SequentialLR):
        return []
    places = [place for place, each in enumerate(sequence._schedulers) if scheduler in leaves(each)]
    former = leaves(sequence._schedulers[places[0] - 1]) if places and places[0] else []
    return former if all(isinstance(each, ScheduleLR) for each in former) else []


def _like(rate: float, lr: Any) -> float | Tensor:
    return torch.full_like(lr.detach(), rate) if isinstance(lr, Tensor) else rate


def _value(schedule: Schedule, step: int) -> float:
    factor = schedule(step)
    if not isinstance(factor, Real):
        raise TypeError(f"{schedule!r} returned {factor!r} at step {step}; a schedule must return a plain number")
    if not 0 <= factor < math.inf:
        raise ValueError(f"{schedule!r} returned {factor!r} at step {step}; a factor must be finite and at least 0")
    return float(factor)


def checked_last_epoch(last_epoch: Any) -> Any:
    """Check ``last_epoch``, of a constructor or a state."""
    return checked("last_epoch", last_epoch, "a step of an earlier run, or -1 for none", low=-1)
