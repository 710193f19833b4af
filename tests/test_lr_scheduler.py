"""``optizoo.lr_scheduler`` has every name of ``torch.optim.lr_scheduler``, and a ``SequentialLR`` that is mended."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau

import optizoo
from optizoo import lr_scheduler, schedulers
from optizoo.schedulers import ConstantLR, CosineAnnealingLR, ExponentialLR, LinearLR, SequentialLR, StepLR, WarmupLR
from tests.test_schedulers import advance, later_group, optimizer_with, rates, resumed, saved, whole_path

OURS = {
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "PolynomialLR",
    "SequentialLR",
    "StepLR",
}


# --------------------------------------------------------------------------------------------------------------- names


def test_every_name_of_torch_is_here():
    """Every name of torch's module is here: ours where we have one, else the very object of torch's."""
    public = {name for name in dir(torch_schedulers) if not name.startswith("_")}
    for name in public | set(torch_schedulers.__all__) | {"_LRScheduler"}:
        mine, theirs = getattr(lr_scheduler, name), getattr(torch_schedulers, name)
        assert (mine is theirs) == (name not in OURS), name
        assert name in dir(lr_scheduler)


def test_listed_names_are_torchs_and_ours():
    """``__all__`` lists torch's names and those of ours that torch has not, and each can be imported by a star."""
    assert set(lr_scheduler.__all__) == {*torch_schedulers.__all__, "InverseSqrtLR", "ScheduleLR", "WarmupLR"}
    space: dict[str, Any] = {}
    exec("from optizoo.lr_scheduler import *", space)
    assert set(lr_scheduler.__all__) <= set(space)


def test_classes_are_those_of_schedulers():
    """The classes are one with those of ``optizoo.schedulers``, so both imports serve."""
    for name in schedulers.__all__:
        assert getattr(lr_scheduler, name) is getattr(schedulers, name)
    assert optizoo.lr_scheduler is lr_scheduler


@pytest.mark.parametrize("name", sorted(OURS))
def test_signatures_are_torchs(name: str):
    """A class of ours takes torch's arguments, in torch's order, with torch's defaults."""

    def arguments(kind: type) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(kind).parameters.values()]

    assert arguments(getattr(lr_scheduler, name)) == arguments(getattr(torch_schedulers, name))
    assert issubclass(getattr(lr_scheduler, name), LRScheduler)


def test_unknown_name_is_refused():
    """A name that neither has raises AttributeError and says so."""
    with pytest.raises(AttributeError, match=r"'optizoo.lr_scheduler' has no attribute 'StepsLR', and torch.optim"):
        lr_scheduler.StepsLR  # noqa: B018
    with pytest.raises(ImportError):
        exec("from optizoo.lr_scheduler import StepsLR")


def test_module_is_imported_as_torchs():
    """``import optizoo.lr_scheduler as lr_scheduler`` and ``from optizoo.lr_scheduler import StepLR`` both work."""
    code = (
        "import optizoo.lr_scheduler as lr_scheduler; from optizoo.lr_scheduler import StepLR, OneCycleLR; "
        "from optizoo import lr_scheduler as same; assert same is lr_scheduler"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------------------- sequential


def parts_of(module: Any, o: Optimizer) -> list[Any]:
    return [module.LinearLR(o, 0.1, 1.0, 3), module.ConstantLR(o, 0.5, 2), module.ExponentialLR(o, 0.5)]


def ours(o: Optimizer, last_epoch: int = -1) -> LRScheduler:
    return SequentialLR(o, parts_of(lr_scheduler, o), [3, 6], last_epoch)


def of_torchs(o: Optimizer, last_epoch: int = -1) -> LRScheduler:
    return SequentialLR(o, parts_of(torch_schedulers, o), [3, 6], last_epoch)


def mixed(o: Optimizer, last_epoch: int = -1) -> LRScheduler:
    parts = [torch_schedulers.LinearLR(o, 0.1, 1.0, 3), ConstantLR(o, 0.5, 2), torch_schedulers.ExponentialLR(o, 0.5)]
    return SequentialLR(o, parts, [3, 6], last_epoch)


def of_torchs_setters(o: Optimizer, last_epoch: int = -1) -> LRScheduler:
    parts = [
        torch_schedulers.LambdaLR(o, lambda step: 0.9**step),
        torch_schedulers.CosineAnnealingWarmRestarts(o, 2),
        torch_schedulers.MultiplicativeLR(o, lambda step: 0.7),
    ]
    return SequentialLR(o, parts, [3, 6], last_epoch)


def of_chains(o: Optimizer, last_epoch: int = -1) -> LRScheduler:
    first = ChainedScheduler([LinearLR(o, 0.1, 1.0, 3), torch_schedulers.ConstantLR(o, 0.5, 2)])
    second = ChainedScheduler([StepLR(o, 2, 0.5), ExponentialLR(o, 0.9)])
    return SequentialLR(o, [first, second], [4], last_epoch)


def nested(o: Optimizer, last_epoch: int = -1) -> LRScheduler:
    first = SequentialLR(o, [LinearLR(o, 0.1, 1.0, 2), ConstantLR(o, 0.5, 1)], [2])
    second = SequentialLR(o, [ExponentialLR(o, 0.5), StepLR(o, 1, 0.9)], [2])
    return SequentialLR(o, [first, second], [4], last_epoch)


MAKES = [ours, of_torchs, mixed, of_torchs_setters, of_chains, nested]


@pytest.mark.parametrize("make", [ours, of_torchs, mixed], ids=lambda make: make.__name__)
def test_sequence_is_torchs(make: Callable[[Optimizer], LRScheduler]):
    """Members of ours, of torch's and mixed have the rates of torch's class over torch's."""
    optimizer = optimizer_with(1.0, 0.3)
    torchs = torch_schedulers.SequentialLR(optimizer, parts_of(torch_schedulers, optimizer), [3, 6])
    scheduler = make(optimizer_with(1.0, 0.3))
    for mine, theirs in zip(whole_path(scheduler, 12), whole_path(torchs, 12), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12, abs=0)
    assert scheduler.get_last_lr() == rates(scheduler.optimizer)


def test_chains_stand_anywhere():
    """A chain in the second place begins with its first step, where torch's class raises NotImplementedError."""
    path = [rate for (rate,) in whole_path(of_chains(optimizer_with(1.0)), 9)]
    first = [(0.1 + 0.3 * min(step, 3)) * (0.5 if step < 2 else 1) for step in range(4)]
    second = [0.5 ** (step // 2) * 0.9**step for step in range(6)]
    assert path == pytest.approx([*first, *second], rel=1e-12)

    optimizer = optimizer_with(1.0)
    parts: list[Any] = [ConstantLR(optimizer), ChainedScheduler([StepLR(optimizer, 2), ExponentialLR(optimizer, 0.9)])]
    with pytest.raises(NotImplementedError):
        advance(torch_schedulers.SequentialLR(optimizer, parts, [1]))


def test_sequences_nest():
    """A sequence of sequences follows the inner ones, each from its own step 0."""
    path = [rate for (rate,) in whole_path(nested(optimizer_with(1.0)), 8)]
    assert path == pytest.approx([0.1, 0.55, 0.5, 1.0, 1.0, 0.5, 1.0, 0.9, 0.81], rel=1e-12)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("last_epoch", range(9))
def test_sequence_goes_on_behind_last_epoch(make: Callable[..., LRScheduler], last_epoch: int):
    """``last_epoch=N`` goes on behind step ``N``, over a fresh optimizer and over one that was loaded."""
    whole = make(optimizer_with(1.0, torch.tensor(0.25, dtype=torch.float64)))
    path = whole_path(whole, 14)
    advanced = make(optimizer_with(1.0, torch.tensor(0.25, dtype=torch.float64)))
    advance(advanced, last_epoch + 1)
    loaded = optimizer_with(1.0, torch.tensor(0.25, dtype=torch.float64))
    loaded.load_state_dict(advanced.optimizer.state_dict())
    fresh = optimizer_with(1.0, torch.tensor(0.25, dtype=torch.float64))
    for group in fresh.param_groups:
        group["initial_lr"] = group["lr"] if isinstance(group["lr"], float) else group["lr"].clone()
    for optimizer in (loaded, fresh):
        for mine, expected in zip(whole_path(make(optimizer, last_epoch), 5), path[last_epoch + 1 :], strict=False):
            assert mine == pytest.approx(expected, rel=1e-12, abs=0)


def test_sequence_of_torch_starts_again():
    """Torch's fault that the test above is about (pytorch#162591): it starts with the first rates again."""
    optimizer = optimizer_with(1.0)
    scheduler = torch_schedulers.SequentialLR(optimizer, parts_of(torch_schedulers, optimizer), [3, 6], last_epoch=6)
    assert rates(optimizer) == [0.1]
    assert scheduler.last_epoch == 7


def test_sequence_keeps_what_others_did():
    """At each milestone what others have done stays, and what the members did, torch's too, is theirs alone."""
    for make in (ours, of_torchs, mixed, of_chains):
        expected = [rate for (rate,) in whole_path(make(optimizer_with(1.0)), 10)]
        for at in range(10):
            scheduler = make(optimizer_with(1.0))
            reducer = ReduceLROnPlateau(scheduler.optimizer, factor=0.1, patience=0, eps=0)
            reducer.step(0.0)
            path = rates(scheduler.optimizer)
            for step in range(10):
                path += advance(scheduler)[0]
                if step == at:
                    reducer.step(1.0)
            factors = [0.1 if step > at + 1 else 1.0 for step in range(11)]
            right = [rate * factor for rate, factor in zip(expected, factors, strict=True)]
            assert path == pytest.approx(right, rel=1e-12), (make.__name__, at)


def test_sequence_beside_another_scheduler():
    """A sequence multiplies with a scheduler that stands beside it, over its milestones too."""
    optimizer = optimizer_with(1.0)
    beside, scheduler = ExponentialLR(optimizer, 0.9), ours(optimizer)
    alone = whole_path(ours(optimizer_with(1.0)), 10)
    for step in range(1, 11):
        optimizer.step()
        scheduler.step()
        beside.step()
        assert rates(optimizer) == pytest.approx([alone[step][0] * 0.9**step], rel=1e-12)


def test_sequence_with_a_group_added_later():
    """A group that is added in the middle follows the members that are ours."""
    scheduler = ours(optimizer_with(1.0))
    advance(scheduler, 3)
    scheduler.optimizer.add_param_group(later_group(lr=8.0))
    assert advance(scheduler, 4) == [[0.5, 4.0], [1.0, 8.0], [1.0, 8.0], [0.5, 4.0]]


@pytest.mark.parametrize("steps", range(8))
def test_state_of_torchs_sequence_loads(steps: int):
    """A run of torch's class over torch's members goes on with ours over ours, over torch's and over both."""
    optimizer = optimizer_with(1.0)
    torchs = torch_schedulers.SequentialLR(optimizer, parts_of(torch_schedulers, optimizer), [3, 6])
    advance(torchs, steps)
    states = saved(optimizer, torchs)
    ahead = advance(torchs, 8)
    for make in (ours, of_torchs, mixed):
        for order in (("build", "optimizer", "scheduler"), ("optimizer", "build", "scheduler")):
            again = resumed(make, optimizer_with(1.0), order, states)
            for mine, theirs in zip(advance(again, 8), ahead, strict=True):
                assert mine == pytest.approx(theirs, rel=1e-12, abs=0)


def test_bad_sequences_are_refused():
    """What torch's class refuses is refused, and a ``last_epoch`` that is no step."""
    optimizer, other = optimizer_with(1.0), optimizer_with(1.0)
    members: list[Any] = [WarmupLR(optimizer, 3), CosineAnnealingLR(optimizer, 9)]
    with pytest.raises(ValueError, match="milestone"):
        SequentialLR(optimizer, members, [1, 2])
    with pytest.raises(ValueError, match="same optimizer"):
        SequentialLR(optimizer, [members[0], StepLR(other, 3)], [1])
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        SequentialLR(optimizer, [members[0], ReduceLROnPlateau(optimizer)], [1])
    with pytest.raises(ValueError, match="Invalid last_epoch value: -2"):
        SequentialLR(optimizer, members, [3], last_epoch=-2)
