"""Derivatives against finite differences and closed forms, and methods that reach the minimum."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import optizoo
from optizoo.lab import models
from optizoo.lab.second_order import (
    Objective,
    first_order,
    gauss_newton,
    gauss_newton_matrix,
    gauss_newton_products,
    hessian,
    hessian_products,
    lbfgs,
    newton,
    newton_cg,
    of_model,
)

METHODS = {"newton": newton, "gauss_newton": gauss_newton, "newton_cg": newton_cg, "lbfgs": lbfgs}
N, INPUTS, CLASSES = 60, 4, 3
SADDLE = Objective(lambda p: p, lambda p: p[0] ** 2 / 2 - p[1] ** 2 / 2 + p[1] ** 4 / 4)
ROSENBROCK = Objective(
    lambda p: torch.stack([1 - p[0], 10 * (p[1] - p[0] ** 2)]), lambda residuals: residuals.square().sum()
)


def batch() -> tuple[Tensor, Tensor]:
    """Return points of overlapping classes, which no line separates: the unregularised minimum exists."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, INPUTS, dtype=torch.float64, generator=generator)
    return x, torch.randint(CLASSES, (N,), generator=generator)


def linear(l2: float = 0.0) -> tuple[Objective, Tensor]:
    return of_model(models.linear(CLASSES, INPUTS, seed=0), *batch(), l2=l2)


def two_layer(l2: float = 0.0) -> tuple[Objective, Tensor]:
    return of_model(models.two_layer(5, classes=CLASSES, inputs=INPUTS, seed=0), *batch(), l2=l2)


def differences(objective: Objective, params: Tensor, width: float = 1e-5) -> Tensor:
    """Return the Hessian by centred differences of gradients."""
    gradient = torch.func.grad(objective)
    units = torch.eye(len(params), dtype=params.dtype) * width
    return torch.stack([(gradient(params + unit) - gradient(params - unit)) / (2 * width) for unit in units])


def softmax_hessian(params: Tensor, l2: float) -> Tensor:
    """Return the closed form: the mean over points of (diag(p) - p pᵀ) ⊗ x xᵀ, weights before biases, and λI."""
    x, _ = batch()
    weight, bias = params[: CLASSES * INPUTS].view(CLASSES, INPUTS), params[CLASSES * INPUTS :]
    p = (x @ weight.T + bias).softmax(1)
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    ones = torch.cat([x, x.new_ones(N, 1)], 1)
    blocks = torch.einsum("bij,bk,bl->ikjl", spread, ones, ones) / N
    size = CLASSES * (INPUTS + 1)
    by_class = torch.arange(size).view(CLASSES, INPUTS + 1)
    order = torch.cat([by_class[:, :INPUTS].flatten(), by_class[:, INPUTS]])
    return blocks.reshape(size, size)[order][:, order] + l2 * torch.eye(size, dtype=params.dtype)


# Derivatives ----------------------------------------------------------------------------------------------------------


def test_the_objective_is_the_model_s_loss():
    """The function of the flat vector is the cross-entropy of the model, and half λ times the squared norm."""
    model = models.two_layer(5, classes=CLASSES, inputs=INPUTS, seed=1).double()
    x, y = batch()
    objective, start = of_model(model, x, y, l2=0.25)
    for params in (start, start * 2):
        nn.utils.vector_to_parameters(params, model.parameters())
        expected = nn.functional.cross_entropy(model(x), y) + 0.125 * params.square().sum()
        assert objective(params).item() == pytest.approx(expected.item(), rel=1e-14)


def test_the_model_is_left_alone():
    """An objective works on a copy: the model keeps dtype, mode and its gradients' way."""
    model = models.two_layer(5, dropout=0.5, classes=CLASSES, inputs=INPUTS, seed=0)
    objective, start = of_model(model, *batch())
    assert objective(start) == objective(start)  # no dropout
    assert model.training
    assert all(param.dtype == torch.float32 and param.requires_grad for param in model.parameters())


@pytest.mark.parametrize("make", [linear, two_layer])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_hessian_against_finite_differences(make, l2: float):
    """The Hessian is the derivative of the gradient."""
    objective, start = make(l2)
    torch.testing.assert_close(hessian(objective, start), differences(objective, start), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_hessian_against_the_closed_form(l2: float):
    """Softmax regression's Hessian is the mean of (diag(p) - p pᵀ) ⊗ x xᵀ, and Gauss-Newton's matrix is the same."""
    objective, start = linear(l2)
    expected = softmax_hessian(start, l2)
    torch.testing.assert_close(hessian(objective, start), expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gauss_newton_matrix(objective, start), expected, rtol=1e-12, atol=1e-15)


def test_hessian_is_singular_along_a_shift_of_all_classes():
    """To add one number to all scores changes no probability: without l2, H takes such a direction to zero."""
    objective, start = linear()
    shift = torch.cat([torch.arange(INPUTS).double().repeat(CLASSES), torch.ones(CLASSES).double()])
    assert hessian_products(objective, start)(shift).norm() < 1e-15
    assert torch.linalg.eigvalsh(hessian(objective, start)).abs().topk(INPUTS + 1, largest=False).values.max() < 1e-15


def test_matrices_hold_the_products_in_any_number_of_chunks():
    """A column of a matrix is the product with a unit vector, in each block of columns."""
    size = 150  # more than two chunks
    scale = torch.arange(1.0, size + 1, dtype=torch.float64)
    objective = Objective(lambda p: p * scale, lambda z: z.square().sum() / 2 + z[0] * z[-1])
    start = torch.ones(size, dtype=torch.float64)
    expected = torch.diag(scale**2)
    expected[0, -1] = expected[-1, 0] = size
    assert torch.equal(hessian(objective, start), expected)
    assert torch.equal(gauss_newton_matrix(objective, start), expected)
    vector = torch.linspace(-1, 1, size, dtype=torch.float64)
    torch.testing.assert_close(hessian_products(objective, start)(vector), expected @ vector)
    torch.testing.assert_close(gauss_newton_products(objective, start)(vector), expected @ vector)


def test_gauss_newton_of_a_network():
    """Jᵀ ∇²loss J from the Jacobian itself; it has no negative eigenvalue, which the Hessian has."""
    objective, start = two_layer()
    jacobian = torch.func.jacrev(objective.outputs)(start).reshape(N * CLASSES, -1)
    inner = torch.func.jacrev(torch.func.grad(objective.loss))(objective.outputs(start))
    inner = inner.reshape(N * CLASSES, N * CLASSES)
    matrix = gauss_newton_matrix(objective, start)
    torch.testing.assert_close(matrix, jacobian.T @ inner @ jacobian, rtol=1e-10, atol=1e-14)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-14
    assert torch.linalg.eigvalsh(hessian(objective, start)).min() < -1e-4


# Methods --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize("name", METHODS)
def test_softmax_regression_is_solved(name: str, l2: float):
    """Every method reaches a gradient norm of 1e-8 in float64, with l2 and, where the Hessian is singular, without."""
    objective, start = linear(l2)
    trace = METHODS[name](objective, start)
    assert trace.status == "converged"
    assert trace.steps[-1].gradient_norm <= 1e-8
    assert torch.func.grad(objective)(trace.params).norm().item() == trace.steps[-1].gradient_norm
    best = newton(objective, start, tolerance=1e-12).steps[-1].loss
    assert trace.steps[-1].loss == pytest.approx(best, abs=1e-13)


def test_newton_converges_quadratically():
    """Near the minimum the gradient norm is squared by a step, damping or not; the whole way takes few."""
    trace = newton(*linear(1e-3))
    norms = [step.gradient_norm for step in trace.steps]
    assert len(norms) <= 9
    assert norms[-1] < 10 * norms[-2] ** 2


@pytest.mark.parametrize("name", METHODS)
def test_losses_fall_and_costs_grow(name: str):
    """No step raises the loss, time and evaluations grow, steps count from 0, and the last record is of the result."""
    objective, start = two_layer(1e-3)
    trace = METHODS[name](objective, start, steps=8)
    losses, evaluations = [step.loss for step in trace.steps], [step.evaluations for step in trace.steps]
    assert losses[0] == objective(start).item()
    assert all(after <= before + 1e-14 for before, after in pairwise(losses))
    assert all(after > before for before, after in pairwise(evaluations))
    assert [step.step for step in trace.steps] == list(range(len(losses)))
    assert [step.seconds for step in trace.steps] == sorted(step.seconds for step in trace.steps)
    assert losses[-1] == pytest.approx(objective(trace.params).item(), rel=1e-14)
    assert len(losses) <= 9


def test_a_matrix_costs_its_columns():
    """A step of Newton is a matrix of n columns, at least one loss, and a gradient; one of L-BFGS about a gradient."""
    objective, start = linear(1e-3)
    assert newton(objective, start, steps=1).steps[-1].evaluations == 1 + len(start) + 1 + 1
    trace = lbfgs(objective, start)
    assert trace.steps[-1].evaluations < 1.5 * len(trace.steps)


@pytest.mark.parametrize("name", ["newton", "newton_cg"])
def test_negative_curvature_is_left_behind(name: str):
    """From beside a saddle, where the Hessian is indefinite, the methods go down to a minimum."""
    trace = METHODS[name](SADDLE, torch.tensor([0.5, 0.1], dtype=torch.float64))
    assert trace.status == "converged"
    assert trace.params.tolist() == pytest.approx([0, 1], abs=1e-6)
    assert trace.steps[-1].loss == pytest.approx(-0.25, abs=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_rosenbrock(name: str):
    """The bent valley is followed to (1, 1)."""
    trace = METHODS[name](ROSENBROCK, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    assert trace.status == "converged"
    assert trace.params.tolist() == pytest.approx([1, 1], abs=1e-6)


def test_newton_needs_one_step_for_a_quadratic_and_sgd_does_not():
    """At condition number 100, SGD's best rate shrinks the error by 99/101 a step: 1e-8 takes it over 900."""
    scale = torch.tensor([1.0, 100.0], dtype=torch.float64)
    valley = Objective(lambda p: p, lambda p: (scale * p.square()).sum() / 2)
    start = torch.ones(2, dtype=torch.float64)
    assert len(newton(valley, start, damping=0.0).steps) - 1 == 1
    trace = first_order(valley, start, lambda params: optizoo.SGD(params, lr=2 / 101), steps=2000)
    predicted = math.log(1e-8 / trace.steps[0].gradient_norm) / math.log(99 / 101)
    assert trace.status == "converged"
    assert len(trace.steps) - 1 == pytest.approx(predicted, abs=2)
    assert trace.steps[-1].evaluations == len(trace.steps)


def test_divergence_is_named():
    """A rate that is too large ends the run with the status, not with an error."""
    valley = Objective(lambda p: p, lambda p: p.square().sum())
    trace = first_order(valley, torch.ones(2), lambda params: optizoo.SGD(params, lr=1e6), steps=100)
    assert trace.status == "diverged"
    assert len(trace.steps) < 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o, s: newton(o, s, damping=-1.0), "damping must be at least 0, got -1.0"),
        (lambda o, s: gauss_newton(o, s, damping=0.0), "damping must be above 0, got 0.0"),
        (lambda o, s: lbfgs(o, s, tolerance=0.0), "tolerance must be above 0, got 0.0"),
        (lambda o, s: newton_cg(o, s[None]), r"start must be a vector of a floating-point dtype"),
    ],
    ids=["damping", "levenberg", "tolerance", "start"],
)
def test_arguments_out_of_range(call, message: str):
    """What makes no sense is refused with its value."""
    with pytest.raises(ValueError, match=message):
        call(*linear())
