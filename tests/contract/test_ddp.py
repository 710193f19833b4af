"""``DistributedDataParallel``: two processes, gradients that are views of its buckets, parameters alike in both."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import optizoo
from tests.contract.conftest import Processes
from tests.contract.libraries import EXECUTIONS, STEPS, TRAINED, assert_equal, batch, build_model, full, loss_of, make

WORKS_WITH = "DistributedDataParallel, 2 processes"
HELD_TO = "bitwise; default backend 1e-6"


def train(rank: int, library: str, case: str, execution: dict[str, Any], ddp: dict[str, Any]) -> list[torch.Tensor]:
    """Train with a schedule; every third step gathers two batches, the first without talking to the other process."""
    name, options = TRAINED[case]
    model = DistributedDataParallel(build_model(), **ddp)
    optimizer = make(library, name, model.parameters(), **options, **execution)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        if step % 3 == 0:
            with model.no_sync():
                loss_of(model, 100 + step, rank).backward()
        loss_of(model, step, rank).backward()
        optimizer.step()
        scheduler.step()
    return full(model.parameters())


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("case", TRAINED)
def test_trains_as_with_torch(processes: Processes, case: str, execution: dict[str, Any]):
    """Both processes end with the same parameters, those of torch's optimizer."""
    ours, theirs = (processes(train, library, case, execution, {}) for library in ("optizoo", "torch"))
    assert_equal(ours[0], ours[1])
    assert_equal(ours[0], theirs[0], exact=bool(execution))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_gradients_may_be_views_of_buckets(processes: Processes, execution: dict[str, Any]):
    """Gradients that lie in DDP's own memory, one behind the other, are read where they are."""
    views = {"gradient_as_bucket_view": True, "bucket_cap_mb": 1e-5}
    ours, theirs = (processes(train, library, "adam", execution, views) for library in ("optizoo", "torch"))
    assert_equal(ours[0], ours[1])
    assert_equal(ours[0], theirs[0], exact=bool(execution))


def train_branches(rank: int, library: str) -> list[torch.Tensor]:
    """Train two models in one, of which some steps use the first only."""
    branches = nn.ModuleList([build_model(0), build_model(1)])

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = branches

        def forward(self, inputs: torch.Tensor, both: bool) -> torch.Tensor:
            return self.branches[0](inputs) + (self.branches[1](inputs) if both else 0)

    model = DistributedDataParallel(Branches(), find_unused_parameters=True)
    optimizer = make(library, "adamw", model.parameters(), foreach=False, lr=0.01)
    for step in range(STEPS):
        optimizer.zero_grad()
        inputs, targets = batch(step, rank)
        (model(inputs, both=step % 3 == 1) - targets).square().mean().backward()
        optimizer.step()
    counts = [optimizer.state[param]["step"] for param in model.parameters()]
    return [*full(model.parameters()), *full(counts)]


def test_unused_parameters_rest(processes: Processes):
    """A parameter that a step does not use is neither moved nor counted in it, as with torch."""
    ours, theirs = (processes(train_branches, library) for library in ("optizoo", "torch"))
    assert_equal(ours[0], ours[1])
    assert_equal(ours[0], theirs[0])
    assert {int(count) for count in ours[0][8:]} == {STEPS, 4}


def meet_nan(rank: int, reaction: str, bad_rank: int) -> dict[str, Any]:
    """Train with data that are NaN in one process at step 0 and 5; return what is left without those steps too."""
    ends = []
    raised, skipped = [], 0
    for poisoned in (True, False):
        model = DistributedDataParallel(build_model())
        optimizer = optizoo.Adam(model.module.named_parameters(), lr=0.01, nonfinite=reaction)
        for step in range(STEPS):
            bad = step in (0, 5)
            if bad and not poisoned:
                continue
            optimizer.zero_grad()
            loss = loss_of(model, step, rank)
            (loss * math.nan if bad and rank == bad_rank else loss).backward()
            try:
                optimizer.step()
            except FloatingPointError as error:
                raised.append(str(error))
        ends.append([*full(model.parameters()), *full(optimizer.state[p]["exp_avg"] for p in model.parameters())])
        skipped += optimizer.nonfinite_steps
    return {"ends": ends, "raised": raised, "skipped": skipped}


@pytest.mark.parametrize("bad_rank", [0, 1])
@pytest.mark.parametrize("reaction", ["skip", "raise"])
def test_processes_agree_on_steps_that_are_not_made(processes: Processes, reaction: str, bad_rank: int):
    """A NaN in the data of one process stops the step of both, alike, and leaves no trace in either."""
    first, second = processes(meet_nan, reaction, bad_rank)
    for answer in (first, second):
        assert answer["skipped"] == 2
        assert_equal(*answer["ends"])
    assert_equal(first["ends"][0], second["ends"][0])
    assert first["raised"] == second["raised"]
    assert len(first["raised"]) == (2 if reaction == "raise" else 0)
    for message in first["raised"]:
        assert "parameter '0.weight' of group 0" in message
