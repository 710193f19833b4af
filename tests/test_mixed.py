"""Muon for the hidden matrices of a model and AdamW for the rest: one optimizer, held against two."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

import optizoo
from optizoo.zoo._mixed import MuonAdamW

EXECUTIONS = {"loop": {"foreach": False}, "lists": {"foreach": True}, "default": {}}


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(11, 6), nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)
    )


def feed(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator)


def test_who_gets_what():
    """Hidden matrices are Muon's; embedding and head are AdamW's, and so are biases and norms, without decay."""
    hidden, decayed, bare = optizoo.create("muon", build_model(), weight_decay=0.1).param_groups
    assert hidden["param_names"] == ["1.weight", "3.weight"]
    assert decayed["param_names"] == ["0.weight", "5.weight"]
    assert bare["param_names"] == ["1.bias", "2.weight", "2.bias", "5.bias"]
    assert [group["matrices"] for group in (hidden, decayed, bare)] == [True, False, False]
    assert [group["weight_decay"] for group in (hidden, decayed, bare)] == [0.1, 0.1, 0.0]
    assert [group["lr"] for group in (hidden, decayed, bare)] == [0.02, 3e-4, 3e-4]


def test_kernels_are_matrices():
    """A convolution is Muon's, with a row for each output; a head that shares its weight is the embedding's."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    hidden, *_ = optizoo.create("muon", model).param_groups
    assert hidden["param_names"] == ["0.weight", "2.weight"]
    tied = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
    tied[3].weight = tied[0].weight
    groups = optizoo.create("muon", tied).param_groups
    assert groups[0]["param_names"] == ["1.weight"]
    assert groups[1]["param_names"] == ["0.weight", "2.weight"]


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
def test_equal_to_two_optimizers(execution):
    """Every weight walks the path that Muon, or AdamW, alone gives it, to the bit."""
    model, reference = build_model(), build_model()
    optimizer = optizoo.create("muon", model, lr=0.05, weight_decay=0.1, adamw_lr=0.01, **execution)
    named = dict(reference.named_parameters())
    hidden, *others = optimizer.param_groups
    muon = optizoo.Muon([named[name] for name in hidden["param_names"]], lr=0.05, weight_decay=0.1, **execution)
    adamw = optizoo.AdamW(
        [{"params": [named[n] for n in each["param_names"]], "weight_decay": each["weight_decay"]} for each in others],
        lr=0.01, betas=(0.9, 0.95), eps=1e-8, **execution,
    )  # fmt: skip
    for step in range(20):
        feed(model, step)
        feed(reference, step)
        for each in (optimizer, muon, adamw):
            each.step()
    for param, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(param, expected)


def test_a_run_goes_on_from_its_checkpoint():
    """Groups, rules and states are found again, and copies are whole."""
    model = build_model()
    optimizer = optizoo.create("muon", model)
    for step in range(3):
        feed(model, step)
        optimizer.step()
    other = deepcopy(model)
    resumed = optizoo.create("muon", other)
    resumed.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    for each, step in ((model, optimizer), (other, resumed)):
        feed(each, 9)
        step.step()
    for param, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(param, expected)


def test_what_is_refused():
    """Vectors in a group of Muon, and options that neither takes; nothing is added then."""
    with pytest.raises(ValueError, match="give vectors a param group with 'matrices': False"):
        MuonAdamW([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="Unknown option 'adamw_rate'"):
        optizoo.create("muon", build_model(), adamw_rate=0.1)
