"""A small training that every library runs twice, with optizoo's optimizer and with torch's."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optizoo
from optizoo.testing import torch_twin

STEPS = 12

TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {"lr": 0.05}),
    "momentum": ("sgd", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "rmsprop": ("rmsprop", {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "adam": ("adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.01}),
    "adamw": ("adamw", {"lr": 0.01, "maximize": True}),
    "adagrad": ("adagrad", {"lr": 0.05, "lr_decay": 0.01}),
}
"""Optimizers and options that all libraries are tried with."""

EXACT: dict[str, Any] = {"foreach": False}
"""The execution that has torch's bits on the CPU; the default one is within TOLERANCE."""

TOLERANCE = 1e-6

EXECUTIONS = [pytest.param(EXACT, id="loop"), pytest.param({}, id="default")]


def make(library: str, name: str, params: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    """Return the optimizer of that name in ``"optizoo"``, or its twin in ``"torch"``, which runs its loop."""
    if library == "optizoo":
        return optizoo.create(name, params, **options)
    return torch_twin(name, params, **{**options, **EXACT})


def build_model(seed: int = 0) -> nn.Sequential:
    """Return a model of four parameters, of which two have fewer rows than two ranks can share evenly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def batch(step: int, rank: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, another pair for every step and rank."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    inputs = torch.randn(8, 3, generator=generator)
    return inputs, inputs.sum(1, keepdim=True).sin()


def loss_of(model: nn.Module, step: int, rank: int = 0) -> Tensor:
    """Return the mean squared error of a batch."""
    inputs, targets = batch(step, rank)
    return (model(inputs) - targets).square().mean()


def full(tensors: Iterable[Any]) -> list[Tensor]:
    """Return copies of the tensors, those that are spread over processes whole."""
    return [(tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone() for tensor in tensors]


def assert_equal(ours: Sequence[Tensor], theirs: Sequence[Tensor], *, exact: bool = True) -> None:
    """Assert that tensors are the same, to the bit unless ``exact`` is false."""
    for index, (tensor, expected) in enumerate(zip(ours, theirs, strict=True)):
        if exact:
            assert torch.equal(tensor, expected), (index, (tensor - expected).abs().max())
        else:
            torch.testing.assert_close(tensor, expected, rtol=TOLERANCE, atol=TOLERANCE)
