"""``ZeroRedundancyOptimizer``: each of two processes keeps the states of its share of the parameters."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import optizoo
from optizoo.testing import torch_twin
from tests.contract.conftest import SIZE, Processes
from tests.contract.libraries import EXECUTIONS, STEPS, TRAINED, assert_equal, build_model, full, loss_of, make

WORKS_WITH = "ZeroRedundancyOptimizer, 2 processes"
HELD_TO = "bitwise; default backend 1e-6"


def make_zero(library: str, case: str, params: Any, **options: Any) -> ZeroRedundancyOptimizer:
    """Return the sharded optimizer of a case; the first two parameters are a group with a rate of their own."""
    name, wanted = TRAINED[case]
    kind = type(make(library, name, build_model().parameters(), **wanted))
    execution = options if library == "optizoo" else {**options, "foreach": False}
    first, *others = params
    # The constructor takes one list of tensors; groups are added, as its documentation says.
    optimizer = ZeroRedundancyOptimizer([first], optimizer_class=kind, **wanted, **execution)
    optimizer.add_param_group({"params": others, "lr": 2 * wanted["lr"]})
    return optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int) -> None:
    """Train with a rate that falls, and is twice as high in a second group."""
    for step in steps:
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = (1 + index) * 0.05 / (1 + step)
        optimizer.zero_grad()
        loss_of(model, step, rank).backward()
        optimizer.step()


def train_once(rank: int, library: str, case: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train from the start; return parameters, and for each of them whether this process keeps its states."""
    model = DistributedDataParallel(build_model())
    optimizer = make_zero(library, case, model.parameters(), **options)
    train(model, optimizer, range(STEPS), rank)
    return {
        "params": full(model.parameters()),
        "kept": [param in optimizer.optim.state for param in model.parameters()],
    }


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("case", TRAINED)
def test_trains_as_with_torch(processes: Processes, case: str, execution: dict[str, Any]):
    """Both processes end with torch's parameters, and each keeps the states of its own share alone."""
    ours, theirs = (processes(train_once, library, case, execution) for library in ("optizoo", "torch"))
    assert_equal(ours[0]["params"], ours[1]["params"])
    assert_equal(ours[0]["params"], theirs[0]["params"], exact=bool(execution))
    assert [answer["kept"] for answer in ours] == [answer["kept"] for answer in theirs]
    for first, second in zip(ours[0]["kept"], ours[1]["kept"], strict=True):
        assert not (first and second)


def train_views(rank: int, library: str, execution: dict[str, Any]) -> list[Tensor]:
    """Train with parameters that lie in the memory of buckets, which the optimizer broadcasts."""
    model = DistributedDataParallel(build_model(), gradient_as_bucket_view=True)
    name, wanted = TRAINED["adamw"]
    kind = type(make(library, name, build_model().parameters()))
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=kind, parameters_as_bucket_view=True, **wanted, **execution
    )
    train(model, optimizer, range(STEPS), rank)
    return full(model.parameters())


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_parameters_may_be_views_of_buckets(processes: Processes, execution: dict[str, Any]):
    """Parameters that share memory without sharing elements are no overlap, and are moved where they lie."""
    ours = processes(train_views, "optizoo", execution)
    theirs = processes(train_views, "torch", {"foreach": False})
    assert_equal(ours[0], ours[1])
    assert_equal(ours[0], theirs[0], exact=bool(execution))


def resume(rank: int, case: str) -> dict[str, Any]:
    """Train on with a whole checkpoint that rank 0 collected, sharded again; then with torch's optimizer, unsharded."""
    name, wanted = TRAINED[case]
    model = DistributedDataParallel(build_model())
    optimizer = make_zero("optizoo", case, model.parameters(), foreach=False)
    train(model, optimizer, range(5), rank)
    optimizer.consolidate_state_dict(to=0)
    kept = [optimizer.state_dict() if rank == 0 else None]
    torch.distributed.broadcast_object_list(kept, src=0)
    saved = deepcopy(kept[0])  # rank 0 got its own states themselves, which go on to change
    assert saved is not None
    weights = full(model.parameters())

    def rebuilt() -> DistributedDataParallel:
        again = build_model()
        with torch.no_grad():
            for param, value in zip(again.parameters(), weights, strict=True):
                param.copy_(value)
        return DistributedDataParallel(again)

    sharded = rebuilt()
    loaded = make_zero("optizoo", case, sharded.parameters(), foreach=False)
    loaded.load_state_dict(deepcopy(saved))  # it takes states of other processes out of what it is given
    whole = rebuilt()
    first, *others = whole.parameters()
    twin = torch_twin(name, [{"params": [first]}, {"params": others}], foreach=False, **wanted)
    twin.load_state_dict(saved)
    ends = []
    for trained, stepped in ((model, optimizer), (sharded, loaded), (whole, twin)):
        train(trained, stepped, range(5, STEPS), rank)
        ends.append(full(trained.parameters()))
    return {"ends": ends}


@pytest.mark.parametrize("case", ["momentum", "rmsprop", "adam", "adamw"])
def test_collected_checkpoint_resumes(processes: Processes, case: str):
    """A checkpoint collected from both processes is resumed from to the bit, sharded again or whole, by torch too."""
    for answer in processes(resume, case):
        went_on, loaded, torchs = answer["ends"]
        assert_equal(loaded, went_on)
        assert_equal(torchs, went_on)


def what_local_optimizer_is(rank: int) -> list[str]:
    """Return how the optimizer of this process executes its share."""
    model = DistributedDataParallel(build_model())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=optizoo.Adam)
    return optizoo.explain(optimizer.optim).splitlines()


def test_each_share_is_explained(processes: Processes):
    """The optimizer inside is optizoo's own, and says how it executes its share of the four parameters."""
    counts = [
        sum(int(line.split(" for ")[1].split()[0]) for line in said) for said in processes(what_local_optimizer_is)
    ]
    assert sum(counts) == 4
    assert len(counts) == SIZE


def skip_together(rank: int, mode: str) -> tuple[list[Tensor], list[Tensor], int, str]:
    """Step twice, in the second with a NaN in the gradient of one parameter, which one process alone holds."""
    model = build_model()
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=optizoo.Adam, lr=0.1, nonfinite=mode, across_processes=True
    )
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    before, message = full(model.parameters()), ""
    first = next(iter(model.parameters()))
    assert first.grad is not None
    first.grad[0] = torch.nan
    try:
        optimizer.step()
    except FloatingPointError as error:
        message = str(error)
    return before, full(model.parameters()), optimizer.optim.nonfinite_steps, message


@pytest.mark.parametrize("mode", ["skip", "raise"])
def test_processes_skip_a_step_together(processes: Processes, mode: str):
    """A gradient that is not finite in one process stops the step of all, and each counts it or says so."""
    answers = processes(skip_together, mode)
    for before, after, skipped, message in answers:
        assert_equal(before, after)
        assert skipped == 1
        assert bool(message) == (mode == "raise")
    assert any("another process" in message for *_, message in answers) == (mode == "raise")


def dot_sgd(param, grad, *, lr):
    """A rule that steps by what its whole model says."""
    total = yield (grad * grad).sum()
    return (param.add(grad, alpha=-lr / (1 + total)),)


DotSGD = optizoo.from_rule(dot_sgd, name="DotSGD", lr=0.1)


def sum_together(rank: int) -> list[Tensor]:
    model = build_model()
    kind: Any = DotSGD
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=kind, lr=0.1, across_processes=True)
    for _ in range(3):
        for place, param in enumerate(model.parameters()):
            param.grad = torch.full_like(param, 0.1 * (1 + place))
        optimizer.step()
    return full(model.parameters())


def test_processes_sum_together(processes: Processes):
    """A sum over the model is that of all processes: two with a share each do what one with all parameters does."""
    first, second = processes(sum_together)
    model = build_model()
    optimizer = DotSGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for place, param in enumerate(model.parameters()):
            param.grad = torch.full_like(param, 0.1 * (1 + place))
        optimizer.step()
    assert_equal(first, second)
    assert_equal(first, full(model.parameters()), exact=False)
