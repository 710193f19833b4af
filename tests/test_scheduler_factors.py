"""A rate that others have changed stays changed: ``lr = base_lr * schedule(step) * factor``, and resumes right."""

import copy
import itertools
import math
import pickle
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import SWALR

import optizoo
from optizoo import lr_scheduler
from optizoo.rates import Mark
from optizoo.schedulers import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    PolynomialLR,
    ScheduleLR,
    SequentialLR,
    StepLR,
    WarmupLR,
)
from optizoo.schedules import Cosine, Exponential, Linear, Warmup
from tests.test_schedulers import ORDERS, advance, later_group, optimizer_with, rates, resumed, saved, whole_path

MAKE: dict[str, Callable[[Any, Optimizer], LRScheduler]] = {
    "constant": lambda module, o: module.ConstantLR(o, 0.1, 20),
    "exponential": lambda module, o: module.ExponentialLR(o, 0.99),
    "step": lambda module, o: module.StepLR(o, 7, 0.5),
    "multistep": lambda module, o: module.MultiStepLR(o, [3, 9, 30], 0.5),
    "linear": lambda module, o: module.LinearLR(o, 0.2, 0.8, 13),
    "polynomial": lambda module, o: module.PolynomialLR(o, 40, 0.9),
    "cosine": lambda module, o: module.CosineAnnealingLR(o, 60),
    "multiplicative": lambda module, o: torch_schedulers.MultiplicativeLR(o, lambda epoch: 0.97),
}


def plateau(optimizer: Optimizer) -> ReduceLROnPlateau:
    """Return a plateau scheduler that multiplies by 0.1 at every second step with the same metric."""
    return ReduceLROnPlateau(optimizer, factor=0.1, patience=0, cooldown=0, eps=0)


def reduce(scheduler: ReduceLROnPlateau) -> None:
    """Let a plateau scheduler multiply the rates by its factor once."""
    scheduler.best = -math.inf
    scheduler.step(1.0)


def close(path: list[list[float]]) -> Any:
    """Return what equals the rates to 1e-12, and zero exactly."""
    return [pytest.approx(each, rel=1e-12, abs=0) for each in path]


# ------------------------------------------------------------------------------------------------ others are multiplied


def test_chain_multiplies():
    """A ``ChainedScheduler`` over ours gives the product of its members, .05 where the last one alone gives .5."""
    optimizer = optimizer_with(0.5)
    chain = ChainedScheduler([ConstantLR(optimizer, 0.1, 20), ExponentialLR(optimizer, 0.99)])
    assert rates(optimizer) == [pytest.approx(0.05)]
    path = advance(chain, 30)
    assert path == close([[0.5 * (0.1 if t < 20 else 1.0) * 0.99**t] for t in range(1, 31)])


@pytest.mark.parametrize("names", list(itertools.permutations(MAKE, 2)), ids="-".join)
@pytest.mark.parametrize("where", ["ours", "torchs-first", "torchs-last"])
def test_chains_are_torchs(names: tuple[str, ...], where: str):
    """Every two of a chain, both ours or one of them torch's, give the rates of torch's chainable forms."""
    mine, torchs = optimizer_with(1.0, 0.3), optimizer_with(1.0, 0.3)
    modules = [torch_schedulers if where == "torchs-first" else lr_scheduler, lr_scheduler]
    if where == "torchs-last":
        modules.reverse()
        modules[1] = torch_schedulers
    ours = ChainedScheduler([MAKE[name](module, mine) for name, module in zip(names, modules, strict=True)])
    reference = ChainedScheduler([MAKE[name](torch_schedulers, torchs) for name in names])
    assert whole_path(ours, 55) == close(whole_path(reference, 55))


@pytest.mark.parametrize("seed", range(30))
def test_any_company_in_any_order_gives_torchs_rates(seed: int):
    """Up to four schedulers, ours and torch's, in any interleaving beside a plateau and a person have torch's rates."""
    chance = random.Random(seed)
    names = chance.choices(list(MAKE), k=chance.randint(1, 4))
    modules = [chance.choice([lr_scheduler, lr_scheduler, torch_schedulers]) for _ in names]
    mine, torchs = optimizer_with(1.0, 0.3), optimizer_with(1.0, 0.3)
    ours = [MAKE[name](module, mine) for name, module in zip(names, modules, strict=True)]
    reference = [MAKE[name](torch_schedulers, torchs) for name in names]
    plateaus = [plateau(mine), plateau(torchs)]
    for _ in range(60):
        mine.step()
        torchs.step()
        for index in chance.sample(range(len(names)), chance.randint(0, len(names))):
            ours[index].step()
            reference[index].step()
        if chance.random() < 0.03:
            for each in plateaus:
                reduce(each)
        if chance.random() < 0.03:
            for each in (mine, torchs):
                each.param_groups[0]["lr"] *= 2.5
        assert rates(mine) == pytest.approx(rates(torchs), rel=1e-12, abs=0)


def test_long_chain_does_not_drift():
    """After ten thousand steps of three, one of them ten times slower, the product is exact to 1e-12."""
    optimizer = optimizer_with(1.0)
    parts = [ExponentialLR(optimizer, 0.9995), CosineAnnealingLR(optimizer, 20_000), StepLR(optimizer, 100, 0.9)]
    for step in range(10_000):
        for index, part in enumerate(parts):
            if index < 2 or step % 10 == 9:
                part._update_lr()
    expected = Exponential(0.9995)(10_000) * Cosine(20_000)(10_000) * 0.9**10
    assert rates(optimizer) == [pytest.approx(expected, rel=1e-12)]


def test_schedules_stay_closed_forms():
    """With a factor a rate is still evaluated: ``step(epoch)`` goes anywhere and back, and keeps the factor."""
    scheduler = ExponentialLR(optimizer_with(1.0), 0.5)
    scheduler.optimizer.step()
    scheduler.optimizer.param_groups[0]["lr"] = 0.25
    for epoch in (40, 3, 0, 1):
        with pytest.warns(UserWarning, match="epoch parameter"):
            scheduler.step(epoch)
        assert rates(scheduler.optimizer) == [0.25 * 0.5**epoch]


@pytest.mark.thin
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda o: WarmupLR(o, 4, 0.1, then=Cosine(12)), id="warmup-cosine"),
        pytest.param(
            lambda o: SequentialLR(o, [LinearLR(o, 0.1, 1, 4), CosineAnnealingLR(o, 12)], [4]), id="sequential"
        ),
        pytest.param(
            lambda o: torch_schedulers.SequentialLR(o, [LinearLR(o, 0.1, 1, 4), CosineAnnealingLR(o, 12)], [4]),
            id="torchs-sequential",
        ),
    ],
)
@pytest.mark.parametrize("first", ["plateau-first", "schedule-first"])
@pytest.mark.parametrize("at", [0, 2, 3, 4, 5, 9])
def test_plateau_stays_reduced(make: Callable[[Optimizer], LRScheduler], first: str, at: int):
    """A ``ReduceLROnPlateau`` in or after a warm-up, before or behind the other in a step, reduces for good."""
    expected = whole_path(make(optimizer_with(1.0, 0.2)), 14)
    optimizer = optimizer_with(1.0, 0.2)
    scheduler, reducer = make(optimizer), plateau(optimizer)
    path = [rates(optimizer)]
    for step in range(14):
        optimizer.step()
        if first == "schedule-first":
            scheduler.step()
        if step == at:
            reduce(reducer)
        if first == "plateau-first":
            scheduler.step()
        path.append(rates(optimizer))
    assert path == close([[rate * (0.1 if step > at else 1) for rate in pair] for step, pair in enumerate(expected)])


def test_written_rate_stays_in_proportion():
    """A rate that a program writes into a group goes on along the schedule from there; other groups are untouched."""
    scheduler = ExponentialLR(optimizer_with(1.0, 1.0), 0.5)
    advance(scheduler)
    scheduler.optimizer.param_groups[0]["lr"] = 3.0
    assert advance(scheduler, 2) == [[1.5, 0.25], [0.75, 0.125]]


def test_rate_found_at_construction_counts():
    """A rate that differs from ``initial_lr`` when the scheduler is built has been changed by others."""
    optimizer = optimizer_with(1.0, 2.0)
    optimizer.param_groups[0]["initial_lr"] = 4.0
    assert whole_path(ExponentialLR(optimizer, 0.5), 2) == [[1.0, 2.0], [0.5, 1.0], [0.25, 0.5]]


def test_factor_is_one_unless_somebody_writes():
    """Nobody else writes: the factors are exactly 1 and every rate is ``base_lr * schedule(step)`` to the bit."""
    schedule = Warmup(3, then=Cosine(41), start=0.07)
    lrs = 0.1, 1 / 3, torch.tensor(0.3), torch.tensor(0.7, dtype=torch.float64), torch.tensor([0.3])
    scheduler = ScheduleLR(optimizer_with(*lrs), schedule)
    for step in range(60):
        single = [torch.tensor(base).item() * schedule(step) for base in (0.3, 0.3)]
        bases = torch.tensor(0.7, dtype=torch.float64).item()
        expected = [0.1 * schedule(step), 1 / 3 * schedule(step), single[0], bases * schedule(step), single[1]]
        expected[2], expected[4] = torch.tensor(expected[2]).item(), torch.tensor(expected[4]).item()
        assert rates(scheduler.optimizer) == expected
        assert scheduler.state_dict()["factors"] == [1.0] * 5
        advance(scheduler)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_stored_rate_is_no_change(dtype: torch.dtype):
    """A rate that became a tensor of a narrower type, or a float again, is the same rate: the factor stays 1."""
    scheduler = ScheduleLR(optimizer_with(0.1), Cosine(37))
    (group,) = scheduler.optimizer.param_groups
    for step in range(36):
        advance(scheduler)
        assert scheduler.state_dict()["factors"] == [1.0]
        if step % 2:
            lr = group["lr"]
            group["lr"] = lr.item() if isinstance(lr, torch.Tensor) else torch.tensor(lr, dtype=dtype)
        elif step % 3 and isinstance(group["lr"], float):
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32).item()
        assert scheduler.state_dict()["factors"] == [1.0]


def test_numpys_narrow_rate_is_no_change():
    """A rate that became a ``numpy.float32`` has not changed, and comes out as a plain float."""
    numpy = pytest.importorskip("numpy")
    scheduler = ScheduleLR(optimizer_with(0.1), Cosine(37))
    (group,) = scheduler.optimizer.param_groups
    for step in range(1, 10):
        group["lr"] = numpy.float32(group["lr"])
        advance(scheduler)
        assert type(group["lr"]) is float
        assert group["lr"] == 0.1 * Cosine(37)(step)


def test_tensor_rate_that_others_fill_counts():
    """A change written into a tensor lr counts, also through ``.data``, and the tensor stays the same object."""
    lr = torch.tensor(1.0)
    scheduler = ExponentialLR(optimizer_with(lr), 0.5)
    lr.mul_(0.5)
    assert advance(scheduler) == [[0.25]]
    lr.data.fill_(4.0)
    assert advance(scheduler) == [[2.0]]
    assert scheduler.optimizer.param_groups[0]["lr"] is lr


def test_rate_on_an_accelerator_is_read_only_after_a_change():
    """What a scheduler wrote there it does not read again, for that waits for the device; others' rates it does."""
    lr = torch.zeros((), device="meta")  # which can be written and not read
    mark = Mark({"lr": lr}, base=1.0, place=1.0, rate=1.0)
    mark.write(0.1)
    assert mark.number("lr") == mark.number("lr") == torch.tensor(0.1).item()
    lr.mul_(2)
    with pytest.raises(RuntimeError, match="meta"):
        mark.number("lr")


def test_cosine_with_a_floor_is_multiplied_as_a_whole():
    """What others do multiplies ``eta_min`` too: a reduction holds to the end, where torch's cosine undoes it."""

    def make(module: Any) -> LRScheduler:
        scheduler = module.CosineAnnealingLR(optimizer_with(1.0), 10, eta_min=0.2)
        advance(scheduler, 2)
        reduce(plateau(scheduler.optimizer))
        advance(scheduler, 8)
        return scheduler

    assert rates(make(lr_scheduler).optimizer) == [pytest.approx(0.02)]
    assert rates(make(torch_schedulers).optimizer) == [pytest.approx(0.2)]


def test_changed_base_rates_are_not_others():
    """New base rates are the program's own: the schedule goes on over them, and the factor is untouched."""
    scheduler = ExponentialLR(optimizer_with(1.0), 0.5)
    advance(scheduler)
    scheduler.optimizer.param_groups[0]["lr"] = 0.25  # a factor of a half
    scheduler.base_lrs = [8.0]
    assert advance(scheduler, 2) == [[1.0], [0.5]]


# ----------------------------------------------------------------------------------------------------------------- zero


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([Warmup(4), Exponential(0.5)], id="warmup-exponential"),
        pytest.param([Warmup(4), Linear(20, start=0.5)], id="warmup-linear"),
        pytest.param([Warmup(4), Warmup(7)], id="two-warmups"),
        pytest.param([Warmup(4), Exponential(0.5), lambda t: 0.0 if t < 3 else 0.25], id="three-two-from-zero"),
        pytest.param([Cosine(9), Exponential(0.9)], id="cosine-to-zero"),
        pytest.param([Warmup(3, then=Cosine(5)), Exponential(0.9), Cosine(30)], id="warmup-cosine"),
        pytest.param([lambda t: float(t % 3), Exponential(0.9)], id="zero-every-third"),
        pytest.param([lambda t: float(t % 3), lambda t: float(t % 2), Exponential(0.9)], id="zeros-of-two"),
    ],
)
@pytest.mark.parametrize("turn", [pytest.param(False, id="given"), pytest.param(True, id="reversed")])
def test_zero_of_a_schedule_multiplies_too(parts: list[Any], turn: bool):
    """Schedules that start at, end at or pass through exactly 0 multiply with others, in either order of steps."""
    parts = parts[::-1] if turn else parts
    optimizer = optimizer_with(2.0)
    chain = ChainedScheduler([ScheduleLR(optimizer, part) for part in parts])
    expected = [[2.0 * math.prod(part(step) for part in parts)] for step in range(25)]
    assert whole_path(chain, 24) == close(expected)


def test_finished_schedule_lets_the_next_begin():
    """A schedule that has ended at 0 does not hold the one that follows it, in a sequence or built by hand, at 0."""
    for module in (lr_scheduler, torch_schedulers):
        optimizer = optimizer_with(1.0)
        parts: list[Any] = [PolynomialLR(optimizer, 2), WarmupLR(optimizer, 4)]
        path = whole_path(module.SequentialLR(optimizer, parts, [4]), 7)
        assert path == close([[1.0], [0.5], [0.0], [0.0], [0.0], [0.25], [0.5], [0.75]])
    optimizer = optimizer_with(1.0)
    ended = PolynomialLR(optimizer, 2)
    advance(ended, 3)
    optimizer.param_groups[0]["lr"] = 0.5
    assert whole_path(WarmupLR(optimizer, 2), 2) == [[0.0], [0.25], [0.5]]
    ended = WarmupLR(optimizer, 3)
    assert whole_path(WarmupLR(optimizer, 2), 2) == [[0.0], [0.25], [0.5]]


def test_zero_of_others_stays():
    """A group that a program freezes with a rate of 0 stays frozen, and goes on from the rate that it writes later."""
    scheduler = ExponentialLR(optimizer_with(1.0, 1.0), 0.5)
    frozen = scheduler.optimizer.param_groups[0]
    advance(scheduler)
    frozen["lr"] = 0.0
    assert advance(scheduler, 2) == [[0.0, 0.25], [0.0, 0.125]]
    frozen["lr"] = 0.125
    assert advance(scheduler) == [[0.0625, 0.0625]]
    assert scheduler.state_dict()["factors"] == [1.0, 1.0]


@pytest.mark.parametrize("kind", [SequentialLR, torch_schedulers.SequentialLR], ids=["ours", "torchs"])
def test_zero_of_others_stays_over_a_milestone(kind: type):
    """A group that a program has frozen is not thawed by the next member of a sequence; later it goes on as others."""
    optimizer = optimizer_with(1.0, 1.0)
    parts = [ExponentialLR(optimizer, 0.5), ExponentialLR(optimizer, 0.25), ConstantLR(optimizer, 0.5, 9)]
    scheduler = kind(optimizer, parts, [3, 6])
    advance(scheduler)
    optimizer.param_groups[0]["lr"] = 0.0
    assert advance(scheduler, 3) == [[0.0, 0.25], [0.0, 1.0], [0.0, 0.25]]
    optimizer.param_groups[0]["lr"] = 0.125
    assert advance(scheduler, 3) == [[0.03125, 0.0625], [0.25, 0.5], [0.25, 0.5]]


def test_mixed_chain_in_torchs_sequence_is_torchs():
    """Where a member of torch's had its turn, the next begins at the base rate, as in torch's class over torch's."""
    paths = []
    for module in (lr_scheduler, torch_schedulers):
        optimizer = optimizer_with(1.0)
        parts = [torch_schedulers.ConstantLR(optimizer, 0.5, 9), module.LinearLR(optimizer, 0.1, 1.0, 5)]
        second, third = module.ExponentialLR(optimizer, 0.9), torch_schedulers.StepLR(optimizer, 2)
        members = [ChainedScheduler(parts), second, third, module.ConstantLR(optimizer, 0.3)]
        with pytest.warns(UserWarning, match="before `optimizer.step"):
            scheduler = torch_schedulers.SequentialLR(optimizer, members, [4, 8, 12])
        paths.append(whole_path(scheduler, 15))
    assert paths[0] == close(paths[1])


def test_torchs_zero_stays():
    """Where torch's polynomial has come to 0, ours beside it do not raise the rate."""
    optimizer = optimizer_with(1.0)
    parts = [torch_schedulers.PolynomialLR(optimizer, 3), ConstantLR(optimizer, 0.5, 2)]
    chain = ChainedScheduler(parts)
    assert whole_path(chain, 4) == close([[0.5], [1 / 3], [1 / 3], [0.0], [0.0]])


def test_rate_written_where_the_schedule_says_zero_does_not_last():
    """While the schedule says 0 a written rate tells no ratio: the next step is on the schedule."""
    scheduler = WarmupLR(optimizer_with(1.0), 4)
    scheduler.optimizer.param_groups[0]["lr"] = 0.7
    assert advance(scheduler, 2) == [[0.25], [0.5]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rate_that_is_no_number_does_not_spoil_the_factor(bad: float):
    """A rate that is no finite number is left for the optimizer to refuse; a good one in its place goes on."""
    scheduler = ExponentialLR(optimizer_with(1.0), 0.5)
    group = scheduler.optimizer.param_groups[0]
    group["lr"] = bad
    scheduler._update_lr()
    assert math.isnan(group["lr"]) if math.isnan(bad) else group["lr"] == bad
    group["lr"] = 0.5
    assert advance(scheduler) == [[0.25]]


# --------------------------------------------------------------------------------------------------------- param groups


def test_groups_have_factors_of_their_own():
    """Added and removed groups keep their own factors, whatever their place in the list."""
    scheduler = ExponentialLR(optimizer_with(1.0, 2.0), 0.5)
    optimizer = scheduler.optimizer
    optimizer.param_groups[1]["lr"] = 6.0
    optimizer.add_param_group(later_group(lr=4.0))
    assert advance(scheduler) == [[0.5, 3.0, 2.0]]
    del optimizer.param_groups[0]
    assert advance(scheduler) == [[1.5, 1.0]]
    assert scheduler.state_dict()["factors"] == [3.0, 1.0]


def test_group_copied_from_a_scheduled_one_is_on_schedule():
    """A group that is added with the settings of another, ``initial_lr`` and present rate, goes on beside it."""
    scheduler = ExponentialLR(optimizer_with(1.0), 0.5)
    optimizer = scheduler.optimizer
    advance(scheduler, 2)
    optimizer.add_param_group({**optimizer.param_groups[0], **later_group()})
    assert advance(scheduler) == [[0.125, 0.125]]
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.add_param_group({**optimizer.param_groups[0], **later_group()})
    assert advance(scheduler) == [[0.125, 0.0625, 0.125]]


def test_groups_may_change_places():
    """Groups that were put in another order, or replaced in one go with others, keep their own factors."""
    scheduler = ExponentialLR(optimizer_with(1.0, 1.0), 0.5)
    groups = scheduler.optimizer.param_groups
    groups[1]["lr"] = 3.0
    groups.reverse()
    assert advance(scheduler) == [[1.5, 0.5]]
    del groups[0]
    scheduler.optimizer.add_param_group(later_group(lr=4.0))
    assert advance(scheduler) == [[0.25, 1.0]]


def test_exchanged_group_is_the_same_group():
    """A group dict that is replaced by another, as some programs do, keeps its factor."""
    scheduler = ExponentialLR(optimizer_with(1.0), 0.5)
    groups = scheduler.optimizer.param_groups
    groups[0] = dict(groups[0], lr=0.25)
    assert advance(scheduler) == [[0.125]]
    groups[0] = dict(groups[0])
    assert advance(scheduler) == [[0.0625]]


# --------------------------------------------------------------------------------------------------------------- resume


def alone(o: Optimizer) -> LRScheduler:
    return ScheduleLR(o, Warmup(5, then=Cosine(20), start=0.1))


def chained(o: Optimizer) -> LRScheduler:
    return ChainedScheduler([WarmupLR(o, 5), ExponentialLR(o, 0.97), StepLR(o, 4, 0.7)])


def reversed_chain(o: Optimizer) -> LRScheduler:
    return ChainedScheduler([StepLR(o, 4, 0.7), ExponentialLR(o, 0.97), WarmupLR(o, 5)])


def mixed_chain(o: Optimizer) -> LRScheduler:
    return ChainedScheduler([LinearLR(o, 0.1, 1.0, 5), torch_schedulers.MultiplicativeLR(o, lambda epoch: 0.9)])


def sequence(o: Optimizer) -> LRScheduler:
    return SequentialLR(o, [LinearLR(o, 0.1, 1.0, 5), CosineAnnealingLR(o, 20)], [5])


def sequence_of_torchs(o: Optimizer) -> LRScheduler:
    parts = [torch_schedulers.LinearLR(o, 0.1, 1.0, 5), torch_schedulers.CosineAnnealingLR(o, 20)]
    return SequentialLR(o, parts, [5])


def sequence_of_chains(o: Optimizer) -> LRScheduler:
    first = ChainedScheduler([LinearLR(o, 0.1, 1.0, 5), torch_schedulers.ConstantLR(o, 0.5, 3)])
    second = ChainedScheduler([StepLR(o, 3, 0.5), ExponentialLR(o, 0.9)])
    return SequentialLR(o, [first, second], [5])


def torchs_sequence_of_a_chain(o: Optimizer) -> LRScheduler:
    first = ChainedScheduler([LinearLR(o, 0.1, 1.0, 5), ConstantLR(o, 0.5, 3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's steps the chain before the optimizer
        return torch_schedulers.SequentialLR(o, [first, CosineAnnealingLR(o, 20)], [5])


def torchs_sequence_of_ours(o: Optimizer) -> LRScheduler:
    return torch_schedulers.SequentialLR(o, [LinearLR(o, 0.1, 1.0, 5), CosineAnnealingLR(o, 20)], [5])


CHANGED = [
    alone,
    chained,
    reversed_chain,
    mixed_chain,
    sequence,
    sequence_of_torchs,
    sequence_of_chains,
    torchs_sequence_of_ours,
    torchs_sequence_of_a_chain,
]


@pytest.mark.thin
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("when", ["before-the-step", "behind-the-step"])
@pytest.mark.parametrize("steps", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("make", CHANGED, ids=lambda make: make.__name__)
def test_resume_with_changed_rates_is_exact(
    make: Callable[[Optimizer], LRScheduler], steps: int, when: str, order: tuple[str, ...]
):
    """A run whose rates others have changed, also since the last step, resumes to the same rates in any load order."""
    if make is mixed_chain and order == ("optimizer", "build", "scheduler"):
        pytest.skip("torch's MultiplicativeLR has the present rate for its only state, and loads none")
    optimizer = optimizer_with(1.0, torch.tensor(0.1))
    scheduler = make(optimizer)
    for step in range(steps + 1):
        if step == steps and when == "before-the-step":
            reduce(plateau(optimizer))
            optimizer.param_groups[1]["lr"].mul_(3.0)
        advance(scheduler)
    if when == "behind-the-step":
        reduce(plateau(optimizer))
        optimizer.param_groups[1]["lr"].mul_(3.0)
    states = saved(optimizer, scheduler)
    again = resumed(make, optimizer_with(1.0, torch.tensor(0.1)), order, states)
    assert rates(again.optimizer) == rates(optimizer)
    for mine, theirs in zip(advance(again, 15), advance(scheduler, 15), strict=True):
        assert mine[0] == pytest.approx(theirs[0], rel=1e-14, abs=0)
        assert mine[1] == pytest.approx(theirs[1], rel=torch.finfo(torch.float32).eps, abs=0)  # the last bit


@pytest.mark.parametrize("order", ORDERS)
def test_resume_with_a_frozen_group_is_exact(order: tuple[str, ...]):
    """A group that others hold at 0 is held after a resume, and thaws to the same rates."""
    scheduler = alone(optimizer_with(1.0))
    advance(scheduler, 7)
    scheduler.optimizer.param_groups[0]["lr"] = 0.0
    advance(scheduler)
    states = saved(scheduler.optimizer, scheduler)
    again = resumed(alone, optimizer_with(1.0), order, states)
    assert advance(again, 2) == [[0.0], [0.0]] == advance(scheduler, 2)
    for each in (scheduler, again):
        each.optimizer.param_groups[0]["lr"] = 0.3
    assert advance(again, 5) == advance(scheduler, 5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lr", [1.0, 8.0])
def test_old_states_have_no_factors(order: tuple[str, ...], lr: float):
    """A state of ``last_epoch`` alone, as version 0.1 wrote it, goes on with factors of exactly 1."""
    scheduler = alone(optimizer_with(1.0, 0.1))
    advance(scheduler, 8)
    states = [*saved(scheduler.optimizer), {"last_epoch": 8}]
    again = resumed(alone, optimizer_with(lr, lr), order, states)
    assert rates(again.optimizer) == rates(scheduler.optimizer)
    assert advance(again, 12) == advance(scheduler, 12)
    assert again.state_dict()["factors"] == [1.0, 1.0]


@pytest.mark.parametrize("order", ORDERS)
def test_states_of_torchs_chains_load(order: tuple[str, ...]):
    """A run of torch's chain whose plateau was reduced goes on with ours at the same rates, in any load order."""

    def make(module: Any) -> Callable[[Optimizer], LRScheduler]:
        return lambda o: ChainedScheduler([module.ConstantLR(o, 0.1, 20), module.ExponentialLR(o, 0.9)])

    torchs = make(torch_schedulers)(optimizer_with(1.0, 0.3))
    advance(torchs, 3)
    reduce(plateau(torchs.optimizer))
    advance(torchs, 5)
    states = saved(torchs.optimizer, torchs)
    again = resumed(make(lr_scheduler), optimizer_with(1.0, 0.3), order, states)
    assert advance(again, 20) == close(advance(torchs, 20))


@pytest.mark.parametrize("order", ORDERS)
def test_rounding_of_torchs_recursion_is_no_change(order: tuple[str, ...]):
    """The last bits of a rate that torch's recursion has reached do not count: the factor of a loaded run is 1."""
    torchs = torch_schedulers.CosineAnnealingLR(optimizer_with(1.0, torch.tensor(0.3)), 100)
    advance(torchs, 77)
    states = saved(torchs.optimizer, torchs)
    again = resumed(lambda o: CosineAnnealingLR(o, 100), optimizer_with(1.0, torch.tensor(0.3)), order, states)
    assert again.state_dict()["factors"] == [1.0, 1.0]
    assert advance(again, 3)[-1][0] == Cosine(100)(80)


def test_state_is_plain_numbers():
    """The state is ``last_epoch``, and for each group the factor and the present rate; reading it changes nothing."""
    scheduler = ExponentialLR(optimizer_with(1.0, torch.tensor(2.0)), 0.5)
    advance(scheduler, 2)
    scheduler.optimizer.param_groups[0]["lr"] = 1.0
    expected = {"last_epoch": 2, "factors": [4.0, 1.0], "_last_lr": [1.0, 0.5]}
    assert scheduler.state_dict() == scheduler.state_dict() == expected
    assert saved(scheduler) == [expected]


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"last_epoch": 1, "factors": ["x"]}, id="text"),
        pytest.param({"last_epoch": 1, "factors": 3.0}, id="number"),
        pytest.param({"last_epoch": 1, "_last_lr": [None]}, id="none"),
        pytest.param({"last_epoch": 1, "factors": [math.nan]}, id="nan"),
    ],
)
def test_bad_factors_are_refused(state: dict[str, Any]):
    """Factors or rates that are no list of numbers raise and leave the scheduler and the rates as they were."""
    scheduler = ExponentialLR(optimizer_with(1.0), 0.5)
    advance(scheduler, 2)
    with pytest.raises((TypeError, ValueError), match=r"must be a list of numbers"):
        scheduler.load_state_dict(state)
    assert (scheduler.last_epoch, rates(scheduler.optimizer)) == (2, [0.25])


def test_scheduler_built_again_in_the_middle_goes_on():
    """With ``last_epoch=N`` a scheduler, or each of a chain, that is built again over the living optimizer goes on."""
    reference, optimizer = optimizer_with(1.0), optimizer_with(1.0)
    whole = [StepLR(reference, 3, 0.5), ExponentialLR(reference, 0.9)]
    parts = [StepLR(optimizer, 3, 0.5), ExponentialLR(optimizer, 0.9)]
    for step in range(9):
        for one, two in zip(whole, parts, strict=True):
            one._update_lr()
            two._update_lr()
        if step in (2, 5):
            before = rates(optimizer)
            parts = [StepLR(optimizer, 3, 0.5, last_epoch=step), ExponentialLR(optimizer, 0.9, last_epoch=step)]
            assert rates(optimizer) == pytest.approx(before, rel=1e-12)
        assert rates(optimizer) == pytest.approx(rates(reference), rel=1e-12)


@pytest.mark.parametrize(
    "lr",
    [
        pytest.param(1.0, id="base"),
        pytest.param(0.5**4, id="step-that-is-done"),
        pytest.param(0.5**5, id="step-that-comes"),
    ],
)
def test_last_epoch_does_not_take_the_schedule_for_a_change(lr: float):
    """``last_epoch=4`` finds the base rate or the schedule's own: in all these cases the factor is 1."""
    optimizer = optimizer_with(lr)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    scheduler = ExponentialLR(optimizer, 0.5, last_epoch=4)
    assert whole_path(scheduler, 1) == [[0.5**5], [0.5**6]]
    assert scheduler.state_dict()["factors"] == [1.0]


@pytest.mark.thin
@pytest.mark.parametrize("copied", [pytest.param(copy.deepcopy, id="deepcopy"), pytest.param(None, id="pickle")])
@pytest.mark.parametrize("make", CHANGED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("steps", [0, 3, 7])
@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # of torch's members; a copy has lost torch's wrapper
def test_copies_keep_their_factors(make: Callable[[Optimizer], LRScheduler], steps: int, copied: Callable | None):
    """A copied or pickled scheduler goes on by itself with the factors that it had."""
    if make is mixed_chain and not copied:
        pytest.skip("a lambda cannot be pickled")
    optimizer = optimizer_with(1.0, torch.tensor(0.1))
    scheduler = make(optimizer)
    advance(scheduler, steps)
    reduce(plateau(optimizer))
    twin = copied(scheduler) if copied else pickle.loads(pickle.dumps(scheduler))
    assert twin.optimizer is not optimizer
    ahead = advance(twin, 12)
    assert advance(scheduler, 12) == ahead


def test_pickle_of_a_former_version_goes_on():
    """A scheduler that was pickled by version 0.1, which kept no factors, finds its rates on schedule."""
    scheduler = ExponentialLR(optimizer_with(1.0, torch.tensor(0.3)), 0.7)
    advance(scheduler, 4)
    state = {name: value for name, value in scheduler.__dict__.items() if name not in ("_marks", "_active")}
    again = ExponentialLR.__new__(ExponentialLR)
    again.__setstate__(copy.deepcopy(state))
    assert again.state_dict()["factors"] == [1.0, 1.0]
    assert advance(again, 3) == advance(scheduler, 3)


SHAPES: list[Callable[[random.Random], Any]] = [
    lambda chance: Warmup(chance.randint(1, 6)),
    lambda chance: Cosine(chance.randint(3, 12)),
    lambda chance: Exponential(0.9),
    lambda chance: Linear(7, floor=0.3),
    lambda chance: Warmup(3, then=Cosine(5, floor=0.1), start=0.2),
]


@pytest.mark.parametrize("seed", range(60))
def test_any_program_follows_the_product(seed: int):
    """Chains in sequences beside another scheduler, meddled with, saved and resumed at random, follow the product."""
    chance = random.Random(seed)
    turns = [[chance.choice(SHAPES)(chance) for _ in range(chance.randint(1, 2))] for _ in range(chance.randint(1, 3))]
    kind = chance.choice([SequentialLR, torch_schedulers.SequentialLR])
    beside = Exponential(0.95) if kind is SequentialLR and chance.random() < 0.5 else Exponential(1.0)
    if kind is not SequentialLR:  # which begins with no chain
        turns = [turn[:1] for turn in turns]
    milestones = sorted(chance.sample(range(1, 15), len(turns) - 1))

    def make(optimizer: Optimizer) -> list[LRScheduler]:
        first = ScheduleLR(optimizer, beside)
        parts = [[ScheduleLR(optimizer, each) for each in turn] for turn in turns]
        members: list[Any] = [part[0] if len(part) == 1 else ChainedScheduler(part) for part in parts]
        return [kind(optimizer, members, milestones), first]

    def expected(step: int) -> float:
        index = sum(milestone <= step for milestone in milestones)
        begun = milestones[index - 1] if index else 0
        return math.prod(each(step - begun) for each in turns[index]) * beside(step)

    optimizer = optimizer_with(1.0, 0.25)
    schedulers, others = make(optimizer), [1.0, 1.0]
    for step in range(1, 25):
        optimizer.step()
        for each in schedulers:
            each.step()
        right = [base * expected(step) * other for base, other in zip((1.0, 0.25), others, strict=True)]
        assert rates(optimizer) == pytest.approx(right, rel=1e-12, abs=0)
        index = chance.randrange(2)
        if chance.random() < 0.15 and rates(optimizer)[index]:
            optimizer.param_groups[index]["lr"] *= 0.5
            others[index] *= 0.5
        if chance.random() < 0.15:
            before, states = rates(optimizer), saved(optimizer, *schedulers)
            order: Any = chance.choice(ORDERS).values[0]
            optimizer = optimizer_with(1.0, 0.25)
            for action in order:
                if action == "build":
                    schedulers = make(optimizer)
                elif action == "optimizer":
                    optimizer.load_state_dict(states[0])
                else:
                    for each, state in zip(schedulers, states[1:], strict=True):
                        each.load_state_dict(state)
            assert rates(optimizer) == before


# ------------------------------------------------------------------------------------------ torch's other schedulers


def test_swa_takes_over():
    """``SWALR``, built at the start and stepped at the end, anneals from the rate that ours has come to."""
    paths = []
    for module in (lr_scheduler, torch_schedulers):
        optimizer = optimizer_with(1.0)
        scheduler, swa = module.ExponentialLR(optimizer, 0.9), SWALR(optimizer, swa_lr=0.05, anneal_epochs=4)
        paths.append([*advance(scheduler, 6), *advance(swa, 6)])
    assert paths[0] == close(paths[1])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda o: torch_schedulers.OneCycleLR(o, 0.5, total_steps=20, cycle_momentum=False), id="one-cycle"
        ),
        pytest.param(lambda o: torch_schedulers.CyclicLR(o, 0.1, 0.5, 4, cycle_momentum=False), id="cyclic"),
        pytest.param(lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 5), id="restarts"),
        pytest.param(lambda o: torch_schedulers.LambdaLR(o, lambda epoch: 0.9**epoch), id="lambda"),
    ],
)
@pytest.mark.parametrize("order", ["ours-first", "ours-last"])
def test_schedulers_that_set_absolute_rates(make: Callable[[Optimizer], LRScheduler], order: str):
    """Beside torch's schedulers that set the rate whatever it was, ours gives what torch's chainable form gives."""
    paths = []
    for module in (lr_scheduler, torch_schedulers):
        optimizer = optimizer_with(1.0)
        kinds = [lambda o, module=module: module.ExponentialLR(o, 0.9), make]
        parts = [kind(optimizer) for kind in (kinds if order == "ours-first" else kinds[::-1])]
        paths.append(whole_path(ChainedScheduler(parts), 15))
    assert paths[0] == close(paths[1])


def test_phases_by_hand():
    """Two schedulers that are built one behind the other go on from where the first has left the rate, as torch's."""
    paths = []
    for module in (lr_scheduler, torch_schedulers):
        optimizer = optimizer_with(1.0)
        path = advance(module.LinearLR(optimizer, 0.1, 0.5, 4), 5)
        paths.append([*path, *advance(module.CosineAnnealingLR(optimizer, 10), 10)])
    assert paths[0] == close(paths[1])


def test_our_optimizers_step_with_the_rate():
    """The factor reaches the update: ours steps by the rate of the chain."""
    param = torch.zeros(2, requires_grad=True)
    optimizer = optizoo.SGD([param], lr=0.5)
    chain = ChainedScheduler([ConstantLR(optimizer, 0.1, 20), ExponentialLR(optimizer, 0.5)])
    for _ in range(5):
        param.grad = torch.ones(2)
        optimizer.step()
        chain.step()
    assert param.detach().tolist() == pytest.approx([-0.05 * (1 + 0.5 + 0.25 + 0.125 + 0.0625)] * 2)


def test_subclass_with_its_own_rates_is_heard():
    """A subclass that overrides ``get_lr``, as torch allows, sets its own rates, and they are no change by others."""

    class Doubled(ExponentialLR):
        def get_lr(self) -> list[float | torch.Tensor]:
            return [2 * lr for lr in super().get_lr()]

    scheduler = Doubled(optimizer_with(1.0), 0.5)
    assert whole_path(scheduler, 2) == [[2.0], [1.0], [0.5]]
    assert scheduler.state_dict()["factors"] == [1.0]


def test_schedule_is_evaluated_once_a_step():
    """A schedule is called once for a step, whatever others do, so one that counts or draws is not disturbed."""
    calls = []
    scheduler = ScheduleLR(optimizer_with(1.0, 2.0), lambda step: calls.append(step) or 0.5**step)
    reduce(plateau(scheduler.optimizer))
    advance(scheduler, 3)
    assert calls == [0, 1, 2, 3]


def test_scheduler_is_freed():
    """A scheduler dies with its last reference, though others on the optimizer know it."""
    import gc
    import weakref

    optimizer = optimizer_with(1.0)
    kept, gone = WarmupLR(optimizer, 4), ExponentialLR(optimizer, 0.5)
    gc.disable()
    try:
        reference = weakref.ref(gone)
        del gone
        assert reference() is None
    finally:
        gc.enable()
    assert advance(kept) == [[0.25]]
