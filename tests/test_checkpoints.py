"""Checkpoints go both ways between optizoo and torch.optim, in the middle of training, in every option."""

import copy
import io

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Parameter

import optizoo
from optizoo.testing import torch_twin
from tests.zoo import COMBINATIONS, FEW, WITH_TWIN, assert_same_state, parameters, run, torchs_loop


def through_a_file(state_dict: dict) -> dict:
    """Save and load a checkpoint, the safe way."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def copy_params(target: list[Parameter], source: list[Parameter]) -> None:
    with torch.no_grad():
        for param, value in zip(target, source, strict=True):
            param.copy_(value)


@pytest.mark.thin
@pytest.mark.parametrize("direction", ["to-torch", "from-torch"])
@pytest.mark.parametrize(("name", "options"), WITH_TWIN)
def test_exchange_with_torch(name, options, direction):
    """Saved by one after five steps and loaded by the other, training goes on as if nothing had changed."""
    makers = [optizoo.create, torch_twin]
    if direction == "from-torch":
        makers.reverse()
    first, second = (
        make(name, parameters(seed=seed, of=name), **torchs_loop(name), **options) for seed, make in enumerate(makers)
    )
    run(first, range(5))
    checkpoint = through_a_file(first.state_dict())
    second.load_state_dict(checkpoint)
    copy_params(second.param_groups[0]["params"], first.param_groups[0]["params"])
    run(first, range(5, 10))
    run(second, range(5, 10))
    assert_same_state(second, first)
    ours, theirs = (optimizer.state_dict()["param_groups"] for optimizer in (first, second))
    assert ours == theirs


@pytest.mark.families
@pytest.mark.parametrize(("name", "options"), COMBINATIONS)
def test_resume(name, options):
    """Saved, loaded into a fresh optimizer and continued, every option gives the bits of the run without a break."""
    whole, first = (optizoo.create(name, parameters(of=name), **options) for _ in range(2))
    run(whole, range(10))
    run(first, range(5))
    second = optizoo.create(name, parameters(seed=1, of=name), **options)
    copy_params(second.param_groups[0]["params"], first.param_groups[0]["params"])
    second.load_state_dict(through_a_file(first.state_dict()))
    run(second, range(5, 10))
    assert_same_state(second, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_numbers_beside_the_step_keep_their_type(dtype):
    """A checkpoint of NAdam goes on to the bit in every type (torch rounds ``mu_product`` to that of the parameter)."""
    whole, first = optizoo.NAdam(parameters(dtype)), optizoo.NAdam(parameters(dtype))
    run(whole, range(10))
    run(first, range(5))
    second = optizoo.NAdam(first.param_groups[0]["params"])
    second.load_state_dict(through_a_file(first.state_dict()))
    run(second, range(5, 10))
    assert_same_state(second, whole)
    theirs = torch.optim.NAdam(first.param_groups[0]["params"])
    theirs.load_state_dict(first.state_dict())
    assert theirs.state[first.param_groups[0]["params"][0]]["mu_product"].dtype == dtype


@pytest.mark.parametrize(("name", "options"), FEW)
def test_loading_shares_no_tensor(name, options):
    """Two optimizers that load one checkpoint stay apart (torch lets them share tensors: #196083)."""
    source = optizoo.create(name, parameters(of=name), **options)
    run(source, range(3))
    checkpoint = source.state_dict()
    before = copy.deepcopy(checkpoint)
    loaded = optizoo.create(name, parameters(seed=1, of=name), **options)
    loaded.load_state_dict(checkpoint)
    run(loaded, range(3, 6))
    for index, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(checkpoint["state"][index][key], value)


@pytest.mark.parametrize(("name", "options"), FEW)
def test_empty_state_round_trip_is_a_no_op(name, options):
    """Loading its own checkpoint before the first step changes nothing (Accelerate does it)."""
    ours, twin = (optizoo.create(name, parameters(of=name), **options) for _ in range(2))
    ours.load_state_dict(ours.state_dict())
    run(ours, range(3))
    run(twin, range(3))
    assert_same_state(ours, twin)


def test_the_checkpoint_does_not_choose_the_execution():
    """``foreach`` and ``fused`` stay as this optimizer was made; torch takes them from the checkpoint (#32021)."""
    fused = torch.optim.Adam(parameters(), fused=True)
    run(fused, range(2))
    ours = optizoo.Adam(parameters(), foreach=False)
    ours.load_state_dict(fused.state_dict())
    assert ours.param_groups[0]["foreach"] is False
    assert ours.param_groups[0]["fused"] is None
    run(ours, range(2, 4))
    assert ours.state[ours.param_groups[0]["params"][0]]["step"] == 4


def test_options_that_torch_lacks_are_saved_only_where_they_count():
    """Without them a group has torch's keys; where they change the maths they are saved and come back."""
    plain = optizoo.Adam(parameters()).state_dict()["param_groups"][0]
    assert plain.keys() == torch.optim.Adam(parameters()).state_dict()["param_groups"][0].keys()
    almost = optizoo.Adam(parameters(), bias_correction=False)
    assert almost.state_dict()["param_groups"][0]["bias_correction"] is False
    other = optizoo.Adam(parameters())
    other.load_state_dict(almost.state_dict())
    assert other.param_groups[0]["bias_correction"] is False
    other.load_state_dict(plain_checkpoint())
    assert "bias_correction" not in other.param_groups[0]


def plain_checkpoint() -> dict:
    return torch.optim.Adam(parameters()).state_dict()


def test_checkpoint_of_an_older_torch():
    """Keys that an older torch did not write get their defaults, and a step that is a number becomes a tensor."""
    old = torch.optim.AdamW(parameters())
    run(old, range(2))
    checkpoint = old.state_dict()
    for key in ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
        del checkpoint["param_groups"][0][key]
    for state in checkpoint["state"].values():
        state["step"] = 2
    ours = optizoo.AdamW(parameters())
    ours.load_state_dict(checkpoint)
    assert ours.param_groups[0]["decoupled_weight_decay"] is True
    step = ours.state[ours.param_groups[0]["params"][0]]["step"]
    assert step.dtype == torch.float32
    assert step == 2


def test_adam_checkpoint_in_adamw_stays_decoupled():
    """AdamW that loads a checkpoint of Adam decays the weights, as in torch."""
    ours = optizoo.AdamW(parameters(), weight_decay=0.1)
    ours.load_state_dict(optizoo.Adam(parameters(), weight_decay=0.1).state_dict())
    assert ours.param_groups[0]["decoupled_weight_decay"] is True


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"lr": "fast"}, TypeError, "Invalid lr value: 'fast'", id="text"),
        pytest.param({"betas": (0.9,)}, ValueError, "betas must have two numbers", id="length"),
        pytest.param({"amsgrad": "yes"}, TypeError, "amsgrad must be True or False", id="type"),
        pytest.param(
            {"learning_rate": 0.1}, ValueError, "Unknown option 'learning_rate'.*did you mean 'lr'", id="unknown"
        ),
    ],
)
def test_a_bad_checkpoint_is_refused_and_nothing_is_lost(change, error, message):
    """A checkpoint with a bad option raises, names the group, and leaves options and state as they were."""
    ours, twin = optizoo.Adam(parameters()), optizoo.Adam(parameters())
    run(ours, range(3))
    run(twin, range(3))
    checkpoint = copy.deepcopy(ours.state_dict())
    checkpoint["param_groups"][0].update(change)
    with pytest.raises(error, match=f"{message}.*loaded param group 0"):
        ours.load_state_dict(checkpoint)
    run(ours, range(3, 6))
    run(twin, range(3, 6))
    assert_same_state(ours, twin)
    assert ours.state_dict()["param_groups"] == twin.state_dict()["param_groups"]


def test_keys_of_the_owner_come_along():
    """A key that the owner has put into a group survives copies, and a checkpoint that is loaded where it is known."""
    ours = optizoo.Adam(parameters())
    ours.param_groups[0]["tag"] = "decoder"
    assert copy.deepcopy(ours).param_groups[0]["tag"] == "decoder"
    ours.load_state_dict(through_a_file(ours.state_dict()))
    assert ours.param_groups[0]["tag"] == "decoder"


def test_hooks_may_change_the_layout():
    """A hook may return a state dict of its own layout."""
    ours = optizoo.Adam(parameters())
    ours.register_state_dict_post_hook(lambda optimizer, state_dict: {"wrapped": state_dict})
    assert ours.state_dict()["wrapped"]["param_groups"][0]["lr"] == 1e-3


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize(("name", "options"), FEW)
def test_distributed_checkpoint_round_trip(name, options, flat):
    """``torch.distributed.checkpoint`` gets and sets the state by parameter names, nested and flattened."""
    layout = StateDictOptions(flatten_optimizer_state_dict=flat)
    ends = []
    for broken in (False, True):
        model = torch.nn.ParameterList(parameters(of=name))
        optimizer = optizoo.create(name, model, **options)
        run(optimizer, range(3))
        if broken:
            saved = get_optimizer_state_dict(model, optimizer, options=layout)
            optimizer.zero_grad()  # where there are gradients, torch does not prepare a flat state to be set
            optimizer = optizoo.create(name, model, **options)
            set_optimizer_state_dict(model, optimizer, saved, options=layout)
        run(optimizer, range(3, 6))
        ends.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_wrong_number_of_groups_or_parameters():
    """A checkpoint of another shape raises torch's error."""
    ours = optizoo.Adam(parameters())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        ours.load_state_dict(optizoo.Adam([{"params": parameters()}, {"params": parameters()}]).state_dict())
    with pytest.raises(ValueError, match="doesn't match the size"):
        ours.load_state_dict(optizoo.Adam(parameters()[:1]).state_dict())
