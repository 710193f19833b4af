"""PyTorch's own scheduler tests, on optizoo's classes in place of theirs.

What is asked of each is what ``test/optim/test_lrscheduler.py`` of PyTorch asks, with its options, its two groups (a
float lr of 0.05, a tensor lr of 0.5) and its lengths; the rates are held to 1e-12, in the float32 tensor to its last
bits, where PyTorch's are held to 1e-5. Its tests of classes that ``optizoo.lr_scheduler`` takes from torch are torch's
to run. Where ours differs by intent, ``DIFFERENT`` says why, and a test shows what ours does instead.
"""

import copy
import gc
import io
import math
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING
from torch.optim.swa_utils import SWALR

import optizoo
from optizoo.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    InverseSqrtLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
    WarmupLR,
)

WORKS_WITH = "PyTorch's own scheduler tests"
HELD_TO = "1e-12; PyTorch holds them to 1e-5"

DIFFERENT = {
    "test_linearlr_start_factor_limits1": "torch's LinearLR refuses a start factor of 0, ours warms up from 0",
    "test_step_lr_state_dict, test_multi_step_lr_state_dict, test_exp_step_lr_state_dict, test_cosine_lr_state_dict": (
        "torch's state carries the options and replaces those of the program, ours are the program's"
    ),
    "test_closed_form_cos_anneal_lr": "past T_max torch's cosine climbs again, ours has ended",
    "test_compound_cosanneal_*, with an eta_min that is not small": (
        "what others do multiplies eta_min of ours too, torch's keeps it as it is"
    ),
}

FLOAT, TENSOR = 0.05, 0.5


@pytest.fixture(params=[torch.optim.SGD, optizoo.SGD, optizoo.AdamW], ids=["torch-SGD", "SGD", "AdamW"])
def optimizer(request: pytest.FixtureRequest) -> Optimizer:
    """An optimizer, torch's or ours, of a net with a float lr in one group and a tensor lr in the other."""
    return make_optimizer(request.param)


def make_optimizer(kind: Any = torch.optim.SGD) -> Optimizer:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1))
    groups = [{"params": net[0].parameters()}, {"params": net[1].parameters(), "lr": torch.tensor(TENSOR)}]
    return kind(groups, lr=FLOAT)


def assert_rates(optimizer: Optimizer, factor: float, offset: float = 0.0) -> None:
    """Assert that each group's rate is ``offset + factor * (lr - offset)``, and that the kinds are kept."""
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert isinstance(first, float)
    assert isinstance(second, torch.Tensor)
    assert first == pytest.approx(offset + factor * (FLOAT - offset), rel=1e-12, abs=1e-17)
    assert second.item() == pytest.approx(offset + factor * (TENSOR - offset), rel=2e-6, abs=1e-16)


def steps(
    optimizer: Optimizer, schedulers: list[Any], number: int, metrics: list[float] | None = None
) -> Iterator[int]:
    """Make steps, and yield the number of each before it is made; metrics are for a plateau scheduler among them."""
    for step in range(number):
        yield step
        optimizer.step()
        for scheduler in schedulers:
            if metrics is not None and isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(metrics[step])
            else:
                scheduler.step()


# ------------------------------------------------------------------------------------------------------ each by itself


def piecewise(*runs: tuple[int, float]) -> Callable[[int], float]:
    """Return a function of the step from pairs of a length and a value; the last value stays."""
    values = [value for length, value in runs for _ in range(length)]
    return lambda step: values[min(step, len(values) - 1)]


def cosine(step: int) -> float:
    return (1 + math.cos(math.pi * step / 10)) / 2


ALONE = [
    pytest.param(partial(StepLR, gamma=0.1, step_size=3), lambda t: 0.1 ** (t // 3), id="step"),
    pytest.param(
        partial(MultiStepLR, gamma=0.1, milestones=[2, 5, 9]),
        piecewise((2, 1), (3, 0.1), (4, 0.01), (1, 0.001)),
        id="multistep",
    ),
    pytest.param(partial(ConstantLR, factor=1 / 2, total_iters=5), piecewise((5, 0.5), (1, 1)), id="constant"),
    pytest.param(
        partial(LinearLR, start_factor=1 / 2, total_iters=4), lambda t: 0.5 + 0.5 * min(t, 4) / 4, id="linear"
    ),
    pytest.param(
        partial(LinearLR, start_factor=1 / 4, end_factor=3 / 5, total_iters=4),
        lambda t: 0.25 + 0.35 * min(t, 4) / 4,
        id="linear-between",
    ),
    pytest.param(partial(ExponentialLR, gamma=0.9), lambda t: 0.9**t, id="exponential"),
    pytest.param(
        partial(PolynomialLR, power=0.9, total_iters=5), lambda t: (1 - min(t, 5) / 5) ** 0.9, id="polynomial"
    ),
    pytest.param(partial(CosineAnnealingLR, T_max=10), cosine, id="cosine"),
]


@pytest.mark.parametrize(("make", "factor"), ALONE)
def test_rates(optimizer, make, factor):
    """Ten steps of each class, its last rates, and no alias of them."""
    scheduler = make(optimizer)
    for step in steps(optimizer, [scheduler], 10):
        assert_rates(optimizer, factor(step))
        last = scheduler.get_last_lr()
        assert last == [group["lr"] for group in optimizer.param_groups]
        assert last[1] is not optimizer.param_groups[1]["lr"]


def test_cosine_with_a_floor(optimizer):
    """The cosine between two rates, as SGDR has it."""
    scheduler = CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-10)
    for step in steps(optimizer, [scheduler], 10):
        assert_rates(optimizer, cosine(step), offset=1e-10)


@pytest.mark.parametrize(("make", "factor"), ALONE)
def test_step_to_an_epoch(optimizer, make, factor):
    """``step(epoch)`` gives the closed form and torch's deprecation warning, also many times the same epoch."""
    scheduler = make(optimizer)
    for epoch in [*range(10), 2, 2, 2]:
        optimizer.step()
        with pytest.warns(UserWarning, match="epoch parameter") as caught:
            scheduler.step(epoch)
        assert [str(warning.message) for warning in caught] == [EPOCH_DEPRECATION_WARNING]
        assert_rates(optimizer, factor(epoch))


def test_bad_options(optimizer):
    """A start factor above 1, and a scheduler that goes on without ``initial_lr``, are refused."""
    with pytest.raises(ValueError, match="start_factor"):
        LinearLR(optimizer, start_factor=1.1, total_iters=4)
    with pytest.raises(KeyError, match=r"param 'initial_lr' is not specified in param_groups\[0\] when resuming"):
        StepLR(optimizer, step_size=3, gamma=0.1, last_epoch=1)


def test_goes_on_behind_last_epoch(optimizer):
    """A cosine that is built again with ``last_epoch`` has the rates of the first."""
    scheduler = CosineAnnealingLR(optimizer, T_max=5, eta_min=0.1)
    optimizer.step()
    scheduler.step()
    before = scheduler.get_last_lr()
    assert CosineAnnealingLR(optimizer, T_max=5, eta_min=0.1, last_epoch=0).get_last_lr() == before


# ------------------------------------------------------------------------------------------------------------ together


def test_sequences(optimizer):
    """Exponential then step, constant then exponential, and three of them one after the other."""
    three = piecewise((3, 0.1), (1, 1), (1, 0.8), (1, 0.64), (2, 1), (2, 0.1), (2, 0.01))
    cases: list[tuple[list[Any], list[int], Callable[[int], float]]] = [
        (
            [partial(ExponentialLR, gamma=0.8), partial(StepLR, gamma=0.1, step_size=4)],
            [3],
            lambda t: 0.8**t if t < 3 else 0.1 ** ((t - 3) // 4),
        ),
        (
            [partial(ConstantLR, factor=0.1, total_iters=3), partial(ExponentialLR, gamma=0.9)],
            [3],
            lambda t: 0.1 if t < 3 else 0.9 ** (t - 3),
        ),
        (
            [
                partial(ConstantLR, factor=0.1, total_iters=3),
                partial(ExponentialLR, gamma=0.8),
                partial(StepLR, gamma=0.1, step_size=2),
            ],
            [3, 6],
            three,
        ),
    ]
    for kind in (SequentialLR, torch.optim.lr_scheduler.SequentialLR):
        for parts, milestones, factor in cases:
            fresh = make_optimizer(type(optimizer))
            scheduler = kind(fresh, [part(fresh) for part in parts], milestones)
            for step in steps(fresh, [scheduler], 12):
                assert_rates(fresh, factor(step))
                assert scheduler.get_last_lr() == [group["lr"] for group in fresh.param_groups]


@pytest.mark.parametrize("kind", [SequentialLR, torch.optim.lr_scheduler.SequentialLR], ids=["ours", "torchs"])
def test_sequence_of_a_chain(kind):
    """A chain, then a constant; torch's own class warns where it steps the chain before the optimizer has stepped."""
    optimizer = make_optimizer()
    linear = LinearLR(optimizer, start_factor=0.1, total_iters=5)
    chain = ChainedScheduler([linear, ConstantLR(optimizer, factor=0.1, total_iters=5)])
    parts = [chain, ConstantLR(optimizer, factor=0.5, total_iters=5)]
    with warnings.catch_warnings():
        if kind is not SequentialLR:
            warnings.simplefilter("ignore")
        scheduler = kind(optimizer, schedulers=parts, milestones=[5])
    for step in steps(optimizer, [scheduler], 10):
        assert_rates(optimizer, 0.1 * (0.1 + 0.18 * step) if step < 5 else 0.5)


def test_building_a_sequence_keeps_the_first_rate(optimizer):
    """Members that wait do not move the rate."""
    SequentialLR(optimizer, [ConstantLR(optimizer, factor=1), ConstantLR(optimizer, factor=0.1)], milestones=[10])
    assert_rates(optimizer, 1.0)


def test_sequence_does_not_alias_base_rates():
    """A tensor lr and its ``initial_lr`` stay two tensors in a sequence."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=torch.tensor(2.0))
    parts: list[LRScheduler] = [
        LinearLR(optimizer, 0.1, 0.8, total_iters=4),
        LinearLR(optimizer, 0.8, 0.1, total_iters=4),
    ]
    scheduler = SequentialLR(optimizer, parts, milestones=[4])
    expected = [0.2, 0.55, 0.9, 1.25, 1.6, 1.25, 0.9, 0.55]
    for step in steps(optimizer, [scheduler], 8):
        assert optimizer.param_groups[0]["lr"].item() == pytest.approx(expected[step])
    assert optimizer.param_groups[0]["initial_lr"].item() == 2.0


TOGETHER = [
    pytest.param([partial(StepLR, gamma=0.1, step_size=3)], lambda t: 0.1 ** (t // 3), id="step"),
    pytest.param(
        [partial(LinearLR, start_factor=0.4, total_iters=3)], lambda t: 0.4 + 0.6 * min(t, 3) / 3, id="linear"
    ),
    pytest.param(
        [partial(LinearLR, start_factor=0.4, total_iters=3), partial(MultiStepLR, milestones=[4, 8, 10], gamma=0.1)],
        lambda t: (0.4 + 0.6 * min(t, 3) / 3) * piecewise((4, 1), (4, 0.1), (2, 0.01))(t),
        id="linear-multistep",
    ),
    pytest.param(
        [
            partial(ExponentialLR, gamma=0.9),
            partial(ConstantLR, factor=0.2, total_iters=4),
            partial(StepLR, gamma=0.1, step_size=3),
        ],
        lambda t: 0.9**t * (0.2 if t < 4 else 1) * 0.1 ** (t // 3),
        id="exponential-constant-step",
    ),
    pytest.param(
        [partial(PolynomialLR, power=0.9, total_iters=5), partial(ConstantLR, factor=0.1)],
        lambda t: (1 - min(t, 5) / 5) ** 0.9 * 0.1,
        id="polynomial-constant",
    ),
    pytest.param(
        [partial(StepLR, gamma=0.1, step_size=3), partial(MultiStepLR, gamma=0.1, milestones=[2, 5, 9])],
        lambda t: 0.1 ** (t // 3) * piecewise((2, 1), (3, 0.1), (4, 0.01), (1, 0.001))(t),
        id="step-multistep",
    ),
    pytest.param(
        [partial(StepLR, gamma=0.1, step_size=3), partial(ExponentialLR, gamma=0.9)],
        lambda t: 0.1 ** (t // 3) * 0.9**t,
        id="step-exponential",
    ),
    pytest.param(
        [partial(MultiStepLR, gamma=0.1, milestones=[2, 5, 9]), partial(ExponentialLR, gamma=0.9)],
        lambda t: piecewise((2, 1), (3, 0.1), (4, 0.01), (1, 0.001))(t) * 0.9**t,
        id="multistep-exponential",
    ),
    pytest.param(
        [partial(LinearLR, start_factor=0.4, end_factor=0.9, total_iters=4), partial(ExponentialLR, gamma=0.9)],
        lambda t: (0.4 + 0.5 * min(t, 4) / 4) * 0.9**t,
        id="linear-exponential",
    ),
    pytest.param(
        [partial(StepLR, gamma=0.1, step_size=3), partial(ConstantLR, factor=0.4, total_iters=4)],
        lambda t: 0.1 ** (t // 3) * (0.4 if t < 4 else 1),
        id="step-constant",
    ),
    pytest.param(
        [partial(MultiStepLR, gamma=0.1, milestones=[2, 5, 9]), partial(LinearLR, start_factor=0.4, total_iters=4)],
        lambda t: piecewise((2, 1), (3, 0.1), (4, 0.01), (1, 0.001))(t) * (0.4 + 0.6 * min(t, 4) / 4),
        id="multistep-linear",
    ),
    pytest.param(
        [partial(CosineAnnealingLR, T_max=10), partial(StepLR, gamma=0.1, step_size=3)],
        lambda t: cosine(t) * 0.1 ** (t // 3),
        id="cosine-step",
    ),
    pytest.param(
        [partial(CosineAnnealingLR, T_max=10), partial(MultiStepLR, gamma=0.1, milestones=[2, 5, 9])],
        lambda t: cosine(t) * piecewise((2, 1), (3, 0.1), (4, 0.01), (1, 0.001))(t),
        id="cosine-multistep",
    ),
    pytest.param(
        [partial(LinearLR, start_factor=0.4, total_iters=4), partial(CosineAnnealingLR, T_max=10)],
        lambda t: (0.4 + 0.6 * min(t, 4) / 4) * cosine(t),
        id="linear-cosine",
    ),
    pytest.param(
        [partial(CosineAnnealingLR, T_max=10), partial(ExponentialLR, gamma=0.1)],
        lambda t: cosine(t) * 0.1**t,
        id="cosine-exponential",
    ),
]


@pytest.mark.thin
@pytest.mark.parametrize("chained", [True, False], ids=["chained", "one-by-one"])
@pytest.mark.parametrize(("makes", "factor"), TOGETHER)
def test_rates_multiply(optimizer, makes, factor, chained):
    """Schedulers that share an optimizer multiply, in a chain and stepped one after the other."""
    schedulers = [make(optimizer) for make in makes]
    stepped: list[Any] = [ChainedScheduler(schedulers)] if chained else schedulers
    assert stepped[-1].get_last_lr() == schedulers[-1].get_last_lr()
    for step in steps(optimizer, stepped, 10):
        assert_rates(optimizer, factor(step))
        assert stepped[-1].get_last_lr() == schedulers[-1].get_last_lr()


def test_cosine_with_a_small_floor_in_company(optimizer):
    """A cosine with an ``eta_min`` of 1e-10 beside a step decay is their product."""
    schedulers = [CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-10), StepLR(optimizer, gamma=0.1, step_size=3)]
    for step in steps(optimizer, schedulers, 10):
        expected = (1e-10 + (FLOAT - 1e-10) * cosine(step)) * 0.1 ** (step // 3)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)


FALLING = [10 - index * 0.0165 for index in range(22)]
PLATEAUS = [
    pytest.param(
        {"threshold_mode": "abs", "mode": "min", "threshold": 0.01, "patience": 5, "cooldown": 5},
        [10 - index * 0.0167 for index in range(20)],
        lambda t: 1.0,
        id="never-reduced",
    ),
    pytest.param(
        {"patience": 5, "cooldown": 0, "threshold_mode": "abs", "mode": "min", "threshold": 0.1},
        FALLING,
        piecewise((7, 1), (7, 0.1), (7, 0.01), (2, 0.001)),
        id="every-seventh",
    ),
    pytest.param(
        {"mode": "max", "patience": 5, "cooldown": 5, "threshold_mode": "abs"},
        [-0.8] * 2 + [-0.234] * 20,
        piecewise((2 + 7, 1), (5 + 6, 0.1), (4, 0.01)),
        id="cooldown",
    ),
    pytest.param(
        {"mode": "max", "patience": 3, "threshold_mode": "rel", "threshold": 0.1},
        [1.5 * 1.025**index for index in range(20)],
        lambda t: 1.0,
        id="relative",
    ),
]
BESIDE_A_PLATEAU = [
    pytest.param(partial(StepLR, gamma=0.1, step_size=3), lambda t: 0.1 ** (t // 3), id="step"),
    pytest.param(
        partial(MultiStepLR, gamma=0.1, milestones=[3, 8, 12]),
        piecewise((3, 1), (5, 0.1), (4, 0.01), (1, 0.001)),
        id="multistep",
    ),
    pytest.param(partial(ExponentialLR, gamma=0.1), lambda t: 0.1**t, id="exponential"),
    pytest.param(partial(CosineAnnealingLR, T_max=10), lambda t: cosine(min(t, 10)), id="cosine"),
    pytest.param(partial(LinearLR, start_factor=0.4, total_iters=4), lambda t: 0.4 + 0.6 * min(t, 4) / 4, id="linear"),
]


@pytest.mark.thin
@pytest.mark.parametrize(("options", "metrics", "reduced"), PLATEAUS)
@pytest.mark.parametrize(("make", "factor"), BESIDE_A_PLATEAU)
@pytest.mark.parametrize("turn", [1, -1], ids=["plateau-first", "plateau-last"])
def test_rates_beside_a_plateau(optimizer, make, factor, options, metrics, reduced, turn):
    """``ReduceLROnPlateau`` multiplies what ours schedules, whichever of them steps first."""
    schedulers = [ReduceLROnPlateau(optimizer, eps=0, **options), make(optimizer)][::turn]
    for step in steps(optimizer, schedulers, len(metrics), metrics):
        assert_rates(optimizer, factor(step) * reduced(step))


def test_cosine_then_cyclic():
    """A cyclic schedule that takes over from a cosine keeps within its bounds."""
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.5)
    first = CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    second = CyclicLR(optimizer, base_lr=0.1, max_lr=0.3, step_size_up=1, step_size_down=3)
    for step in range(40):
        optimizer.step()
        (first if step <= first.T_max else second).step()
    assert optimizer.param_groups[0]["lr"] <= 0.3


# --------------------------------------------------------------------------------------------- warnings and references


OLD_PATTERN = [pytest.param(-1, id="fresh"), pytest.param(10, id="resumed")]


@pytest.mark.parametrize("last_epoch", OLD_PATTERN)
def test_wrong_order_warns(optimizer, last_epoch):
    """A scheduler that steps before the optimizer warns, also one that was built with ``last_epoch``."""
    if last_epoch > 0:
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.01
    scheduler = StepLR(optimizer, gamma=0.1, step_size=3, last_epoch=last_epoch)
    with pytest.warns(UserWarning, match="how-to-adjust-learning-rate"):
        scheduler.step()


def test_overridden_step_warns(optimizer):
    """An optimizer whose ``step`` was replaced behind the scheduler's back brings torch's warning of it."""
    scheduler = StepLR(optimizer, gamma=0.1, step_size=3)
    former = optimizer.step
    optimizer.step = types.MethodType(lambda self, *args, **kwargs: former(*args, **kwargs), optimizer)
    optimizer.step()
    with pytest.warns(UserWarning, match="has been overridden"):
        scheduler.step()


def test_right_order_does_not_warn(optimizer):
    """Ours give no warning in the right order, alone and in sequences; here every warning is an error."""
    parts = [LinearLR(optimizer, start_factor=0.5, end_factor=0.1, total_iters=5), ExponentialLR(optimizer, gamma=0.9)]
    for scheduler in (StepLR(optimizer, gamma=0.1, step_size=3), SequentialLR(optimizer, parts, milestones=[5])):
        list(steps(optimizer, [scheduler], 12))


def test_get_lr_with_arguments_is_refused():
    """A subclass of the base whose ``get_lr`` wants an argument raises when it is built."""

    class Wrong(LRScheduler):
        def get_lr(self, step):  # pyright: ignore[reportIncompatibleMethodOverride]
            return [step]

    with pytest.raises(TypeError):
        Wrong(torch.optim.SGD([torch.rand(1)], lr=1))


@pytest.mark.parametrize("make", [partial(StepLR, step_size=3), lambda o: SequentialLR(o, [StepLR(o, 3)], [])])
def test_no_cycles(make):
    """Neither the scheduler nor the optimizer waits for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        param = torch.nn.Parameter(torch.empty(10))
        optimizer = torch.optim.SGD([param], lr=0.5)
        scheduler = make(optimizer)
        param.sum().backward()
        optimizer.step()
        scheduler.step()
        schedulers, optimizers = weakref.ref(scheduler), weakref.ref(optimizer)
        del scheduler
        assert schedulers() is None
        del optimizer
        assert optimizers() is None
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------------------------- states

KINDS = [
    pytest.param(partial(StepLR, step_size=30), id="step"),
    pytest.param(partial(MultiStepLR, milestones=[30, 80]), id="multistep"),
    pytest.param(ConstantLR, id="constant"),
    pytest.param(LinearLR, id="linear"),
    pytest.param(partial(ExponentialLR, gamma=0.999), id="exponential"),
    pytest.param(PolynomialLR, id="polynomial"),
    pytest.param(partial(CosineAnnealingLR, T_max=10), id="cosine"),
    pytest.param(partial(InverseSqrtLR, warmup_steps=4), id="inverse-sqrt"),
    pytest.param(partial(WarmupLR, warmup_steps=4), id="warmup"),
]
HOLDERS = [
    pytest.param(lambda o: ChainedScheduler([ConstantLR(o), ConstantLR(o)]), id="chain"),
    pytest.param(lambda o: SequentialLR(o, [ConstantLR(o), ConstantLR(o)], milestones=[2]), id="sequence"),
]


@pytest.mark.thin
@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("make", KINDS + HOLDERS)
def test_state_goes_through_a_file(optimizer, make, weights_only):
    """A state that was saved and loaded is the same, and loads into a second scheduler, which then has it too."""
    state = make(optimizer).state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=weights_only)
    assert loaded == state
    second = make(optimizer)
    second.load_state_dict(loaded)
    assert second.state_dict() == state


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("make", KINDS)
def test_base_rates_are_constant(make):
    """Others that write into a tensor lr reach neither ``initial_lr`` nor ``base_lrs``."""
    lr = torch.as_tensor(0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.randn(1))], lr=lr)
    scheduler = make(optimizer)
    before = copy.deepcopy(optimizer.param_groups[0]["initial_lr"])
    for epoch in range(2):
        optimizer.step()
        scheduler.step(epoch)
        lr.multiply_(0.1)
        assert optimizer.param_groups[0]["initial_lr"] == before == scheduler.base_lrs[0]
        assert scheduler.base_lrs[0] is not optimizer.param_groups[0]["initial_lr"]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, optizoo.AdamW], ids=["torchs", "ours"])
@pytest.mark.parametrize("make", KINDS)
def test_checkpoint_of_the_optimizer_alone(make, kind):
    """With the loaded optimizer and ``last_epoch`` a scheduler has the rate that was saved, and its factor is 1."""
    model = torch.nn.Linear(3, 3)
    optimizer = kind(model.parameters())
    scheduler = make(optimizer)
    optimizer.step()
    scheduler.step()
    second = kind(model.parameters())
    second.load_state_dict(optimizer.state_dict())
    again = make(second, last_epoch=0)
    assert again.get_last_lr() == [optimizer.param_groups[0]["lr"]]
    assert again.state_dict() == scheduler.state_dict()


def test_swa_after_multiplicative():
    """``SWALR`` anneals from the rate of a scheduler before it, where that one is ours as where it is torch's."""
    paths = []
    for make in (partial(ExponentialLR, gamma=0.9), partial(MultiplicativeLR, lr_lambda=lambda epoch: 0.9)):
        optimizer = make_optimizer()
        scheduler = make(optimizer)
        swa = SWALR(optimizer, anneal_epochs=5, swa_lr=0.01)
        path = []
        for step in range(15):
            optimizer.step()
            (swa if step >= 5 else scheduler).step()
            path.append([float(group["lr"]) for group in optimizer.param_groups])
        paths.append(path)
    for mine, theirs in zip(*paths, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


def test_lambda_beside_ours():
    """``LambdaLR``, which sets its rates, beside ours, one group's float and the other's tensor."""
    optimizer = make_optimizer()
    scheduler = LambdaLR(optimizer, lr_lambda=[lambda step: 0.9**step, lambda step: 0.9**step])
    for step in steps(optimizer, [scheduler, ConstantLR(optimizer, 0.5, 100)], 10):
        assert_rates(optimizer, 0.9**step * (0.5 if step == 0 else 1.0))


# ---------------------------------------------------------------------------------------------- different, with reason


def test_different_start_of_zero(optimizer):
    """``LinearLR(start_factor=0)`` is a warm-up from 0."""
    scheduler = LinearLR(optimizer, start_factor=0.0, total_iters=4)
    for step in steps(optimizer, [scheduler], 6):
        assert_rates(optimizer, min(step, 4) / 4)


def test_different_state_has_no_options():
    """A loaded state leaves the options of the program."""
    scheduler = StepLR(make_optimizer(), gamma=0.005, step_size=1)
    scheduler.load_state_dict(StepLR(make_optimizer(), gamma=0.1, step_size=3).state_dict())
    assert (scheduler.gamma, scheduler.step_size) == (0.005, 1)


def test_different_end_of_the_cosine(optimizer):
    """Past ``T_max`` the cosine stays at ``eta_min``."""
    scheduler = CosineAnnealingLR(optimizer, T_max=5, eta_min=1e-10)
    for step in steps(optimizer, [scheduler], 20):
        assert_rates(optimizer, cosine(min(2 * step, 10)), offset=1e-10)


def test_different_floor_in_company():
    """A large ``eta_min`` is multiplied by a step decay beside it, so the two give a product."""
    optimizer = make_optimizer()
    schedulers = [CosineAnnealingLR(optimizer, T_max=10, eta_min=0.01), StepLR(optimizer, gamma=0.1, step_size=3)]
    for step in steps(optimizer, schedulers, 10):
        expected = (0.01 + 0.04 * cosine(step)) * 0.1 ** (step // 3)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
