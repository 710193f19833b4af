"""A small real training run that the contract tests drive with optizoo's optimizer and with torch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import optizoo
from optizoo.testing import torch_twin

STEPS = 12

ZOO = [
    pytest.param("sgd", {"lr": 0.1}, id="sgd"),
    pytest.param("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, id="nesterov"),
    pytest.param("rmsprop", {"lr": 0.01, "momentum": 0.5, "centered": True}, id="rmsprop"),
    pytest.param("adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.01}, id="adam"),
    pytest.param("adamw", {"lr": 0.01}, id="adamw"),
    pytest.param("adagrad", {"lr": 0.1}, id="adagrad"),
    pytest.param("adadelta", {"lr": 1.0}, id="adadelta"),
    pytest.param("adamax", {"lr": 0.01}, id="adamax"),
    pytest.param("nadam", {"lr": 0.01}, id="nadam"),
    pytest.param("radam", {"lr": 0.01}, id="radam"),
    pytest.param("rprop", {"lr": 0.01}, id="rprop"),
]
"""Every optimizer that torch has, with options that exercise its states."""

LIBRARIES: tuple[Callable[..., Any], ...] = (optizoo.create, torch_twin)


def network(seed: int = 0) -> nn.Sequential:
    """Return a model of two layers with a norm; a function of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def batch(step: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Return the inputs and labels of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    inputs = torch.randn(size, 6, generator=generator)
    return inputs, (inputs[:, :3] + inputs[:, 3:]).argmax(1)


def loss_of(model: nn.Module, step: int, size: int = 16) -> Tensor:
    """Return the cross-entropy of a step's batch."""
    inputs, labels = batch(step, size)
    return cross_entropy(model(inputs), labels)


def assert_equal_models(first: nn.Module, second: nn.Module) -> None:
    """Assert that all parameters have the same bits, and are finite."""
    for (name, param), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert bool(param.isfinite().all()), name
        assert torch.equal(param, other), name
