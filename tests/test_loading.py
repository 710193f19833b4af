"""A checkpoint finds its parameters by name, and is refused where it belongs to another class or model."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import optizoo
from tests.zoo import FEW, assert_same_state, feed, parameters, run, shapes_for


def named(order: tuple[str, ...] = ("first", "second"), seed: int = 0, of: str = "sgd") -> list[tuple[str, Parameter]]:
    """Return two parameters of one shape, in any order."""
    generator = torch.Generator().manual_seed(seed)
    shape = shapes_for(of, [(4,)])[0]
    values = {name: torch.randn(shape, generator=generator) for name in ("first", "second")}
    return [(name, Parameter(values[name])) for name in order]


@pytest.mark.parametrize(("name", "options"), FEW)
def test_states_follow_names(name, options):
    """Saved in one order and loaded in another, every state finds its parameter (torch goes by position: #1489)."""
    saved = optizoo.create(name, named(of=name), **options)
    run(saved, range(3))
    loaded = optizoo.create(name, named(("second", "first"), of=name), **options)
    loaded.load_state_dict(saved.state_dict())
    by_name = dict(zip(loaded.param_groups[0]["param_names"], loaded.param_groups[0]["params"], strict=True))
    assert loaded.param_groups[0]["param_names"] == ["second", "first"]
    for label, param in zip(saved.param_groups[0]["param_names"], saved.param_groups[0]["params"], strict=True):
        for key, value in saved.state[param].items():
            assert torch.equal(loaded.state[by_name[label]][key], value)
    theirs = torch.optim.Adam(named(("second", "first")))
    adam = torch.optim.Adam(named())
    run(adam, range(1))
    theirs.load_state_dict(adam.state_dict())
    first, second = adam.param_groups[0]["params"]
    wrong = theirs.state[theirs.param_groups[0]["params"][0]]["exp_avg"]
    assert torch.equal(wrong, adam.state[first]["exp_avg"])
    assert not torch.equal(wrong, adam.state[second]["exp_avg"])


def test_wrapped_names_are_the_same_names():
    """A checkpoint of a DistributedDataParallel or compiled model loads into the bare model, and back."""
    bare = optizoo.Adam(named())
    wrapped = optizoo.Adam([(f"module._orig_mod.{name}", param) for name, param in named()])
    run(bare, range(2))
    wrapped.load_state_dict(bare.state_dict())
    again = optizoo.Adam(named())
    again.load_state_dict(wrapped.state_dict())
    assert_same_state(again, optizoo_copy(bare, again))


def optizoo_copy(optimizer, like):
    """Return ``optimizer`` with the parameters of ``like``, so that only states are compared."""
    with torch.no_grad():
        for param, other in zip(optimizer.param_groups[0]["params"], like.param_groups[0]["params"], strict=True):
            other.copy_(param)
    return optimizer


def test_without_names_order_decides():
    """Where only one side has names, parameters match by position, as in torch."""
    saved = optizoo.Adam(named())
    run(saved, range(2))
    loaded = optizoo.Adam([param for _, param in named()])
    loaded.load_state_dict(saved.state_dict())
    assert loaded.state[loaded.param_groups[0]["params"][1]]["step"] == 2


def linear(inputs: int = 3, outputs: int = 2) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def stepped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    run(optimizer, range(1))
    return optimizer


REFUSED = {
    "group of another class": (
        lambda: torch.optim.SGD(linear().parameters(), momentum=0.9),
        lambda: optizoo.Adam(linear().parameters()),
        "the checkpoint is of another optimizer: it has dampening, momentum, nesterov and lacks amsgrad, betas",
    ),
    "shape": (
        lambda: optizoo.Adam(linear(3, 2).named_parameters()),
        lambda: optizoo.Adam(linear(2, 3).named_parameters()),
        "the state 'exp_avg' of parameter 'weight' of group 0 has shape (2, 3) in the checkpoint, "
        "the parameter has (3, 2)",
    ),
    "shape without names": (
        lambda: optizoo.RMSprop(linear(3, 2).parameters()),
        lambda: optizoo.RMSprop(linear(4, 2).parameters()),
        "the state 'square_avg' of parameter 0 of group 0 has shape (2, 3)",
    ),
    "shape of a state that the rule makes": (
        lambda: optizoo.Momentum(linear(3, 2).named_parameters()),
        lambda: optizoo.Momentum(linear(4, 2).named_parameters()),
        "the state 'momentum_buffer' of parameter 'weight' of group 0 has shape (2, 3)",
    ),
    "names": (
        lambda: optizoo.Adam(linear().named_parameters()),
        lambda: optizoo.Adam(nn.Sequential(linear()).named_parameters()),
        "group 0 of the optimizer has '0.weight', '0.bias', which group 0 of the checkpoint lacks",
    ),
    "more names": (
        lambda: optizoo.Adam(nn.Sequential(linear(), linear()).named_parameters()),
        lambda: optizoo.Adam(nn.Sequential(linear()).named_parameters()),
        "group 0 of the checkpoint has '1.weight', '1.bias', which group 0 of the optimizer lacks",
    ),
    "number of parameters": (
        lambda: optizoo.Adam(nn.Sequential(linear(), linear()).parameters()),
        lambda: optizoo.Adam(linear().parameters()),
        "group 0 has 4 parameters in the checkpoint and 2 here",
    ),
    "number of groups": (
        lambda: optizoo.Adam([{"params": [param]} for param in linear().parameters()]),
        lambda: optizoo.Adam(linear().parameters()),
        "a different number of parameter groups: 2, the optimizer has 1",
    ),
}


@pytest.mark.parametrize(("saved", "loading", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_belong_is_refused(saved, loading, message):
    """The error names parameter, state or option, and the optimizer goes on as if nothing had been tried."""
    checkpoint = stepped(saved()).state_dict()
    ours = stepped(loading())
    before, params = copy.deepcopy(ours.state_dict()), list(ours.state)
    with pytest.raises(ValueError, match=re.escape(message)):
        ours.load_state_dict(checkpoint)
    assert str(ours.state_dict()) == str(before)
    assert list(ours.state) == params


def test_state_of_another_class_under_the_right_options():
    """Where options agree but states are another class's, the error names the parameter and both kinds of states."""
    checkpoint = stepped(optizoo.RMSprop(linear().named_parameters())).state_dict()
    checkpoint["param_groups"] = optizoo.Adam(linear().named_parameters()).state_dict()["param_groups"]
    message = "its state of parameter 'weight' of group 0 has square_avg and lacks exp_avg, exp_avg_sq"
    with pytest.raises(ValueError, match=re.escape(message)):
        optizoo.Adam(linear().named_parameters()).load_state_dict(checkpoint)


@pytest.mark.parametrize(("name", "options"), FEW)
def test_states_keep_their_type(name, options):
    """A float32 checkpoint of a model in bfloat16 stays in float32, and training goes on (torch casts it: #43706)."""
    saved = optizoo.create(name, parameters(of=name), **options)
    run(saved, range(3))
    loaded = optizoo.create(name, parameters(torch.bfloat16, of=name), **options)
    loaded.load_state_dict(saved.state_dict())
    for param, low in zip(saved.param_groups[0]["params"], loaded.param_groups[0]["params"], strict=True):
        for key, value in saved.state.get(param, {}).items():
            assert torch.equal(loaded.state[low][key], value)
            assert loaded.state[low][key].dtype == value.dtype
    with torch.no_grad():
        for param, low in zip(saved.param_groups[0]["params"], loaded.param_groups[0]["params"], strict=True):
            low.copy_(param)
    run(loaded, range(3, 5))
    run(saved, range(3, 5))
    for param, low in zip(saved.param_groups[0]["params"], loaded.param_groups[0]["params"], strict=True):
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.float(), param.data, rtol=0.02, atol=0.02)
    theirs, adam = torch.optim.Adam(parameters(torch.bfloat16, of=name)), torch.optim.Adam(parameters(of=name))
    run(adam, range(1))
    theirs.load_state_dict(adam.state_dict())
    assert theirs.state[theirs.param_groups[0]["params"][0]]["exp_avg"].dtype == torch.bfloat16


def test_a_wider_state_moves_what_a_narrow_one_cannot():
    """With states in float32 a rule computes in float32: a second moment below bfloat16's digits still grows."""
    ends = []
    for wide in (False, True):
        weight = Parameter(torch.ones(1, dtype=torch.bfloat16))
        optimizer = optizoo.Adam([weight], lr=0.01)
        weight.grad = torch.ones(1, dtype=torch.bfloat16)
        optimizer.step()
        if wide:
            for name in ("exp_avg", "exp_avg_sq"):
                optimizer.state[weight][name] = optimizer.state[weight][name].float()
        for _ in range(20):
            optimizer.step()
        ends.append(optimizer.state[weight]["exp_avg_sq"].item())
    truth = 1 - 0.999**21
    assert abs(ends[1] - truth) < abs(ends[0] - truth) / 10


def test_keep_options_of_the_constructor():
    """``keep`` names options that stay as they are here; all others come from the checkpoint (torch: #32021)."""
    saved = optizoo.AdamW(named(), lr=0.5, weight_decay=0.3, betas=(0.5, 0.6))
    saved.param_groups[0]["initial_lr"] = 0.7
    ours = optizoo.AdamW(named(), lr=0.1, weight_decay=0.2)
    ours.load_state_dict(saved.state_dict(), keep=("lr", "weight_decay"))
    group = ours.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.1, 0.2, (0.5, 0.6))
    assert "initial_lr" not in group
    with pytest.raises(ValueError, match="keep = 'learning_rate' is no option of AdamW; did you mean 'lr'"):
        ours.load_state_dict(saved.state_dict(), keep=("learning_rate",))


def test_keep_an_option_that_is_neutral_here():
    """An option that torch lacks, at its neutral value here, stays neutral though the checkpoint has another."""
    saved = optizoo.Adam(named(), bias_correction=False)
    ours = optizoo.Adam(named())
    ours.load_state_dict(saved.state_dict(), keep=("bias_correction",))
    assert ours.complete(ours.param_groups[0])["bias_correction"] is True


def test_hooks_see_and_change_the_checkpoint():
    """Hooks before and after loading run, and what the first returns is loaded."""
    saved = optizoo.Adam(named(), lr=0.5)
    ours = optizoo.Adam(named())
    calls = []

    def before(optimizer, state_dict):
        changed = copy.deepcopy(state_dict)
        changed["param_groups"][0]["lr"] = 0.25
        calls.append("before")
        return changed

    ours.register_load_state_dict_pre_hook(before)
    ours.register_load_state_dict_post_hook(lambda optimizer: calls.append("after"))
    ours.load_state_dict(saved.state_dict())
    assert calls == ["before", "after"]
    assert ours.param_groups[0]["lr"] == 0.25


def test_state_of_the_owner_comes_along():
    """What the owner keeps in a state beside ours is loaded as it is."""
    saved = optizoo.Adam(named())
    run(saved, range(1))
    saved.state[saved.param_groups[0]["params"][0]]["mine"] = torch.arange(3)
    ours = optizoo.Adam(named())
    ours.load_state_dict(saved.state_dict())
    assert torch.equal(ours.state[ours.param_groups[0]["params"][0]]["mine"], torch.arange(3))
    feed(ours.param_groups[0]["params"], 0)
    ours.step()


def test_names_that_stand_twice_decide_nothing():
    """Where a name stands twice in a group, order decides, and no state is lost."""
    first, second = Parameter(torch.zeros(2)), Parameter(torch.ones(2))
    saved = optizoo.Adam([("w", first), ("w", second)])
    run(saved, range(2))
    loaded = optizoo.Adam([("w", Parameter(torch.zeros(2))), ("w", Parameter(torch.ones(2)))])
    loaded.load_state_dict(saved.state_dict())
    for param, other in zip(saved.param_groups[0]["params"], loaded.param_groups[0]["params"], strict=True):
        assert torch.equal(saved.state[param]["exp_avg"], loaded.state[other]["exp_avg"])


def test_a_module_that_is_called_module():
    """Names are unwrapped only where they stay distinct: ``weight`` and ``module.weight`` are two parameters."""
    names = ["weight", "module.weight"]
    plain = optizoo.Adam([(name, Parameter(torch.ones(2))) for name in names])
    wrapped = optizoo.Adam([(f"module.{name}", Parameter(torch.ones(2))) for name in names])
    run(wrapped, range(1))
    with pytest.raises(ValueError, match=r"group 0 of the optimizer has 'weight'"):
        plain.load_state_dict(wrapped.state_dict())
    assert not plain.state


@pytest.mark.parametrize("lost", ["exp_avg", "step"])
def test_a_damaged_state(lost):
    """A state that lacks a part is refused, and the part is named."""
    saved = optizoo.Adam(named())
    run(saved, range(1))
    checkpoint = saved.state_dict()
    checkpoint["state"][0] = {key: value for key, value in checkpoint["state"][0].items() if key != lost}
    with pytest.raises(ValueError, match=f"the state of parameter 'first' of group 0 lacks {lost}"):
        optizoo.Adam(named()).load_state_dict(checkpoint)


def test_what_belongs_to_an_option_is_kept_with_it():
    """With ``lr`` stays the rate that schedules and an independent decay measure it by; with the mode its switch."""

    def independent(lr: float) -> optizoo.SGD:
        return optizoo.SGD([Parameter(torch.ones(2))], lr=lr, weight_decay=1e-2, weight_decay_mode="independent")

    ours = independent(1.0)
    ours.load_state_dict(independent(0.01).state_dict(), keep=("lr",))
    assert ours.param_groups[0]["max_lr"] == 1.0
    adam = optizoo.Adam([Parameter(torch.ones(2))], weight_decay=0.1, weight_decay_mode="decoupled")
    coupled = optizoo.Adam([Parameter(torch.ones(2))], weight_decay=0.1)
    adam.load_state_dict(coupled.state_dict(), keep=("weight_decay_mode",))
    assert adam.param_groups[0]["decoupled_weight_decay"] is True
    theirs = torch.optim.AdamW([Parameter(torch.ones(2))])
    run(theirs, range(1))
    adamw = optizoo.AdamW([Parameter(torch.ones(2))], weight_decay=1e-4, weight_decay_mode="independent")
    adamw.load_state_dict(theirs.state_dict(), keep=("weight_decay_mode", "weight_decay"))
    run(adamw, range(1, 3))


def test_state_beside_the_parameters_is_copied():
    """State under keys that are no parameter is loaded, and not shared with the checkpoint."""
    saved = optizoo.Adam(named())
    checkpoint = saved.state_dict()
    checkpoint["state"]["global"] = {"x": torch.ones(2)}
    loaded = optizoo.Adam(named())
    loaded.load_state_dict(checkpoint)
    assert torch.equal(loaded.state["global"]["x"], torch.ones(2))  # pyright: ignore[reportArgumentType]
    assert loaded.state["global"]["x"] is not checkpoint["state"]["global"]["x"]  # pyright: ignore[reportArgumentType]
