"""Copies: ``copy.deepcopy``, pickle, ``torch.save`` and a spawned process go on where the original stood."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.training import LIBRARIES, STEPS, ZOO, assert_equal_models, loss_of, network

WORKS_WITH = "copy.deepcopy, pickle, torch.save, multiprocessing spawn"
HELD_TO = "bitwise"


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for step in numbers:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def through_pickle(pair):
    return pickle.loads(pickle.dumps(pair))


def through_a_file(pair):
    """Save both state dicts, and load them with ``weights_only=True`` into a fresh pair."""
    model, optimizer = pair
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = network(seed=1)
    fresh.load_state_dict(saved["model"])
    kind: Any = type(optimizer)
    again = kind(fresh.parameters(), lr=0.5, foreach=False)
    again.load_state_dict(saved["optimizer"])
    return fresh, again


WAYS = {"deepcopy": copy.deepcopy, "pickle": through_pickle, "torch.save": through_a_file}


@pytest.mark.thin
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize(("name", "options"), ZOO)
def test_a_copy_goes_on(name, options, way):
    """Copied in the middle, copy and original end as torch's run without a break."""
    model = network()
    pair = model, LIBRARIES[0](name, model, foreach=False, **options)
    steps(*pair, range(6))
    copied = way(pair)
    assert {id(param) for param in copied[0].parameters()} == {
        id(param) for group in copied[1].param_groups for param in group["params"]
    }
    steps(copied[0], copied[1], range(6, STEPS))
    steps(*pair, range(6, STEPS))
    theirs = network()
    steps(theirs, LIBRARIES[1](name, theirs, foreach=False, **options), range(STEPS))
    assert_equal_models(copied[0], theirs)
    assert_equal_models(pair[0], theirs)


def _continue(connection) -> None:
    """Receive model and optimizer in a new process, go on, and send the model back."""
    torch.set_num_threads(1)
    model, optimizer = pickle.loads(connection.recv_bytes())
    steps(model, optimizer, range(6, STEPS))
    connection.send_bytes(pickle.dumps({name: value.numpy() for name, value in model.state_dict().items()}))
    connection.close()


def test_a_spawned_process_goes_on():
    """Sent into a process that starts from nothing, every optimizer ends as if it had stayed."""
    context = torch.multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    model = network()
    optimizer = LIBRARIES[0]("adamw", model, foreach=False, lr=0.01)
    steps(model, optimizer, range(6))
    process = context.Process(target=_continue, args=(there,))
    process.start()
    here.send_bytes(pickle.dumps((model, optimizer)))
    assert here.poll(120), "the process does not answer"
    ended = pickle.loads(here.recv_bytes())
    process.join(30)
    assert process.exitcode == 0
    steps(model, optimizer, range(6, STEPS))
    for key, value in model.state_dict().items():
        assert torch.equal(value, torch.from_numpy(ended[key]))
