"""Schedulers set ``lr = base_lr * schedule(step)``: torch's numbers and signatures, and right after any resume."""

import contextlib
import copy
import inspect
import io
import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, SequentialLR

from optizoo import schedulers
from optizoo.schedulers import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    InverseSqrtLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    ScheduleLR,
    StepLR,
    WarmupLR,
)
from optizoo.schedules import Cosine, Exponential, InverseSqrt, Linear, Step, Warmup


def optimizer_with(*lrs: float | torch.Tensor) -> SGD:
    """Return an SGD with one param group of one parameter for each rate; the gradients are zero."""
    groups = []
    for lr in lrs:
        param = torch.zeros(1, requires_grad=True)
        param.grad = torch.zeros(1)
        groups.append({"params": [param], "lr": lr})
    return SGD(groups, lr=0.5)


def rates(optimizer: Optimizer) -> list[float]:
    """Return the present lr of each param group, of a tensor its value."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def advance(scheduler: LRScheduler, steps: int = 1) -> list[list[float]]:
    """Train for some steps and return the rates after each."""
    path = []
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        path.append(rates(scheduler.optimizer))
    return path


def whole_path(scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """Return the rates of the first updates, of which the first is made before any ``step()`` of the scheduler."""
    return [rates(scheduler.optimizer), *advance(scheduler, steps)]


# ------------------------------------------------------------------------------------------------ the same as torch's

SAME = [
    pytest.param("StepLR", {"step_size": 30}, id="step"),
    pytest.param("StepLR", {"step_size": 7, "gamma": 0.9}, id="step-gamma"),
    pytest.param("MultiStepLR", {"milestones": [30, 80]}, id="multistep"),
    pytest.param("MultiStepLR", {"milestones": [80, 30, 30, 1], "gamma": 0.5}, id="multistep-unsorted-twice"),
    pytest.param("ConstantLR", {}, id="constant"),
    pytest.param("ConstantLR", {"factor": 0.25, "total_iters": 40}, id="constant-factor"),
    pytest.param("LinearLR", {}, id="linear"),
    pytest.param("LinearLR", {"start_factor": 0.01, "total_iters": 100}, id="linear-up"),
    pytest.param("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 99}, id="linear-down"),
    pytest.param("ExponentialLR", {"gamma": 0.95}, id="exponential"),
    pytest.param("ExponentialLR", {"gamma": 1.05}, id="exponential-growing"),
    pytest.param("PolynomialLR", {}, id="polynomial"),
    pytest.param("PolynomialLR", {"total_iters": 100, "power": 0.9}, id="polynomial-poly"),
    pytest.param("PolynomialLR", {"total_iters": 60, "power": 3}, id="polynomial-cubic"),
    pytest.param("CosineAnnealingLR", {"T_max": 100}, id="cosine"),
    pytest.param("CosineAnnealingLR", {"T_max": 100, "eta_min": 1e-3}, id="cosine-eta_min"),
    pytest.param("CosineAnnealingLR", {"T_max": 100, "eta_min": 0.5}, id="cosine-eta_min-above-lr"),
]


@pytest.mark.parametrize(
    "name",
    ["StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR"],
)
def test_signature_is_torchs(name: str):
    """A class with torch's name takes torch's arguments: the same names, order, kinds and defaults."""

    def arguments(kind: type) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(kind).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert arguments(getattr(schedulers, name)) == arguments(getattr(torch_schedulers, name))


@pytest.mark.parametrize(("name", "arguments"), SAME)
def test_rates_are_torchs(name: str, arguments: dict[str, Any]):
    """Every rate of a hundred steps equals torch's to 1e-12, in groups of different base rates."""
    ours = getattr(schedulers, name)(optimizer_with(0.1, 3.0), **arguments)
    torchs = getattr(torch_schedulers, name)(optimizer_with(0.1, 3.0), **arguments)
    for mine, reference in zip(whole_path(ours, 100), whole_path(torchs, 100), strict=True):
        assert mine == pytest.approx(reference, rel=1e-12, abs=0)
    assert ours.get_last_lr() == rates(ours.optimizer)


@pytest.mark.parametrize(("name", "arguments"), SAME)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_step_to_an_epoch_is_torchs_closed_form(name: str, arguments: dict[str, Any]):
    """``step(epoch)``, which torch still allows, goes to any step and gives the rate of torch's closed form."""
    ours = getattr(schedulers, name)(optimizer_with(0.1, 3.0), **arguments)
    torchs = getattr(torch_schedulers, name)(optimizer_with(0.1, 3.0), **arguments)
    ours.optimizer.step()
    torchs.optimizer.step()
    for epoch in (60, 1, 59, 0, 99):
        ours.step(epoch)
        torchs.step(epoch)
        assert rates(ours.optimizer) == pytest.approx(rates(torchs.optimizer), rel=1e-12, abs=0)


@pytest.mark.parametrize(("name", "arguments"), SAME)
def test_arguments_are_attributes(name: str, arguments: dict[str, Any]):
    """Torch's attribute names read the schedule's options."""
    scheduler = getattr(schedulers, name)(optimizer_with(1.0), **arguments)
    for argument, value in arguments.items():
        expected = tuple(sorted(value)) if argument == "milestones" else value
        assert getattr(scheduler, argument) == expected


def test_assigned_attribute_changes_the_schedule():
    """An attribute that is assigned, as some programs do with torch's, holds from the next step on and is checked."""
    scheduler = CosineAnnealingLR(optimizer_with(1.0), T_max=10)
    scheduler.T_max = 4
    advance(scheduler, 2)
    assert rates(scheduler.optimizer) == [pytest.approx(0.5, rel=1e-15)]
    with pytest.raises(ValueError, match="must be a finite number of steps above 0"):
        scheduler.T_max = 0


# ---------------------------------------------------------------------------------------- where torch's are at fault


@pytest.mark.parametrize(
    ("make", "floor"),
    [
        pytest.param(lambda optimizer: CosineAnnealingLR(optimizer, 10), [0.0, 0.0], id="cosine"),
        pytest.param(lambda optimizer: CosineAnnealingLR(optimizer, 10, eta_min=0.01), [0.01, 0.01], id="eta_min"),
        pytest.param(lambda optimizer: PolynomialLR(optimizer, 10, power=2), [0.0, 0.0], id="polynomial"),
        pytest.param(lambda optimizer: LinearLR(optimizer, 1.0, 0.125, 10), [0.125, 0.25], id="linear"),
        pytest.param(lambda optimizer: ConstantLR(optimizer, 0.5, 10), [1.0, 2.0], id="constant"),
        pytest.param(lambda optimizer: WarmupLR(optimizer, 10), [1.0, 2.0], id="warmup"),
        pytest.param(lambda optimizer: WarmupLR(optimizer, 5, then=Cosine(5)), [0.0, 0.0], id="warmup-cosine"),
    ],
)
def test_end_lasts(make: Callable[[Optimizer], ScheduleLR], floor: list[float]):
    """From its end on a schedule stays at exactly its last rates."""
    assert whole_path(make(optimizer_with(1.0, 2.0)), 40)[10:] == [floor] * 31


def test_cosine_of_torch_climbs_again():
    """Torch's fault that ``test_end_lasts`` is about: past ``T_max`` its cosine climbs, to 0.024 after one step."""
    path = whole_path(torch_schedulers.CosineAnnealingLR(optimizer_with(1.0), 10), 20)
    assert path[10] == [0.0]
    assert path[11] == [pytest.approx(0.0245, abs=1e-4)]
    assert path[20] == [pytest.approx(1.0)]


def test_linear_starts_at_zero():
    """A linear climb may start at exactly 0, which torch's refuses, and then the first update changes nothing."""
    with pytest.raises(ValueError, match="greater than 0"):
        torch_schedulers.LinearLR(optimizer_with(1.0), start_factor=0.0)
    scheduler = LinearLR(optimizer_with(1.0, 4.0), start_factor=0.0, total_iters=4)
    assert whole_path(scheduler, 5) == [[0, 0], [0.25, 1], [0.5, 2], [0.75, 3], [1, 4], [1, 4]]


def test_constant_factor_may_be_zero():
    """A rate may be held at 0 and then released, where torch's divides by zero at the release."""
    torchs = torch_schedulers.ConstantLR(optimizer_with(1.0), factor=0.0, total_iters=2)
    with pytest.raises(ZeroDivisionError):
        advance(torchs, 2)
    assert whole_path(ConstantLR(optimizer_with(1.0), factor=0.0, total_iters=2), 3) == [[0], [0], [1], [1]]


def test_period_of_zero_is_refused_at_once():
    """``T_max=0`` raises with name, value and remedy, where torch's divides by zero some steps later."""
    with pytest.raises(ZeroDivisionError):
        advance(torch_schedulers.CosineAnnealingLR(optimizer_with(1.0), 0), 1)
    with pytest.raises(ValueError, match="Invalid T_max value: 0; T_max must be a finite number of steps above 0"):
        CosineAnnealingLR(optimizer_with(1.0), 0)


BAD = [
    pytest.param(0, ValueError, id="zero"),
    pytest.param(-5, ValueError, id="negative"),
    pytest.param(math.nan, ValueError, id="nan"),
    pytest.param(math.inf, ValueError, id="inf"),
    pytest.param(True, TypeError, id="bool"),
    pytest.param("9", TypeError, id="text"),
]


@pytest.mark.parametrize(("value", "error"), BAD)
@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        pytest.param(StepLR, "step_size", id="step"),
        pytest.param(ConstantLR, "total_iters", id="constant"),
        pytest.param(LinearLR, "total_iters", id="linear"),
        pytest.param(PolynomialLR, "total_iters", id="polynomial"),
        pytest.param(CosineAnnealingLR, "T_max", id="cosine"),
        pytest.param(InverseSqrtLR, "warmup_steps", id="inverse_sqrt"),
        pytest.param(WarmupLR, "warmup_steps", id="warmup"),
    ],
)
def test_bad_length_is_refused(kind: type, argument: str, value: object, error: type[Exception]):
    """A length that is not a finite number above 0 raises under the name that the caller used."""
    with pytest.raises(
        error, match=f"^Invalid {argument} value: .*; {argument} must be a finite number of steps above 0"
    ):
        kind(optimizer_with(1.0), **{argument: value})


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        pytest.param(StepLR, {"step_size": 3, "gamma": -0.1}, "gamma value: -0.1", id="gamma"),
        pytest.param(MultiStepLR, {"milestones": [3, -1]}, r"milestones\[1\] value: -1", id="milestone"),
        pytest.param(
            ConstantLR, {"factor": 1.5}, "factor value: 1.5; factor must be a number from 0 to 1", id="factor"
        ),
        pytest.param(LinearLR, {"start_factor": -0.5}, "start_factor value: -0.5", id="start_factor"),
        pytest.param(LinearLR, {"end_factor": math.nan}, "end_factor value: nan", id="end_factor"),
        pytest.param(ExponentialLR, {"gamma": math.nan}, "gamma value: nan", id="exponential"),
        pytest.param(PolynomialLR, {"power": -1}, "power value: -1; power must be a finite number above 0", id="power"),
        pytest.param(CosineAnnealingLR, {"T_max": 9, "eta_min": -0.1}, "eta_min value: -0.1", id="eta_min"),
        pytest.param(WarmupLR, {"warmup_steps": 9, "start_factor": 2}, "start_factor value: 2", id="warmup-start"),
        pytest.param(StepLR, {"step_size": 3, "last_epoch": -2}, "last_epoch value: -2", id="last_epoch"),
    ],
)
def test_bad_argument_is_refused(kind: type, arguments: dict[str, Any], message: str):
    """An argument out of range raises ValueError with name, value and remedy before the optimizer is touched."""
    optimizer = optimizer_with(1.0)
    with pytest.raises(ValueError, match=f"^Invalid {message}"):
        kind(optimizer, **arguments)
    assert "initial_lr" not in optimizer.param_groups[0]


# ------------------------------------------------------------------------------------------------------ our own kinds


def test_any_schedule_serves():
    """A schedule, a lambda and a bound method all serve; a plain float comes out even if NumPy's goes in."""
    for schedule in (Exponential(0.5), lambda step: 0.5**step, Exponential(0.5).__call__):
        assert whole_path(ScheduleLR(optimizer_with(4.0), schedule), 3) == [[4.0], [2.0], [1.0], [0.5]]
    numpy = pytest.importorskip("numpy")
    scheduler = ScheduleLR(optimizer_with(numpy.float64(4.0)), lambda step: numpy.float64(0.5))
    group = scheduler.optimizer.param_groups[0]
    assert (type(group["lr"]), type(group["initial_lr"])) == (float, float)


@pytest.mark.parametrize(
    ("make", "schedule"),
    [
        pytest.param(lambda o: InverseSqrtLR(o, 4), Warmup(4, then=InverseSqrt(4)), id="inverse_sqrt"),
        pytest.param(lambda o: WarmupLR(o, 4), Warmup(4), id="warmup"),
        pytest.param(
            lambda o: WarmupLR(o, 4, 0.1, Cosine(9)), Warmup(4, then=Cosine(9), start=0.1), id="warmup-cosine"
        ),
    ],
)
def test_our_own_classes_are_their_schedules(make: Callable[[Optimizer], ScheduleLR], schedule: Warmup):
    """``InverseSqrtLR`` and ``WarmupLR`` are short for a schedule; they start at exactly 0 and peak at exactly 1."""
    path = whole_path(make(optimizer_with(1.0, 8.0)), 20)
    assert path == [[schedule(step), 8.0 * schedule(step)] for step in range(21)]
    assert path[4] == [1.0, 8.0]


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        pytest.param("cosine", TypeError, "'cosine'; schedule must be a callable", id="name"),
        pytest.param([Cosine(9), 0.5], TypeError, "0.5; schedule must be a callable", id="number-in-list"),
        pytest.param([Cosine(9)], ValueError, "1 schedules for 2 param groups", id="list-too-short"),
        pytest.param(lambda step: math.nan, ValueError, "returned nan at step 0; a factor must be finite", id="nan"),
        pytest.param(lambda step: -1.0, ValueError, "returned -1.0 at step 0; a factor must be finite", id="negative"),
        pytest.param(lambda step: None, TypeError, "returned None at step 0; a schedule must return", id="none"),
    ],
)
def test_bad_schedule_is_refused(schedule: Any, error: type[Exception], message: str):
    """What is no schedule, or gives no factor, raises and says what is wanted."""
    with pytest.raises(error, match=message):
        ScheduleLR(optimizer_with(1.0, 2.0), schedule)


def test_no_optimizer_is_refused():
    """Torch's own check of the optimizer holds."""
    with pytest.raises(TypeError, match="is not an Optimizer"):
        ScheduleLR(object(), Cosine(9))  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------------------- param groups


def test_ratios_of_groups_are_kept():
    """At every step the groups' rates stand to each other as their base rates do."""
    for first, second in whole_path(WarmupLR(optimizer_with(0.125, 1.0), 5, then=InverseSqrt(3)), 30):
        assert second == 8 * first


def test_each_group_may_have_its_own_schedule():
    """A list gives each param group its own schedule."""
    scheduler = ScheduleLR(optimizer_with(1.0, 2.0), [Linear(4), Step(2, gamma=0.5)])
    assert whole_path(scheduler, 4) == [[1, 2], [0.75, 2], [0.5, 1], [0.25, 1], [0, 0.5]]


def later_group(**options: Any) -> dict[str, Any]:
    """Return a param group to add later."""
    return {"params": [torch.zeros(1, requires_grad=True)], **options}


def test_group_added_later_is_scheduled():
    """A group added after the scheduler was built is scheduled from the next step on, from the lr it was added with."""
    scheduler = ScheduleLR(optimizer_with(1.0), Linear(4))
    advance(scheduler)
    scheduler.optimizer.add_param_group(later_group(lr=8.0))
    scheduler.optimizer.add_param_group(later_group())
    assert advance(scheduler, 2) == [[0.5, 4.0, 0.25], [0.25, 2.0, 0.125]]
    assert scheduler.base_lrs == [1.0, 8.0, 0.5]
    assert scheduler.get_last_lr() == [0.25, 2.0, 0.125]


def test_group_added_later_is_never_scheduled_by_torch():
    """Torch's fault that the test above is about: its closed forms raise, or pass the group over where zips are lax."""
    scheduler = torch_schedulers.LambdaLR(optimizer_with(1.0), Linear(4))
    advance(scheduler)
    scheduler.optimizer.add_param_group(later_group(lr=8.0))
    with contextlib.suppress(ValueError):
        advance(scheduler, 2)
    assert rates(scheduler.optimizer)[1] == 8.0


def test_group_added_to_a_list_of_schedules_needs_one_more():
    """With a list, an added group raises until its schedule is appended."""
    appended, forgotten = ScheduleLR(optimizer_with(1.0), [Linear(4)]), ScheduleLR(optimizer_with(1.0), [Linear(4)])
    for scheduler in (appended, forgotten):
        scheduler.optimizer.add_param_group(later_group(lr=8.0))
    appended.schedule.append(Linear(8))
    assert advance(appended) == [[0.75, 7.0]]
    with pytest.raises(ValueError, match=r"1 schedules for 2 param groups; .*append to scheduler.schedule"):
        advance(forgotten)


def test_base_rates_can_be_read_and_set():
    """``base_lrs`` reads and writes the groups' ``initial_lr``, and what it returns is a copy."""
    scheduler = ScheduleLR(optimizer_with(1.0, torch.tensor(2.0)), Linear(4))
    scheduler.base_lrs[1].fill_(7.0)  # pyright: ignore[reportAttributeAccessIssue]
    assert scheduler.base_lrs == [1.0, torch.tensor(2.0)]
    scheduler.base_lrs = [4.0, torch.tensor(8.0)]
    assert [group["initial_lr"] for group in scheduler.optimizer.param_groups] == [4.0, torch.tensor(8.0)]
    assert advance(scheduler) == [[3.0, 6.0]]
    with pytest.raises(ValueError, match="zip"):
        scheduler.base_lrs = [1.0]


# ---------------------------------------------------------------------------------------------------------- tensor lr


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda optimizer: ScheduleLR(optimizer, Warmup(2, then=Linear(4))), id="schedule"),
        pytest.param(lambda optimizer: CosineAnnealingLR(optimizer, 8, eta_min=0.01), id="cosine"),
        pytest.param(lambda optimizer: StepLR(optimizer, 2), id="step"),
    ],
)
def test_tensor_lr_is_filled_in_place(make: Callable[[Optimizer], ScheduleLR]):
    """A tensor lr stays the same object, which captured graphs read, and takes a float lr's rates in its own dtype."""
    first, second = torch.tensor(0.5), torch.tensor(2.0, dtype=torch.float64)
    scheduler = make(optimizer_with(first, second))
    reference = make(optimizer_with(0.5, 2.0))
    for _ in range(8):
        assert scheduler.optimizer.param_groups[0]["lr"] is first
        assert scheduler.optimizer.param_groups[1]["lr"] is second
        expected = rates(reference.optimizer)
        assert first.item() == pytest.approx(expected[0], rel=2e-7)
        assert second.item() == pytest.approx(expected[1], rel=1e-15)
        advance(scheduler)
        advance(reference)
    assert scheduler.optimizer.param_groups[0]["initial_lr"] == torch.tensor(0.5)


def test_last_rates_of_tensors_are_copies():
    """What ``get_last_lr`` returned does not change with the next step, and changing it does not change the rate."""
    scheduler = ScheduleLR(optimizer_with(torch.tensor(1.0)), Linear(4))
    before = scheduler.get_last_lr()
    advance(scheduler)
    assert before == [torch.tensor(1.0)]
    scheduler.get_last_lr()[0].zero_()  # pyright: ignore[reportAttributeAccessIssue]
    assert rates(scheduler.optimizer) == [0.75]


def test_tensor_lr_shared_by_groups_with_schedules_of_their_own_is_refused():
    """One lr tensor cannot hold two rates: torch's lets the last group's win for both, ours raises."""
    shared = torch.tensor(1.0)
    torchs = torch_schedulers.LambdaLR(optimizer_with(shared, shared), [Linear(4).__call__, Linear(8).__call__])
    assert advance(torchs) == [[0.875, 0.875]]
    with pytest.raises(ValueError, match="Param group 1 shares its lr tensor"):
        ScheduleLR(optimizer_with(shared, shared), [Linear(4), Linear(8)])
    shared = torch.tensor(1.0)
    alike = ScheduleLR(optimizer_with(shared, shared), [Linear(4), Linear(4)])
    assert advance(alike) == [[0.75, 0.75]]


@pytest.mark.gpu
def test_rate_reaches_a_captured_graph():
    """A capturable optimizer in a CUDA graph follows the schedule, because its lr tensor is filled in place."""
    param = torch.zeros(4, device="cuda", requires_grad=True)
    param.grad = torch.ones_like(param)
    lr = torch.tensor(1.0, device="cuda")
    optimizer = torch.optim.Adam([param], lr=lr, capturable=True)
    scheduler = ScheduleLR(optimizer, Warmup(2, then=Linear(4)))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    moves = []
    for _ in range(7):
        before = param.detach().clone()
        graph.replay()
        moves.append((before - param.detach()).mean().item())  # Adam moves by lr under a constant gradient
        scheduler.step()
    assert moves == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.25, 0], rel=1e-5, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------- resume


def torchs_sequence(optimizer: Optimizer) -> LRScheduler:
    """Return torch's warm-up of five steps, then its cosine of ten."""
    warmup = torch_schedulers.LinearLR(optimizer, 0.1, 1.0, 5)
    return SequentialLR(optimizer, [warmup, torch_schedulers.CosineAnnealingLR(optimizer, 10)], [5])


def our_sequence(optimizer: Optimizer) -> LRScheduler:
    """Return the same, made of our classes in torch's ``SequentialLR``."""
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, 5), CosineAnnealingLR(optimizer, 10)], [5])


def mixed_sequence(optimizer: Optimizer) -> LRScheduler:
    """Return the same, made of our warm-up and torch's cosine."""
    warmup = LinearLR(optimizer, 0.1, 1.0, 5)
    return SequentialLR(optimizer, [warmup, torch_schedulers.CosineAnnealingLR(optimizer, 10)], [5])


RESUMED = [
    pytest.param(lambda o: WarmupLR(o, 5, 0.1, then=Cosine(10)), id="warmup-cosine"),
    pytest.param(our_sequence, id="warmup-cosine-in-SequentialLR"),
    pytest.param(lambda o: ScheduleLR(o, [Linear(20), Cosine(20)]), id="one-each"),
    pytest.param(lambda o: StepLR(o, 3), id="step"),
    pytest.param(lambda o: MultiStepLR(o, [3, 9]), id="multistep"),
    pytest.param(lambda o: ConstantLR(o, 0.5, 6), id="constant"),
    pytest.param(lambda o: LinearLR(o, 0.0, 1.0, 12), id="linear"),
    pytest.param(lambda o: ExponentialLR(o, 0.9), id="exponential"),
    pytest.param(lambda o: PolynomialLR(o, 12, 2.0), id="polynomial"),
    pytest.param(lambda o: CosineAnnealingLR(o, 12, 0.01), id="cosine"),
    pytest.param(lambda o: InverseSqrtLR(o, 4), id="inverse_sqrt"),
]
ORDERS = [
    pytest.param(order, id="-".join(order))
    for order in itertools.permutations(("build", "optimizer", "scheduler"))
    if order.index("build") < order.index("scheduler")
]


def saved(*parts: Any) -> list[Any]:
    """Return the states of the parts after a journey through a file that holds plain data only."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(
    make: Callable[[Optimizer], LRScheduler], optimizer: Optimizer, order: tuple[str, ...], states
) -> LRScheduler:
    """Build a scheduler, load the optimizer and load the scheduler, in the order given."""
    scheduler: LRScheduler | None = None
    for action in order:
        if action == "build":
            scheduler = make(optimizer)
        elif action == "optimizer":
            optimizer.load_state_dict(states[0])
        elif scheduler is not None:
            scheduler.load_state_dict(states[1])
    assert scheduler is not None
    return scheduler


def test_torch_resumes_wrong_when_the_optimizer_is_loaded_first():
    """Torch's fault that the next test is about: its warm-up and cosine go on at 0.0824 where 0.6545 is right."""
    scheduler = torchs_sequence(optimizer_with(1.0))
    advance(scheduler, 8)
    states = saved(scheduler.optimizer, scheduler)
    (right,) = advance(scheduler)
    assert right == [pytest.approx(0.6545, abs=1e-4)]

    (documented_order,) = advance(
        resumed(torchs_sequence, optimizer_with(1.0), ("build", "optimizer", "scheduler"), states)
    )
    assert documented_order == right
    (other_order,) = advance(resumed(torchs_sequence, optimizer_with(1.0), ("optimizer", "build", "scheduler"), states))
    assert other_order == [pytest.approx(0.0824, abs=1e-4)]


@pytest.mark.thin
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [pytest.param(n, id=f"after-{n}") for n in (0, 1, 5, 8, 30)])
@pytest.mark.parametrize("make", RESUMED)
def test_resume_is_exact_in_any_order(make: Callable[[Optimizer], LRScheduler], steps: int, order: tuple[str, ...]):
    """A resumed run has exactly the rates of the uninterrupted one, at once and later, whatever the loading order."""
    scheduler = make(optimizer_with(1.0, 0.1))
    advance(scheduler, steps)
    states = saved(scheduler.optimizer, scheduler)
    again = resumed(make, optimizer_with(1.0, 0.1), order, states)
    assert rates(again.optimizer) == rates(scheduler.optimizer)
    assert again.get_last_lr() == scheduler.get_last_lr()
    assert advance(again, 12) == advance(scheduler, 12)


@pytest.mark.parametrize("order", ORDERS)
def test_resume_with_a_tensor_lr_is_exact(order: tuple[str, ...]):
    """A tensor lr resumes as exactly as a float one, and the scheduler keeps filling the optimizer's own tensor."""
    scheduler = WarmupLR(optimizer_with(torch.tensor(1.0)), 5, then=Cosine(10))
    advance(scheduler, 8)
    states = saved(scheduler.optimizer, scheduler)
    again = resumed(lambda o: WarmupLR(o, 5, then=Cosine(10)), optimizer_with(torch.tensor(1.0)), order, states)
    lr = again.optimizer.param_groups[0]["lr"]
    assert lr.item() == rates(scheduler.optimizer)[0]
    assert advance(again, 3) == advance(scheduler, 3)
    assert again.optimizer.param_groups[0]["lr"] is lr


@pytest.mark.parametrize("order", ORDERS)
def test_resume_with_a_group_added_later_is_exact(order: tuple[str, ...]):
    """A group added in the middle has its base rate in the optimizer's state, so it resumes like the others."""
    scheduler = WarmupLR(optimizer_with(1.0), 5, then=Cosine(10))
    advance(scheduler, 3)
    scheduler.optimizer.add_param_group(later_group(lr=8.0))
    advance(scheduler, 5)
    states = saved(scheduler.optimizer, scheduler)
    optimizer = optimizer_with(1.0)
    optimizer.add_param_group(later_group(lr=8.0))
    again = resumed(lambda o: WarmupLR(o, 5, then=Cosine(10)), optimizer, order, states)
    assert advance(again, 12) == advance(scheduler, 12)


def test_base_rates_come_from_the_optimizers_state():
    """A loaded optimizer brings its base rates, whatever lr this program gave; if it was never scheduled, its lr.

    Loaded without the scheduler's state, a present rate that is not the base rate counts as a factor, as with torch's.
    """
    scheduled = optimizer_with(1.0)
    advance(ScheduleLR(scheduled, Linear(4)))
    cases = (scheduled.state_dict(), 1.0, 0.75), (optimizer_with(2.0).state_dict(), 2.0, 1.0)
    for state, base_lr, factor in cases:
        for order in (("build", "optimizer"), ("optimizer", "build")):
            scheduler = resumed(lambda o: ScheduleLR(o, Linear(4)), optimizer_with(8.0), order, [copy.deepcopy(state)])
            assert scheduler.base_lrs == [base_lr]
            assert advance(scheduler) == [[0.75 * base_lr * factor]]


def test_resumed_scheduler_may_step_first():
    """A run saved between the optimizer's step and the scheduler's goes on with the scheduler's, without a warning."""
    scheduler = ScheduleLR(optimizer_with(1.0), Linear(4))
    scheduler.load_state_dict({"last_epoch": 2})
    scheduler.step()
    assert rates(scheduler.optimizer) == [0.25]


def test_state_has_no_options():
    """The state is ``last_epoch``, factors and rates: the schedule is the program's, the base rates the optimizer's."""
    scheduler = CosineAnnealingLR(optimizer_with(1.0, torch.tensor(2.0)), 10)
    advance(scheduler, 3)
    state = {"last_epoch": 3, "factors": [1.0, 1.0], "_last_lr": rates(scheduler.optimizer)}
    assert scheduler.state_dict() == state


def test_state_of_a_torch_scheduler_loads():
    """A run begun with torch's scheduler goes on with ours."""
    torchs = torch_schedulers.CosineAnnealingLR(optimizer_with(1.0), 10)
    advance(torchs, 4)
    states = saved(torchs.optimizer, torchs)
    again = resumed(
        lambda o: CosineAnnealingLR(o, 10), optimizer_with(1.0), ("optimizer", "build", "scheduler"), states
    )
    for mine, reference in zip(advance(again, 6), advance(torchs, 6), strict=True):
        assert mine == pytest.approx(reference, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        pytest.param(
            {"epoch": 3}, ValueError, r"no 'last_epoch', only \['epoch'\]; pass what state_dict", id="missing"
        ),
        pytest.param({"last_epoch": -2}, ValueError, "Invalid last_epoch value: -2", id="negative"),
        pytest.param({"last_epoch": math.nan}, ValueError, "Invalid last_epoch value: nan", id="nan"),
        pytest.param({"last_epoch": True}, TypeError, "Invalid last_epoch value: True", id="bool"),
    ],
)
def test_bad_state_is_refused(state: dict[str, Any], error: type[Exception], message: str):
    """A state without a valid step raises and leaves the scheduler and the rates as they were."""
    scheduler = ScheduleLR(optimizer_with(1.0), Linear(4))
    advance(scheduler)
    with pytest.raises(error, match=message):
        scheduler.load_state_dict(state)
    assert scheduler.last_epoch == 1
    assert rates(scheduler.optimizer) == [0.75]


def test_last_epoch_goes_on_behind_it():
    """``last_epoch=n`` means, as in torch, that step ``n`` is done; it needs an optimizer that was scheduled before."""
    with pytest.raises(KeyError, match="initial_lr"):
        ScheduleLR(optimizer_with(1.0), Linear(4), last_epoch=1)
    optimizer = optimizer_with(1.0)
    ScheduleLR(optimizer, Linear(4))
    scheduler = ScheduleLR(optimizer, Linear(4), last_epoch=1)
    assert whole_path(scheduler, 2) == [[0.5], [0.25], [0.0]]


@pytest.mark.parametrize("copied", [pytest.param(copy.deepcopy, id="deepcopy"), pytest.param(None, id="pickle")])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_copy_goes_on_by_itself(steps: int, copied: Callable | None):
    """A copied or pickled scheduler has its own optimizer, the same rates from there on, and gives no warning."""
    scheduler = WarmupLR(optimizer_with(1.0, torch.tensor(0.5)), 5, then=Cosine(10))
    advance(scheduler, steps)
    twin = copied(scheduler) if copied else pickle.loads(pickle.dumps(scheduler))
    assert twin.optimizer is not scheduler.optimizer
    ahead = advance(twin, 5)
    assert scheduler.last_epoch == steps
    assert advance(scheduler, 5) == ahead


# -------------------------------------------------------------------------------------------- beside torch's schedulers


@pytest.mark.parametrize(
    "make", [pytest.param(our_sequence, id="ours"), pytest.param(mixed_sequence, id="our-warmup-torchs-cosine")]
)
def test_sequence_gives_torchs_rates(make: Callable[[Optimizer], LRScheduler]):
    """In torch's ``SequentialLR`` our classes give the rates of torch's."""
    ours, torchs = make(optimizer_with(1.0, 0.1)), torchs_sequence(optimizer_with(1.0, 0.1))
    for mine, reference in zip(whole_path(ours, 15), whole_path(torchs, 15), strict=True):
        assert mine == pytest.approx(reference, rel=1e-12, abs=1e-16)


def test_sequence_of_three_resumes_at_every_step():
    """Parts of a ``SequentialLR`` that are done, or wait for their turn, leave the rate to the one whose turn it is."""

    def make(optimizer: Optimizer) -> LRScheduler:
        parts = [LinearLR(optimizer, 0.0, 1.0, 3), ConstantLR(optimizer, 0.5, 2), ExponentialLR(optimizer, 0.5)]
        return SequentialLR(optimizer, parts, [3, 6])

    path = whole_path(make(optimizer_with(1.0)), 9)
    for steps in range(9):
        scheduler = make(optimizer_with(1.0))
        advance(scheduler, steps)
        states = saved(scheduler.optimizer, scheduler)
        again = resumed(make, optimizer_with(1.0), ("optimizer", "build", "scheduler"), states)
        assert whole_path(again, 9 - steps) == path[steps:]


def test_chained_schedulers_multiply():
    """A ``ChainedScheduler`` of ours gives what a schedule gives that is the product of theirs."""
    optimizer = optimizer_with(1.0)
    parts = [LinearLR(optimizer, 0.5, 1.0, 2), ExponentialLR(optimizer, 0.5)]
    chain = ChainedScheduler(parts, optimizer)

    first, second = Linear(2, start=0.5, floor=1.0), Exponential(0.5)
    product = ScheduleLR(optimizer_with(1.0), lambda step: first(step) * second(step))
    assert whole_path(product, 2) == whole_path(chain, 2) == [[0.5], [0.375], [0.25]]


def test_present_rates_can_be_computed_at_any_time():
    """``get_lr`` is a function of the step alone: calling it outside ``step`` changes nothing and does not warn."""
    scheduler = ScheduleLR(optimizer_with(1.0), Exponential(0.5))
    advance(scheduler, 2)
    assert scheduler.get_lr() == scheduler.get_lr() == [0.25]
    assert advance(scheduler) == [[0.125]]


def test_wrong_order_of_steps_still_warns():
    """Torch's warning of ``scheduler.step()`` before ``optimizer.step()`` still comes, and comes only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advance(WarmupLR(optimizer_with(1.0), 5), 8)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        WarmupLR(optimizer_with(1.0), 5).step()


def test_first_update_at_rate_zero_changes_nothing():
    """A warm-up from exactly 0 leaves the parameters bit for bit as they were at the first update."""
    param = torch.tensor([1.0, -2.0], requires_grad=True)
    param.grad = torch.tensor([0.5, 1e3])
    optimizer = SGD([param], lr=0.5)
    scheduler = WarmupLR(optimizer, 4)
    advance(scheduler)
    assert param.tolist() == [1.0, -2.0]
    advance(scheduler)
    assert param.tolist() == [1.0 - 0.125 * 0.5, -2.0 - 0.125 * 1e3]
