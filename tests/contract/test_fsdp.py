"""FSDP2, ``fully_shard``: parameters, gradients and states spread over two processes, some of them unevenly."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import optizoo
from optizoo.backends import finite
from tests.contract.conftest import SIZE, Processes
from tests.contract.libraries import EXECUTIONS, STEPS, TRAINED, assert_equal, build_model, full, loss_of, make

WORKS_WITH = "FSDP2 `fully_shard`, 2 processes"
HELD_TO = "bitwise"


def sharded(seed: int = 0) -> nn.Sequential:
    """Return the model with its parameters spread over the processes, layer by layer."""
    model = build_model(seed)
    mesh = init_device_mesh("cpu", (SIZE,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int) -> None:
    """Train with clipped gradients and a rate that falls."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        optimizer.zero_grad()
        loss_of(model, step, rank).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5, foreach=False)
        optimizer.step()


def states(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[Tensor]:
    """Return all states, whole."""
    return [tensor for param in model.parameters() for tensor in full(optimizer.state.get(param, {}).values())]


def train_once(rank: int, library: str, case: str, execution: dict[str, Any]) -> dict[str, Any]:
    """Train from the start; return parameters, states and what the optimizer says of itself."""
    name, options = TRAINED[case]
    model = sharded()
    optimizer = make(library, name, model.parameters(), **options, **execution)
    train(model, optimizer, range(STEPS), rank)
    said = optizoo.explain(optimizer) if isinstance(optimizer, optizoo.RuleOptimizer) else ""
    rows = [param.to_local().shape[0] for param in model.parameters() if isinstance(param, DTensor)]
    return {"params": full(model.parameters()), "states": states(optimizer, model), "said": said, "rows": rows}


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("case", TRAINED)
def test_trains_as_with_torch(processes: Processes, case: str, execution: dict[str, Any]):
    """Shards are updated by the loop, also those of other lengths and empty ones, to torch's bits; states as well."""
    ours, theirs = (processes(train_once, library, case, execution) for library in ("optizoo", "torch"))
    assert [answer["rows"] for answer in ours] == [[3, 3, 1, 1], [2, 2, 0, 0]]
    for kind in ("params", "states"):
        assert_equal(ours[0][kind], ours[1][kind])
        assert_equal(ours[0][kind], theirs[0][kind])
    assert "loop for 4 tensors" in ours[0]["said"]
    assert "foreach=False" in ours[0]["said"] or "DTensor" in ours[0]["said"]


# Checkpoints ----------------------------------------------------------------------------------------------------------


def resume_from_folder(rank: int, case: str, steps: int, folder: Path) -> list[list[Tensor]]:
    """Save after some steps, each process its shards, and train on; do so again from the files. Return both ends."""
    name, options = TRAINED[case]
    ends = []
    for saves in (True, False):
        model = sharded(seed=0 if saves else 1)
        optimizer = optizoo.create(name, model.parameters(), **options)
        if saves:
            train(model, optimizer, range(steps), rank)
        weights, moments = get_state_dict(model, optimizer)
        kept = {"model": weights, "optimizer": moments}
        if saves:
            save(kept, checkpoint_id=folder)
        else:
            load(kept, checkpoint_id=folder)
            set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
        train(model, optimizer, range(steps, STEPS), rank)
        ends.append([*full(model.parameters()), *states(optimizer, model)])
    return ends


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("case", ["momentum", "rmsprop", "adam", "adamw"])
def test_sharded_checkpoint_resumes(processes: Processes, tmp_path: Path, case: str, steps: int):
    """What both processes save to one folder, before the first step too, is resumed from to the bit."""
    for ends in processes(resume_from_folder, case, steps, tmp_path):
        assert_equal(*ends)


def continue_with_the_other(rank: int, case: str, first: str, second: str) -> list[Tensor]:
    """Train 5 steps with one library, hand over its whole state dict by names, and train on with the other."""
    name, options = TRAINED[case]
    whole = StateDictOptions(full_state_dict=True)
    model = sharded()
    optimizer = make(first, name, model.parameters(), foreach=False, **options)
    train(model, optimizer, range(5), rank)
    saved = get_optimizer_state_dict(model, optimizer, options=whole)
    optimizer.zero_grad()  # where there are gradients, torch makes no states to spread the whole ones over
    other = make(second, name, model.parameters(), foreach=False, **options)
    set_optimizer_state_dict(model, other, saved, options=whole)
    train(model, other, range(5, STEPS), rank)
    return [*full(model.parameters()), *states(other, model)]


@pytest.mark.parametrize("case", ["momentum", "rmsprop", "adam", "adamw"])
def test_whole_state_dict_goes_both_ways(processes: Processes, case: str):
    """A whole state dict, keyed by names, goes from optizoo to torch and back without loss of a bit."""
    stayed = processes(continue_with_the_other, case, "torch", "torch")
    for first, second in (("optizoo", "torch"), ("torch", "optizoo")):
        for rank, moved in enumerate(processes(continue_with_the_other, case, first, second)):
            assert_equal(moved, stayed[rank])


# Gradients that are not finite ----------------------------------------------------------------------------------------


def meet_nan(rank: int, reaction: str, bad_rank: int) -> dict[str, Any]:
    """Train with a NaN in the shard of one process at steps 0 and 5, and without those steps."""
    ends, raised, skipped = [], [], 0
    for poisoned in (True, False):
        model = sharded()
        optimizer = optizoo.Adam(model.named_parameters(), lr=0.01, nonfinite=reaction)
        for step in range(STEPS):
            bad = step in (0, 5)
            if bad and not poisoned:
                continue
            optimizer.zero_grad()
            loss_of(model, step, rank).backward()
            if bad and rank == bad_rank:
                grad = model[0].weight.grad
                assert isinstance(grad, DTensor)
                grad.to_local()[-1, 1] = math.nan
            try:
                optimizer.step()
            except FloatingPointError as error:
                raised.append(str(error))
        skipped += optimizer.nonfinite_steps
        ends.append([*full(model.parameters()), *states(optimizer, model)])
    return {"ends": ends, "raised": raised, "skipped": skipped}


@pytest.mark.parametrize("bad_rank", range(SIZE))
@pytest.mark.parametrize("reaction", ["skip", "raise"])
def test_a_nan_in_one_shard_stops_all(processes: Processes, reaction: str, bad_rank: int):
    """A NaN that one process alone holds stops the step in both, alike, and leaves no trace in either."""
    first, second = processes(meet_nan, reaction, bad_rank)
    for answer in (first, second):
        assert answer["skipped"] == 2
        assert_equal(*answer["ends"])
    assert_equal(first["ends"][0], second["ends"][0])
    assert first["raised"] == second["raised"]
    assert len(first["raised"]) == (2 if reaction == "raise" else 0)
    for message in first["raised"]:
        assert "parameter '0.weight' of group 0" in message


def find_in_placements(rank: int) -> dict[str, Any]:
    """Look for what is not finite in gradients of every placement; return places, and collectives of a finite lot."""
    mesh = init_device_mesh("cpu", (SIZE,))
    plain = torch.ones(3)
    whole = distribute_tensor(torch.ones(4, 2), mesh, [Replicate()])
    columns = distribute_tensor(torch.ones(2, 3), mesh, [Shard(1)])
    lot = [plain, whole, columns]
    with CommDebugMode() as counted:
        clean = finite.nonfinite(lot)
    if rank == 1:
        columns.to_local()[1, 0] = math.inf
    # Each part is finite, their sum is not.
    sums = [DTensor.from_local(torch.full((2,), value), mesh, [Partial()]) for value in (3e38, 1.0)]
    return {"clean": clean, "found": finite.nonfinite([*lot, *sums]), "collectives": counted.get_total_counts()}


def test_every_placement_is_read_right(processes: Processes):
    """Plain, replicated, sharded and partial gradients: all processes find the same, with one reduction."""
    for answer in processes(find_in_placements):
        assert answer == {"clean": [], "found": [2, 3], "collectives": 1}


def find_out_of_step(rank: int) -> int:
    """Return how many collectives a step with ``nonfinite="skip"`` makes, where one process finds a NaN at once."""
    model = sharded()
    optimizer = optizoo.SGD(model.parameters(), lr=0.1, nonfinite="skip")
    loss_of(model, 0, rank).backward()
    first = model[0].weight.grad
    assert isinstance(first, DTensor)
    if rank == 0:
        first.to_local()[0, 0] = math.nan
    with CommDebugMode() as counted:
        optimizer.step()
    distributed.barrier()
    return counted.get_total_counts()


def test_processes_make_the_same_collectives(processes: Processes):
    """The process that finds a NaN in its first shard waits for no one and lets no one wait: one reduction in each."""
    assert processes(find_out_of_step) == [1, 1]
