"""``differentiable=True``: autograd goes through twenty steps, to the learning rate and the momentum."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import optizoo
from optizoo.testing import torch_twin

WORKS_WITH = "torch.func.functional_call, differentiable=True"
HELD_TO = "central differences, 1e-5"

SCRIPT = Path(__file__).parents[2] / "scripts" / "hypergradient.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("hypergradient", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hypergradient_is_right(example):
    """The derivatives by lr and momentum after twenty steps are the central differences."""
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    momentum = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(example.loss_after(lr, momentum), (lr, momentum))
    h = 1e-6

    def difference(by_lr: float, by_momentum: float) -> float:
        ends = [
            example.loss_after(lr.detach() + sign * by_lr, momentum.detach() + sign * by_momentum) for sign in (1, -1)
        ]
        return (ends[0] - ends[1]).item() / (2 * h)

    assert found[0].item() == pytest.approx(difference(h, 0), rel=1e-6)
    assert found[1].item() == pytest.approx(difference(0, h), rel=1e-6)


def test_descent_on_it_learns(example, capsys):
    """Thirty updates by the hyper-gradient take four tenths off the loss of the first rate."""
    example.main()
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def derivative(library, name: str, problem) -> tuple[float, float]:
    """Return the slope of the loss after ten steps along a direction of the first weights: autograd's, and measured."""
    model, inputs, targets = problem
    first = {key: param.detach() for key, param in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    along = {key: torch.randn(value.shape, generator=generator, dtype=value.dtype) for key, value in first.items()}

    def end(start: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = {key: value.clone() for key, value in start.items()}
        options = {"momentum": 0.9} if name == "sgd" else {}
        optimizer = library(name, [*weights.values()], lr=0.01, differentiable=True, **options)
        for _ in range(10):
            copies = {key: weight.clone() for key, weight in weights.items()}  # the step writes into the weights
            loss = mse_loss(functional_call(model, copies, (inputs,)), targets)
            grads = torch.autograd.grad(loss, [*weights.values()], create_graph=True)
            for weight, grad in zip(weights.values(), grads, strict=True):
                weight.grad = grad
            optimizer.step()
        return mse_loss(functional_call(model, weights, (inputs,)), targets)

    start = {key: value.clone().requires_grad_(True) for key, value in first.items()}
    grads = torch.autograd.grad(end(start), [*start.values()])
    h = 1e-6
    ends = [
        end({key: (value + sign * h * along[key]).requires_grad_(True) for key, value in first.items()})
        for sign in (1, -1)
    ]
    slope = sum(float((grad * along[key]).sum()) for grad, key in zip(grads, first, strict=True))
    return slope, (ends[0] - ends[1]).item() / (2 * h)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw", "adagrad", "adamax", "nadam"])
def test_the_derivative_by_the_start(name, example):
    """The derivative of the loss after ten steps by the first weights is the central difference."""
    slope, measured = derivative(optizoo.create, name, example.problem())
    assert slope == pytest.approx(measured, rel=1e-5)


BY_OPTIONS = {
    "sgd": ("momentum", 0.6),
    "momentum": ("momentum", 0.6),
    "rmsprop": ("momentum", 0.6),
    "adam": ("betas", 0.6),
    "adamw": ("betas", 0.6),
    "adamax": ("betas", 0.6),
    "nadam": ("betas", 0.6),
    "radam": ("betas", 0.6),
}


@pytest.fixture
def counters_in_float64():
    """Let ``mu_product`` be float64, as it is with that default type: measured differences need its digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("which", ["lr", "momentum"])
@pytest.mark.parametrize("name", BY_OPTIONS)
def test_the_derivative_by_the_options(name, which, example, counters_in_float64):
    """The derivatives of the loss after twenty steps by lr and by momentum (or β₁) are the central differences."""
    model, inputs, targets = example.problem()
    option, momentum = BY_OPTIONS[name]

    def end(shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        values = {"lr": 0.02, "momentum": momentum}
        values[which] += shift
        tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}
        tensors[which].requires_grad_(True)
        weights = {key: param.detach().requires_grad_(True).clone() for key, param in model.named_parameters()}
        options = {option: (tensors["momentum"], 0.99) if option == "betas" else tensors["momentum"]}
        optimizer = optizoo.create(name, [*weights.values()], lr=tensors["lr"], differentiable=True, **options)
        for _ in range(20):
            copies = {key: weight.clone() for key, weight in weights.items()}  # the step writes into the weights
            loss = mse_loss(functional_call(model, copies, (inputs,)), targets)
            grads = torch.autograd.grad(loss, [*weights.values()], create_graph=True)
            for weight, grad in zip(weights.values(), grads, strict=True):
                weight.grad = grad
            optimizer.step()
        return mse_loss(functional_call(model, weights, (inputs,)), targets), tensors[which]

    (slope,) = torch.autograd.grad(*end())
    h = 1e-6
    assert slope.item() == pytest.approx((end(h)[0] - end(-h)[0]).item() / (2 * h), rel=1e-6)


def test_torch_cuts_the_first_velocity_off(example):
    """Torch's differentiable SGD detaches the first momentum buffer: its derivative is not that of the run."""
    slope, measured = derivative(torch_twin, "sgd", example.problem())
    assert slope != pytest.approx(measured, rel=1e-2)


def test_torchs_adamax_cannot_be_differentiated_twice(example):
    """Torch's differentiable Adamax writes over what autograd needs, and raises."""
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        derivative(torch_twin, "adamax", example.problem())


def test_the_model_is_left_alone(example):
    """The weights of the module, which only lends its form, do not move."""
    model, _, _ = example.problem()
    again, _, _ = example.problem()
    example.loss_after(torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64), steps=3)
    assert isinstance(model, nn.Module)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
