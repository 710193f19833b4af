"""Param groups are made of a model by name and kind, and no trainable parameter is forgotten in silence."""

import re

import pytest
import torch
from torch import nn

import optizoo


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LayerNorm([8]), nn.Linear(8, 2))


def names(group: dict) -> list[str]:
    return [name for name, _ in group["params"]]


def test_biases_and_norms_are_not_decayed():
    """Weights of layers decay; biases, and weights and biases of norms, do not."""
    decayed, exempt = optizoo.param_groups(model(), weight_decay=0.1, verbose=False)
    assert names(decayed) == ["0.weight", "4.weight"]
    assert names(exempt) == ["0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "4.bias"]
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)


def test_no_decay_by_patterns_and_by_function():
    """What is not decayed can be named by patterns or told by a function."""
    by_pattern = optizoo.param_groups(model(), weight_decay=0.1, no_decay=("*.bias", "4.*"), verbose=False)
    assert names(by_pattern[0]) == ["0.weight", "1.weight", "3.weight"]
    by_function = optizoo.param_groups(
        model(), weight_decay=0.1, no_decay=lambda name, param, module: param.numel() == 2, verbose=False
    )
    assert names(by_function[1]) == ["0.bias", "1.weight", "1.bias", "4.bias"]


def test_parameters_with_equal_options_share_a_group():
    """Options of patterns that come to the same values make one group."""
    groups = optizoo.param_groups(
        model(), weight_decay=0.1, options={"0.*": {"lr": 0.5}, "4.*": {"lr": 0.5}}, verbose=False
    )
    assert [(group.get("lr"), group["weight_decay"], names(group)) for group in groups] == [
        (0.5, 0.1, ["0.weight", "4.weight"]),
        (0.5, 0.0, ["0.bias", "4.bias"]),
        (None, 0.0, ["1.weight", "1.bias", "3.weight", "3.bias"]),
    ]


def test_shared_and_frozen_parameters():
    """A shared parameter stands once, a frozen one nowhere."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    groups = optizoo.param_groups(nn.Sequential(first, second), weight_decay=0.1, verbose=False)
    assert [names(group) for group in groups] == [["0.weight"], ["0.bias"]]


def test_wrapped_models_have_the_names_of_what_is_inside():
    """A compiled module gives the groups of the module that it wraps."""
    inside = model()
    compiled = torch.compile(inside)
    assert isinstance(compiled, nn.Module)
    plain, wrapped = (optizoo.param_groups(each, weight_decay=0.1, verbose=False) for each in (inside, compiled))
    assert [names(group) for group in plain] == [names(group) for group in wrapped]


def test_it_prints_what_it_did(capsys):
    """A line for each group tells options, sizes and names."""
    optizoo.param_groups(nn.Linear(3, 2), weight_decay=0.1)
    assert capsys.readouterr().out == (
        "weight_decay=0.1: 1 tensor, 6 elements: weight\nweight_decay=0.0: 1 tensor, 2 elements: bias\n"
    )


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "RMSprop"])
def test_the_optimizer_trains_all_and_decays_what_it_should(kind):
    """With zero gradients only what decays shrinks; all parameters are held."""
    net = model()
    optimizer = getattr(optizoo, kind)(optizoo.param_groups(net, weight_decay=0.5, verbose=False), lr=0.1)
    assert optizoo.check_bound(net, optimizer) == []
    before = {name: param.detach().clone() for name, param in net.named_parameters()}
    for param in net.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    changed = [name for name, param in net.named_parameters() if not torch.equal(param, before[name])]
    assert changed == ["0.weight", "4.weight"]


BAD = [
    ({"no_decay": ("bais",)}, ValueError, "no_decay has the pattern 'bais', which matches no trainable parameter"),
    ({"options": {"head.*": {"lr": 1}}}, ValueError, "options has the pattern 'head.*'"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=["no_decay", "options"])
def test_a_pattern_that_matches_nothing(options, error, message):
    """A pattern without effect is a mistake and raises."""
    with pytest.raises(error, match=re.escape(message)):
        optizoo.param_groups(model(), weight_decay=0.1, **options)


def test_bad_models():
    """A model must be a module with something to train."""
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not list"):
        optizoo.param_groups([], weight_decay=0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Flatten has no trainable parameter"):
        optizoo.param_groups(nn.Flatten(), weight_decay=0.1)


def test_unbound_parameters_are_named():
    """Parameters that were replaced, added or unfrozen after the optimizer was made are told."""
    net = model()
    net[0].weight.requires_grad_(False)
    optimizer = optizoo.SGD(param for param in net.parameters() if param.requires_grad)
    assert optizoo.check_bound(net, optimizer) == []
    net[0].weight.requires_grad_(True)
    net[4] = nn.Linear(8, 3)
    net.append(nn.Linear(3, 1))
    assert optizoo.check_bound(net, optimizer) == ["0.weight", "4.weight", "4.bias", "5.weight", "5.bias"]
