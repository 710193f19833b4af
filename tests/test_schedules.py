"""Schedules are pure closed formulas: their values, their ends, what they refuse, how they are named and composed."""

import dataclasses
import math
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optizoo import schedules
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
)

EVERY = [
    pytest.param(Constant(), id="constant"),
    pytest.param(Constant(0.5, total_steps=7), id="constant-then-1"),
    pytest.param(Step(30, gamma=0.5), id="step"),
    pytest.param(MultiStep((30, 60, 90)), id="multistep"),
    pytest.param(Exponential(0.9), id="exponential"),
    pytest.param(Linear(100, floor=0.1), id="linear"),
    pytest.param(Linear(100, floor=1.0, start=0.25), id="linear-climbing"),
    pytest.param(Cosine(100, floor=0.1), id="cosine"),
    pytest.param(Polynomial(100, power=0.9, floor=0.1), id="polynomial"),
    pytest.param(InverseSqrt(100), id="inverse_sqrt"),
    pytest.param(Warmup(10), id="warmup"),
    pytest.param(Warmup(10, then=Cosine(100), start=0.1), id="warmup-cosine"),
    pytest.param(Warmup(10, then=Warmup(10, then=Step(5))), id="warmup-warmup-step"),
]

half = math.sqrt(0.5)
VALUES = [
    pytest.param(Constant(), {0: 1.0, 10**9: 1.0}, id="constant"),
    pytest.param(Constant(0.25, total_steps=3), {0: 0.25, 2: 0.25, 3: 1.0, 99: 1.0}, id="constant-then-1"),
    pytest.param(Step(3, gamma=0.5), {0: 1.0, 2: 1.0, 3: 0.5, 5: 0.5, 6: 0.25}, id="step"),
    pytest.param(Step(3, gamma=0), {2: 1.0, 3: 0.0}, id="step-to-zero"),
    pytest.param(MultiStep((2, 5), gamma=0.5), {0: 1.0, 1: 1.0, 2: 0.5, 4: 0.5, 5: 0.25, 99: 0.25}, id="multistep"),
    pytest.param(MultiStep((2, 2), gamma=0.5), {1: 1.0, 2: 0.25}, id="multistep-twice-at-once"),
    pytest.param(MultiStep(()), {0: 1.0, 99: 1.0}, id="multistep-never"),
    pytest.param(Exponential(0.5), {0: 1.0, 1: 0.5, 10: 2.0**-10}, id="exponential"),
    pytest.param(Exponential(2), {3: 8.0}, id="exponential-growing"),
    pytest.param(Linear(4), {0: 1.0, 1: 0.75, 3: 0.25, 4: 0.0, 99: 0.0}, id="linear"),
    pytest.param(Linear(4, floor=1.0, start=0.0), {0: 0.0, 1: 0.25, 4: 1.0, 99: 1.0}, id="linear-climbing"),
    pytest.param(Cosine(4), {0: 1.0, 1: (1 + half) / 2, 2: 0.5, 3: (1 - half) / 2, 4: 0.0, 99: 0.0}, id="cosine"),
    pytest.param(Cosine(2, floor=0.5), {0: 1.0, 1: 0.75, 2: 0.5, 3: 0.5}, id="cosine-floor"),
    pytest.param(Cosine(2.5), {0: 1.0, 2: (1 + math.cos(0.8 * math.pi)) / 2, 3: 0.0}, id="cosine-ends-between-steps"),
    pytest.param(Polynomial(4, power=2), {0: 1.0, 1: 0.5625, 2: 0.25, 4: 0.0, 99: 0.0}, id="polynomial"),
    pytest.param(Polynomial(4, floor=0.5), {0: 1.0, 2: 0.75, 4: 0.5, 99: 0.5}, id="polynomial-floor"),
    pytest.param(InverseSqrt(100), {0: 1.0, 300: 0.5, 1500: 0.25}, id="inverse_sqrt"),
    pytest.param(Warmup(4), {0: 0.0, 1: 0.25, 3: 0.75, 4: 1.0, 99: 1.0}, id="warmup"),
    pytest.param(Warmup(2, start=0.5), {0: 0.5, 1: 0.75, 2: 1.0}, id="warmup-start"),
    pytest.param(Warmup(2, then=Linear(4)), {1: 0.5, 2: 1.0, 3: 0.75, 6: 0.0, 99: 0.0}, id="warmup-linear"),
    pytest.param(Warmup(100, then=InverseSqrt(100)), {0: 0.0, 50: 0.5, 100: 1.0, 400: 0.5}, id="transformer"),
    pytest.param(Warmup(2, then=lambda step: 7.0 + step), {1: 0.5, 2: 7.0, 3: 8.0}, id="warmup-any-callable"),
]


@pytest.mark.parametrize(("schedule", "expected"), VALUES)
def test_value_is_the_formula_at_the_step(schedule: Schedule, expected: dict[int, float]):
    """A schedule returns its documented formula, within one rounding, in whatever order its steps are asked for."""
    backwards = {step: schedule(step) for step in reversed(expected)}
    assert backwards == pytest.approx(expected, rel=2e-16, abs=1e-16)


@pytest.mark.parametrize("schedule", EVERY)
def test_value_is_a_plain_float(schedule: Schedule):
    """Factors are Python floats at the start, in the middle and past the end, so that rates made of them are too."""
    assert {type(schedule(step)) for step in (0, 5, 10, 50, 1000)} == {float}


@pytest.mark.parametrize("schedule", EVERY)
def test_schedule_is_a_value(schedule: Schedule):
    """Schedules can be pickled, hashed, compared and not changed."""
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule
    assert hash(twin) == hash(schedule)
    assert twin is not schedule
    first = dataclasses.fields(schedule)[0].name  # pyright: ignore[reportArgumentType]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, first, 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(Cosine(10), Cosine(11), id="length"),
        pytest.param(Cosine(10), Cosine(10, floor=0.1), id="floor"),
        pytest.param(Cosine(10), Linear(10), id="kind"),
        pytest.param(Warmup(10, then=Cosine(10)), Warmup(10, then=Linear(10)), id="then"),
    ],
)
def test_schedules_with_other_options_differ(one: Schedule, other: Schedule):
    """Schedules are equal only if kind and all options are."""
    assert one != other


def test_milestones_are_a_sorted_tuple():
    """Milestones come in any order and any iterable, as in configs, and are kept hashable."""
    assert MultiStep([60, 30]).milestones == (30, 60)
    assert MultiStep([60, 30]) == MultiStep((30, 60))
    assert hash(MultiStep([60, 30])) == hash(MultiStep((30, 60)))


lengths = st.integers(1, 10**6) | st.floats(1e-3, 1e6)
floors = st.floats(0, 1)
falling = (
    st.builds(Linear, lengths, floors)
    | st.builds(Cosine, lengths, floors)
    | st.builds(Polynomial, lengths, st.floats(0.1, 5), floors)
)


@settings(deadline=None)
@given(schedule=falling, beyond=st.integers(0, 10**9))
def test_end_is_exactly_the_floor_and_lasts(schedule: Cosine | Linear | Polynomial, beyond: int):
    """Cosine, linear and polynomial start at exactly 1 and stay at exactly their floor from their end on."""
    assert schedule(0) == 1.0
    assert schedule(schedule.total_steps) == schedule.floor
    assert schedule(schedule.total_steps + beyond) == schedule.floor


@settings(deadline=None)
@given(schedule=falling, fraction=st.floats(0, 1))
def test_falling_schedules_stay_between_floor_and_one(schedule: Cosine | Linear | Polynomial, fraction: float):
    """No rounding brings a factor under the floor or over 1 by more than one ulp."""
    assert schedule.floor - 2**-52 <= schedule(fraction * schedule.total_steps) <= 1 + 2**-52


@settings(deadline=None)
@given(steps=st.integers(1, 10**6), then=falling)
def test_warmup_goes_from_exactly_zero_to_exactly_one(steps: int, then: Cosine | Linear | Polynomial):
    """A warm-up is exactly 0 at step 0, exactly 1 at its end, and then the next schedule, counted from there."""
    schedule = Warmup(steps, then=then)
    assert schedule(0) == 0.0
    assert schedule(steps) == 1.0
    assert schedule(steps + 17) == then(17)


@settings(deadline=None)
@given(warmup_steps=st.integers(1, 10**5), step=st.integers(1, 10**6))
def test_warmup_then_inverse_sqrt_is_the_transformers(warmup_steps: int, step: int):
    """A warm-up and an inverse square root of one length give Vaswani's min(t^-1/2, t n^-3/2) with a peak of 1."""
    paper = min(step**-0.5, step * warmup_steps**-1.5) * warmup_steps**0.5
    assert Warmup(warmup_steps, then=InverseSqrt(warmup_steps))(step) == pytest.approx(paper, rel=1e-14)


BAD_LENGTHS = [
    pytest.param(0, ValueError, id="zero"),
    pytest.param(-5, ValueError, id="negative"),
    pytest.param(math.nan, ValueError, id="nan"),
    pytest.param(math.inf, ValueError, id="inf"),
    pytest.param(True, TypeError, id="bool"),
    pytest.param("100", TypeError, id="text"),
    pytest.param(None, TypeError, id="none"),
    pytest.param(1j, TypeError, id="complex"),
]
LENGTHS = [
    pytest.param(Step, "period", id="step"),
    pytest.param(Linear, "total_steps", id="linear"),
    pytest.param(Cosine, "total_steps", id="cosine"),
    pytest.param(Polynomial, "total_steps", id="polynomial"),
    pytest.param(InverseSqrt, "timescale", id="inverse_sqrt"),
    pytest.param(Warmup, "steps", id="warmup"),
]


@pytest.mark.parametrize(("value", "error"), BAD_LENGTHS)
@pytest.mark.parametrize(("kind", "name"), LENGTHS)
def test_bad_length_is_refused(kind: type, name: str, value: object, error: type[Exception]):
    """A length that is not a finite number above 0 raises when the schedule is made, with name, value and remedy."""
    with pytest.raises(
        error, match=f"Invalid {name} value: .*; {name} must be a finite number of steps above 0"
    ) as info:
        kind(**{name: value})
    assert repr(value) in str(info.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: Constant(-0.5), "factor value: -0.5; factor must be a finite number, at least 0", id="factor"
        ),
        pytest.param(lambda: Constant(total_steps=0), "total_steps value: 0", id="constant-length"),
        pytest.param(lambda: Step(30, gamma=-0.1), "gamma value: -0.1", id="step-gamma"),
        pytest.param(lambda: MultiStep((30,), gamma=math.nan), "gamma value: nan", id="multistep-gamma"),
        pytest.param(lambda: MultiStep((30, -60)), r"milestones\[1\] value: -60", id="milestone"),
        pytest.param(lambda: Exponential(math.inf), "gamma value: inf", id="exponential-gamma"),
        pytest.param(lambda: Linear(10, floor=-1), "floor value: -1", id="linear-floor"),
        pytest.param(lambda: Linear(10, start=math.nan), "start value: nan", id="linear-start"),
        pytest.param(
            lambda: Cosine(10, floor=1.5), "floor value: 1.5; floor must be a number from 0 to 1", id="cosine"
        ),
        pytest.param(
            lambda: Polynomial(10, power=0), "power value: 0; power must be a finite number above 0", id="power"
        ),
        pytest.param(lambda: Polynomial(10, floor=-0.1), "floor value: -0.1", id="polynomial-floor"),
        pytest.param(
            lambda: Warmup(10, start=2), "start value: 2; start must be a number from 0 to 1", id="warmup-start"
        ),
    ],
)
def test_option_out_of_range_is_refused(make, message: str):
    """An option out of range raises ValueError when the schedule is made, with name, value and remedy."""
    with pytest.raises(ValueError, match=f"^Invalid {message}"):
        make()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        pytest.param(Exponential, {"gamma": True}, "gamma value: True of type bool", id="bool"),
        pytest.param(Cosine, {"total_steps": 9, "floor": "0"}, "floor value: '0' of type str", id="text"),
        pytest.param(MultiStep, {"milestones": 30}, "milestones value: 30; .* such as", id="milestones-number"),
        pytest.param(MultiStep, {"milestones": "30"}, "milestones value: '30'; .* such as", id="milestones-text"),
        pytest.param(Warmup, {"steps": 9, "then": 0.5}, "then value: 0.5; .* such as Cosine", id="then"),
    ],
)
def test_option_of_the_wrong_type_is_refused(kind: type, options: dict, message: str):
    """An option of the wrong type raises TypeError when the schedule is made, with name, value and remedy."""
    with pytest.raises(TypeError, match=f"^Invalid {message}"):
        kind(**options)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        pytest.param(-1, ValueError, id="negative"),
        pytest.param(math.nan, ValueError, id="nan"),
        pytest.param(math.inf, ValueError, id="inf"),
        pytest.param(True, TypeError, id="bool"),
        pytest.param("3", TypeError, id="text"),
    ],
)
@pytest.mark.parametrize("schedule", EVERY)
def test_bad_step_is_refused(schedule: Schedule, step, error: type[Exception]):
    """A step that is no finite number of at least 0 raises with name, value and remedy."""
    with pytest.raises(error, match=r"^Invalid step value: .*; step must be a finite number, at least 0"):
        schedule(step)


def test_numbers_of_numpy_are_taken_as_plain_ones():
    """NumPy's numbers serve as options and steps, and what is kept and returned is plain."""
    numpy = pytest.importorskip("numpy")
    schedule = Cosine(numpy.int64(4), floor=numpy.float32(0.5))
    assert repr(schedule) == "Cosine(total_steps=4, floor=0.5)"
    assert [schedule(step) for step in numpy.arange(5)] == [schedule(step) for step in range(5)]
    assert type(schedule(numpy.float32(1))) is float


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        pytest.param("constant", {}, Constant(), id="constant"),
        pytest.param("step", {"period": 30, "gamma": 0.5}, Step(30, 0.5), id="step"),
        pytest.param("multistep", {"milestones": [30, 60]}, MultiStep((30, 60)), id="multistep"),
        pytest.param("exponential", {"gamma": 0.9}, Exponential(0.9), id="exponential"),
        pytest.param("linear", {"total_steps": 9, "start": 0.5}, Linear(9, start=0.5), id="linear"),
        pytest.param("cosine", {"total_steps": 9, "floor": 0.1}, Cosine(9, 0.1), id="cosine"),
        pytest.param("polynomial", {"total_steps": 9, "power": 2}, Polynomial(9, 2), id="polynomial"),
        pytest.param("inverse_sqrt", {"timescale": 9}, InverseSqrt(9), id="inverse_sqrt"),
        pytest.param("warmup", {"steps": 5, "then": Cosine(9)}, Warmup(5, then=Cosine(9)), id="warmup"),
        pytest.param(
            "warmup",
            {"steps": 5, "then": {"name": "warmup", "steps": 2, "then": {"name": "step", "period": 3}}},
            Warmup(5, then=Warmup(2, then=Step(3))),
            id="warmup-of-tables",
        ),
    ],
)
def test_create_makes_the_named_schedule(name: str, options: dict, expected: Schedule):
    """A name and options, as a config holds them, make the schedule, and the caller's options stay as they were."""
    before = repr(options)
    assert schedules.create(name, **options) == expected
    assert repr(options) == before


def test_every_listed_name_is_a_schedule():
    """The list names every schedule of the module, once each."""
    kinds = {getattr(schedules, name) for name in schedules.__all__} - {
        Schedule,
        schedules.create,
        schedules.list_schedules,
    }
    assert {schedules._BY_NAME[name] for name in schedules.list_schedules()} == kinds
    assert len(schedules.list_schedules()) == len(kinds)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        pytest.param(
            "cosin", {}, ValueError, "Unknown schedule 'cosin'; did you mean 'cosine'\\? Known: constant", id="typo"
        ),
        pytest.param("Cosine", {}, ValueError, "did you mean 'cosine'\\?", id="class-name"),
        pytest.param("inverse-sqrt", {}, ValueError, "did you mean 'inverse_sqrt'\\?", id="hyphen"),
        pytest.param("zzz", {}, ValueError, "Unknown schedule 'zzz'; Known: constant, cosine", id="nothing-near"),
        pytest.param(
            "cosine",
            {"total_step": 5},
            TypeError,
            "Unknown option 'total_step' = 5 of schedule 'cosine'; did you mean 'total_steps'\\? Known: total_steps",
            id="option",
        ),
        pytest.param("cosine", {}, TypeError, "total_steps", id="missing-option"),
        pytest.param(
            "warmup", {"steps": 5, "then": {"total_steps": 9}}, TypeError, "needs the schedule's name", id="then"
        ),
        pytest.param("warmup", {"steps": 5, "then": {"name": "lineer"}}, ValueError, "'linear'\\?", id="then-typo"),
    ],
)
def test_create_suggests_the_right_name(name: str, options: dict, error: type[Exception], message: str):
    """An unknown name or option raises and suggests the one that was probably meant."""
    with pytest.raises(error, match=message):
        schedules.create(name, **options)


def test_module_needs_only_the_standard_library():
    """The module's own file runs in an interpreter that sees no installed packages."""
    code = f"import runpy; runpy.run_path({schedules.__file__!r})"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
