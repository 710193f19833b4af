"""``torch.distributed.checkpoint``: states by parameter name, and no trace of a call before the first step."""

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import optizoo
from optizoo.testing import has_torch_twin, torch_twin
from tests.zoo import FEW, assert_same_state, parameters, run, torchs_loop

WORKS_WITH = "torch.distributed.checkpoint"
HELD_TO = "bitwise"

CASES = [
    *FEW,
    pytest.param("sgd", {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}, id="sgd-dampening"),
    pytest.param("rmsprop", {"initial_accumulator": 1.0}, id="rmsprop-initial_accumulator"),
]

TWINS = [case for case in CASES if has_torch_twin(case.values[0], **case.values[1])]  # pyright: ignore


def made(name: str, options: dict, library=optizoo.create) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.ParameterList(parameters(of=name))
    return model, library(name, [*model.named_parameters()], **torchs_loop(name), **options)


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_getting_the_state_before_the_first_step_leaves_no_trace(name, options, flat):
    """Training after the call is bit-identical to training without it (torch's moments advance: #164929)."""
    layout = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, asked = made(name, options)
    get_optimizer_state_dict(model, asked, options=layout)
    _, plain = made(name, options)
    run(asked, range(12))
    run(plain, range(12))
    assert_same_state(asked, plain)


def test_torchs_own_advance():
    """Torch's Adam is one step ahead after the call, and its parameters differ from then on."""
    model, asked = made("adam", {}, torch_twin)
    get_optimizer_state_dict(model, asked)
    _, plain = made("adam", {}, torch_twin)
    run(asked, range(3))
    run(plain, range(3))
    first, second = asked.param_groups[0]["params"][0], plain.param_groups[0]["params"][0]
    assert asked.state[first]["step"] == plain.state[second]["step"] + 1
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_state_that_is_set_before_the_first_step_counts(name, options):
    """What is loaded into an optimizer that was prepared stays, and the run goes on as the one that was saved."""
    _, whole = made(name, options)
    model, first = made(name, options)
    run(whole, range(12))
    run(first, range(6))
    saved = get_optimizer_state_dict(model, first)
    first.zero_grad()
    second = optizoo.create(name, [*model.named_parameters()], **torchs_loop(name), **options)
    get_optimizer_state_dict(model, second)
    set_optimizer_state_dict(model, second, saved)
    run(second, range(6, 12))
    assert_same_state(second, whole)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_template_has_every_state(name, options):
    """Before the first step the state has the names and shapes that it will have, so that a checkpoint can be read."""
    model, asked = made(name, options)
    template = get_optimizer_state_dict(model, asked)["state"]
    model, stepped = made(name, options)
    run(stepped, range(2))
    full = get_optimizer_state_dict(model, stepped)["state"]
    assert {key: set(value) for key, value in template.items()} == {key: set(value) for key, value in full.items()}  # pyright: ignore
    assert not any(value["step"] for value in template.values() if "step" in value)  # pyright: ignore


@pytest.mark.parametrize(("name", "options"), TWINS)
def test_ten_steps_as_torch(name, options):
    """Saved and set in the middle of twelve steps, parameters are those of torch's optimizer, bit for bit."""
    ends = []
    for library in (optizoo.create, torch_twin):
        model, optimizer = made(name, options, library)
        run(optimizer, range(6))
        saved = get_optimizer_state_dict(model, optimizer)
        optimizer.zero_grad()
        optimizer = library(name, [*model.named_parameters()], **torchs_loop(name), **options)
        set_optimizer_state_dict(model, optimizer, saved)
        run(optimizer, range(6, 12))
        ends.append(optimizer)
    first, second = (dict(zip("ab", end.param_groups[0]["params"], strict=True)) for end in ends)
    for key in first:
        assert torch.equal(first[key], second[key])


def test_a_step_at_lr_zero_later_counts():
    """Only the very first step is looked at: a schedule that comes to 0 counts its steps as ever."""
    _, optimizer = made("adam", {})
    run(optimizer, range(1))
    optimizer.param_groups[0]["lr"] = 0.0
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_a_warm_up_from_zero_counts():
    """A first step at lr 0 with gradients is a step: the moments begin."""
    _, optimizer = made("adam", {"lr": 0.0})
    run(optimizer, range(1))
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}


def test_a_state_that_was_written_into_is_kept():
    """A checkpoint that is read straight into the prepared tensors is not taken for untouched."""
    _, optimizer = made("adam", {})
    optimizer.param_groups[0]["lr"] = 0.0
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for state in optimizer.state.values():
        state["step"].fill_(7)
    run(optimizer, range(1))
    assert {int(state["step"]) for state in optimizer.state.values()} == {8}


def test_a_state_that_was_put_there_is_kept():
    """States that replace the prepared ones are not taken for untouched."""
    _, optimizer = made("adam", {})
    optimizer.param_groups[0]["lr"] = 0.0
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for param in optimizer.param_groups[0]["params"]:
        moments = {key: torch.ones_like(param) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[param] = {"step": torch.tensor(7.0), **moments}
    run(optimizer, range(1))
    assert {int(state["step"]) for state in optimizer.state.values()} == {8}


def test_sparse_gradients_at_lr_zero():
    """A warm-up from 0 begins with sparse gradients too."""
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = optizoo.SGD(table.parameters(), lr=0.0)
    table(torch.tensor([1])).sum().backward()
    before = table.weight.detach().clone()
    optimizer.step()
    assert torch.equal(table.weight, before)
