"""Schedules: pure functions from a step to a factor of the learning rate, ``lr = base_lr * schedule(step)``.

A schedule is a frozen dataclass that is called with the step, the number of updates already made (0 at the first one).
It is a closed formula: no state, no recursion, so any step may be asked for in any order, with or without an optimizer.
Schedules compare equal when their options do; they can be hashed, pickled and plotted, and they compose:

>>> schedule = Warmup(500, then=Cosine(10_000))
>>> [schedule(step) for step in (0, 250, 500, 10_500, 99_999)]
[0.0, 0.5, 1.0, 0.0, 0.0]

Those that have an end stay there for good. :class:`optizoo.schedulers.ScheduleLR` applies a schedule, or any other
function ``step -> factor``, to an optimizer. This module needs nothing but the standard library.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Protocol

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "Polynomial",
    "Schedule",
    "Step",
    "Warmup",
    "create",
    "list_schedules",
]


class Schedule(Protocol):
    """What counts as a schedule: a callable that takes the step, from 0, and returns the factor of the base rate."""

    def __call__(self, step: int, /) -> float:
        """Return the factor at ``step``."""
        ...


def checked(
    name: str, value: Any, allowed: str, *, low: float, above: bool = False, high: float = math.inf
) -> int | float:
    """Return a finite number from ``low`` to ``high``, or from above ``low``, as a plain ``int`` or ``float``.

    Args:
        name: The argument, as the caller knows it.
        value: Its value; bools, text, tensors, NaN and infinity are refused.
        allowed: The remedy: what the argument must be, in words.
        low: Lower bound.
        above: Whether the lower bound itself is refused.
        high: Upper bound.

    Raises:
        TypeError: ``value`` is not a real number.
        ValueError: ``value`` is out of range, NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Invalid {name} value: {value!r} of type {type(value).__name__}; {name} must be {allowed}")
    number = int(value) if isinstance(value, Integral) else float(value)
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        raise ValueError(f"Invalid {name} value: {value!r}; {name} must be {allowed}")
    return number


def checked_length(name: str, value: Any) -> int | float:
    """Check a number of steps. It need not be whole: an epoch of 390.625 batches has its end between two steps."""
    return checked(name, value, "a finite number of steps above 0", low=0, above=True)


def checked_factor(name: str, value: Any) -> int | float:
    """Check a factor that may also raise the rate."""
    return checked(name, value, "a finite number, at least 0", low=0)


def checked_fraction(name: str, value: Any) -> int | float:
    """Check a factor that may not raise the rate."""
    return checked(name, value, "a number from 0 to 1", low=0, high=1)


def checked_step(step: Any) -> int | float:
    """Check the step that a schedule is called with."""
    return checked("step", step, "a finite number, at least 0", low=0)


def _keep(schedule: object, **values: Any) -> None:
    """Write checked values to the fields of a frozen dataclass that is still being made."""
    for name, value in values.items():
        object.__setattr__(schedule, name, value)


@dataclass(frozen=True)
class Constant:
    """The same factor for ever, or for the first ``total_steps`` steps and 1 from there on.

    ``schedule(t) = factor`` for ``t < total_steps``, else ``1``.

    Args:
        factor: The factor, at least 0.
        total_steps: Number of steps that it holds for; ``None`` stands for ever.

    Raises:
        TypeError: An option is not a number.
        ValueError: An option is out of range, NaN or infinite.

    >>> Constant()(1000)
    1.0
    >>> [Constant(0.5, total_steps=2)(step) for step in range(4)]
    [0.5, 0.5, 1.0, 1.0]
    """

    factor: float = 1.0
    total_steps: float | None = None

    def __post_init__(self) -> None:
        _keep(self, factor=checked_factor("factor", self.factor))
        if self.total_steps is not None:
            _keep(self, total_steps=checked_length("total_steps", self.total_steps))

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        step = checked_step(step)
        if self.total_steps is not None and step >= self.total_steps:
            return 1.0
        return float(self.factor)


@dataclass(frozen=True)
class Step:
    """Multiply by ``gamma`` once every ``period`` steps: ``schedule(t) = gamma ** floor(t / period)``.

    Args:
        period: Number of steps between two cuts (``step_size`` in torch).
        gamma: What each cut multiplies by, at least 0.

    Raises:
        TypeError: An option is not a number.
        ValueError: An option is out of range, NaN or infinite.

    >>> [Step(30, gamma=0.5)(step) for step in (0, 29, 30, 60, 90)]
    [1.0, 1.0, 0.5, 0.25, 0.125]
    """

    period: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _keep(self, period=checked_length("period", self.period), gamma=checked_factor("gamma", self.gamma))

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        return float(self.gamma) ** (checked_step(step) // self.period)


@dataclass(frozen=True)
class MultiStep:
    """Multiply by ``gamma`` at each milestone: ``schedule(t) = gamma ** (number of milestones <= t)``.

    Args:
        milestones: The steps of the cuts, at least 0 each; kept as a sorted tuple. One given twice cuts twice.
        gamma: What each cut multiplies by, at least 0.

    Raises:
        TypeError: ``milestones`` is not an iterable of numbers, or ``gamma`` not a number.
        ValueError: An option is out of range, NaN or infinite.

    >>> [MultiStep([30, 60], gamma=0.5)(step) for step in (29, 30, 59, 60, 90)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    milestones: Sequence[float]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.milestones, (str, bytes, Mapping)) or not isinstance(self.milestones, Iterable):
            raise TypeError(
                f"Invalid milestones value: {self.milestones!r}; milestones must be several steps, such as (30, 60, 90)"
            )
        milestones = (checked_factor(f"milestones[{index}]", item) for index, item in enumerate(self.milestones))
        _keep(self, milestones=tuple(sorted(milestones)), gamma=checked_factor("gamma", self.gamma))

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        step = checked_step(step)
        return float(self.gamma) ** sum(milestone <= step for milestone in self.milestones)


@dataclass(frozen=True)
class Exponential:
    """Multiply by ``gamma`` at every step: ``schedule(t) = gamma ** t``.

    Args:
        gamma: What each step multiplies by, at least 0; above 1 the rate grows.

    Raises:
        TypeError: ``gamma`` is not a number.
        ValueError: ``gamma`` is out of range, NaN or infinite.
        OverflowError: From the call, where the factor outgrows a float.

    >>> [Exponential(0.5)(step) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    gamma: float

    def __post_init__(self) -> None:
        _keep(self, gamma=checked_factor("gamma", self.gamma))

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        return float(self.gamma) ** checked_step(step)


@dataclass(frozen=True)
class Linear:
    """Go from ``start`` to ``floor`` in a straight line, then stay at ``floor``.

    ``schedule(t) = start + (floor - start) * t / total_steps`` for ``t < total_steps``, else ``floor``.

    Args:
        total_steps: Number of steps from ``start`` to ``floor``.
        floor: The last factor, at least 0. It may lie above ``start``: then the line climbs.
        start: The first factor, at least 0.

    Raises:
        TypeError: An option is not a number.
        ValueError: An option is out of range, NaN or infinite.

    >>> [Linear(4)(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    total_steps: float
    floor: float = 0.0
    start: float = 1.0

    def __post_init__(self) -> None:
        _keep(self, total_steps=checked_length("total_steps", self.total_steps))
        _keep(self, floor=checked_factor("floor", self.floor), start=checked_factor("start", self.start))

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        step = checked_step(step)
        if step >= self.total_steps:
            return float(self.floor)
        return self.start + (self.floor - self.start) * step / self.total_steps


@dataclass(frozen=True)
class Cosine:
    """Go from 1 to ``floor`` along half a cosine wave, then stay at ``floor`` (Loshchilov & Hutter 2017, equation 5).

    ``schedule(t) = floor + (1 - floor) * (1 + cos(pi * t / total_steps)) / 2`` for ``t < total_steps``, else ``floor``.
    Source: https://arxiv.org/abs/1608.03983, without its restarts.

    Args:
        total_steps: Number of steps from 1 to ``floor``.
        floor: The last factor, from 0 to 1.

    Raises:
        TypeError: An option is not a number.
        ValueError: An option is out of range, NaN or infinite.

    >>> [round(Cosine(4, floor=0.5)(step), 3) for step in range(6)]
    [1.0, 0.927, 0.75, 0.573, 0.5, 0.5]
    """

    total_steps: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        _keep(
            self,
            total_steps=checked_length("total_steps", self.total_steps),
            floor=checked_fraction("floor", self.floor),
        )

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        step = checked_step(step)
        if step >= self.total_steps:
            return float(self.floor)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * step / self.total_steps)) / 2


@dataclass(frozen=True)
class Polynomial:
    """Go from 1 to ``floor`` along a power of the steps that are left, then stay at ``floor``.

    ``schedule(t) = floor + (1 - floor) * (1 - t / total_steps) ** power`` for ``t < total_steps``, else ``floor``.
    Known as the "poly" policy of DeepLab (https://arxiv.org/abs/1606.00915), which takes ``power=0.9``.

    Args:
        total_steps: Number of steps from 1 to ``floor``.
        power: The exponent, above 0; 1 is a straight line.
        floor: The last factor, from 0 to 1.

    Raises:
        TypeError: An option is not a number.
        ValueError: An option is out of range, NaN or infinite.

    >>> [Polynomial(4, power=2)(step) for step in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    total_steps: float
    power: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _keep(
            self,
            total_steps=checked_length("total_steps", self.total_steps),
            floor=checked_fraction("floor", self.floor),
        )
        _keep(self, power=checked("power", self.power, "a finite number above 0", low=0, above=True))

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        step = checked_step(step)
        if step >= self.total_steps:
            return float(self.floor)
        return self.floor + (1 - self.floor) * (1 - step / self.total_steps) ** self.power


@dataclass(frozen=True)
class InverseSqrt:
    """Fall with the inverse square root of the step: ``schedule(t) = sqrt(timescale / (timescale + t))``, 1 at step 0.

    After a warm-up of the same length it is the Transformer's schedule (Vaswani et al. 2017, equation 3,
    https://arxiv.org/abs/1706.03762) with its peak scaled to 1: ``Warmup(n, then=InverseSqrt(n))`` is ``t / n`` up to
    step ``n`` and ``sqrt(n / t)`` from there on.

    Args:
        timescale: Number of steps that the fall is measured in: after ``3 * timescale`` steps the factor is 1/2.

    Raises:
        TypeError: ``timescale`` is not a number.
        ValueError: ``timescale`` is not above 0, NaN or infinite.

    >>> [Warmup(4000, then=InverseSqrt(4000))(step) for step in (0, 2000, 4000, 16_000)]
    [0.0, 0.5, 1.0, 0.5]
    """

    timescale: float

    def __post_init__(self) -> None:
        _keep(self, timescale=checked_length("timescale", self.timescale))

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        return math.sqrt(self.timescale / (self.timescale + checked_step(step)))


@dataclass(frozen=True)
class Warmup:
    """Climb from ``start`` to exactly 1 in a straight line, then follow another schedule from that one's own step 0.

    ``schedule(t) = start + (1 - start) * t / steps`` for ``t < steps``, else ``then(t - steps)``. So the whole takes
    ``steps`` more than ``then`` alone, and at step ``steps`` it is ``then(0)``: exactly 1 where ``then`` begins at 1,
    as those of this module do by default. Source: https://arxiv.org/abs/1706.02677, section 2.2 ("gradual warmup").

    Args:
        steps: Number of steps of the climb.
        then: What follows: a schedule of this module or any other callable ``step -> factor``. The default stays at 1.
        start: The first factor, from 0 to 1. At 0 the first update leaves the parameters where they are.

    Raises:
        TypeError: An option is not a number, or ``then`` cannot be called.
        ValueError: An option is out of range, NaN or infinite.

    >>> schedule = Warmup(2, then=Linear(4))
    >>> [schedule(step) for step in range(8)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    steps: float
    then: Schedule = Constant()
    start: float = 0.0

    def __post_init__(self) -> None:
        _keep(self, steps=checked_length("steps", self.steps), start=checked_fraction("start", self.start))
        if not callable(self.then):
            raise TypeError(
                f"Invalid then value: {self.then!r}; then must be a schedule, such as Cosine(10_000), "
                "or any other callable step -> factor"
            )

    def __call__(self, step: float) -> float:
        """Return the factor at ``step``."""
        step = checked_step(step)
        if step >= self.steps:
            return self.then(step - self.steps)  # pyright: ignore[reportArgumentType] (whole if both are)
        return self.start + (1 - self.start) * step / self.steps


_BY_NAME: dict[str, type] = {
    "constant": Constant,
    "cosine": Cosine,
    "exponential": Exponential,
    "inverse_sqrt": InverseSqrt,
    "linear": Linear,
    "multistep": MultiStep,
    "polynomial": Polynomial,
    "step": Step,
    "warmup": Warmup,
}


def list_schedules() -> list[str]:
    """Return the names that :func:`create` knows, sorted.

    >>> list_schedules()
    ['constant', 'cosine', 'exponential', 'inverse_sqrt', 'linear', 'multistep', 'polynomial', 'step', 'warmup']
    """
    return sorted(_BY_NAME)


def create(name: str, **options: Any) -> Schedule:
    """Make a schedule by name, as configs and scripts do.

    Args:
        name: One of :func:`list_schedules`.
        **options: The options of the schedule. ``then`` of a warm-up may be a mapping: a ``name`` and its options.

    Raises:
        TypeError: An option is missing, has the wrong type, or is none of the schedule's.
        ValueError: The name is unknown, or an option is out of range.

    >>> create("cosine", total_steps=10_000)
    Cosine(total_steps=10000, floor=0.0)
    >>> create("warmup", steps=500, then={"name": "linear", "total_steps": 1000})
    Warmup(steps=500, then=Linear(total_steps=1000, floor=0.0, start=1.0), start=0.0)
    >>> create("cosin", total_steps=10_000)
    Traceback (most recent call last):
    ValueError: Unknown schedule 'cosin'; did you mean 'cosine'? Known: constant, cosine, exponential, ...
    """
    if name not in _BY_NAME:
        raise ValueError(f"Unknown schedule {name!r}; {_did_you_mean(name, list_schedules())}")
    known = [field.name for field in fields(_BY_NAME[name])]
    for option, value in options.items():
        if option not in known:
            near = _did_you_mean(option, known)
            raise TypeError(f"Unknown option {option!r} = {value!r} of schedule {name!r}; {near}")
    then = options.get("then")
    if isinstance(then, Mapping):
        if "name" not in then:
            raise TypeError(f"Invalid then value: {then!r}; a mapping needs the schedule's name, such as name='cosine'")
        options["then"] = create(**then)
    return _BY_NAME[name](**options)


def _did_you_mean(name: object, known: list[str]) -> str:
    near = get_close_matches(str(name).lower(), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(known)}"
