"""Methods that use the second derivative, on functions of one flat vector: what it buys, and what it costs.

:class:`Objective` is the function, ``f(θ) = loss(outputs(θ)) + λ/2 |θ|²``, of a flat vector ``θ`` of shape (n,).
:func:`of_model` makes one of a model and a batch. Derivatives are exact, by :mod:`torch.func`; in float64 they reach a
gradient norm of 1e-8 where float32 stops near 1e-4. All methods return a :class:`Trace`, and count their cost in one
unit, see :class:`Step`.

>>> valley = Objective(lambda point: point, lambda point: (point * torch.tensor([1.0, 100.0])).square().sum() / 2)
>>> start = torch.tensor([1.0, 1.0], dtype=torch.float64)
>>> hessian(valley, start).tolist()
[[1.0, 0.0], [0.0, 10000.0]]
>>> trace = newton(valley, start, damping=0.0)
>>> trace.status, len(trace.steps) - 1, trace.steps[-1].loss
('converged', 1, 0.0)
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vjp, vmap
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

__all__ = [
    "Objective",
    "Step",
    "Trace",
    "first_order",
    "gauss_newton",
    "gauss_newton_matrix",
    "gauss_newton_products",
    "hessian",
    "hessian_products",
    "lbfgs",
    "newton",
    "newton_cg",
    "of_model",
]

TOLERANCE = 1e-8  # of the gradient norm
ARMIJO = 1e-4  # share of the decrease predicted by the slope that a step must bring; Nocedal and Wright, section 3.1
HALVINGS = 40
CHUNK = 64  # columns of a matrix that are computed together

Products = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """A function to minimise, ``f(θ) = loss(outputs(θ)) + λ/2 |θ|²``; it is also called as one.

    Attributes:
        outputs: Takes ``θ`` (n,) to the outputs ``z``, of any shape. For most functions the identity will do.
        loss: Takes ``z`` to a scalar. Where it is convex in ``z``, the Gauss-Newton matrix has no negative eigenvalue.
        l2: ``λ``, over all of ``θ``, biases included: then the minimum of a convex loss is unique.
    """

    outputs: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    l2: float = 0.0

    def __call__(self, params: Tensor) -> Tensor:
        """Return ``f(θ)``, a scalar that can be differentiated."""
        value = self.loss(self.outputs(params))
        return value + self.l2 / 2 * params.square().sum() if self.l2 else value


class Step(NamedTuple):
    """Where a method is after some steps.

    Attributes:
        step: Number of steps made; the first record has 0.
        loss: ``f``.
        gradient_norm: Euclidean norm of its gradient.
        seconds: Time since the start.
        evaluations: Losses, gradients and curvature products so far; a matrix counts as one product a column. A loss
            with its gradient counts as one.
    """

    step: int
    loss: float
    gradient_norm: float
    seconds: float
    evaluations: int


@dataclass
class Trace:
    """What a method did.

    Attributes:
        params: Where it ended, (n,).
        steps: A record before the first step, and one after each.
        status: ``"converged"`` when the gradient norm is within the tolerance, ``"stalled"`` when no step that lowers
            the loss was found, as when rounding is all that is left, ``"diverged"`` when the loss is not finite,
            ``"steps"`` when the steps are used up.
    """

    params: Tensor
    steps: list[Step] = field(default_factory=list)
    status: str = "steps"

    def first(self, gradient_norm: float) -> Step | None:
        """Return the first record whose gradient norm is at most this, or ``None``."""
        return next((step for step in self.steps if step.gradient_norm <= gradient_norm), None)


def of_model(model: nn.Module, x: Tensor, y: Tensor, *, l2: float = 0.0) -> tuple[Objective, Tensor]:
    """Return the mean cross-entropy of a model on a batch as a function of its flat parameters, and these.

    Works on a copy in evaluation mode (no dropout) and in the dtype of ``x``, which float64 is best for. The order of
    the parameters is that of :func:`torch.nn.utils.parameters_to_vector`.

    Args:
        model: Takes ``x`` to scores (b, classes).
        x: Inputs (b, ...), of a floating-point dtype.
        y: Labels (b,), int64.
        l2: ``λ`` of :class:`Objective`, over weights and biases.

    Returns:
        The objective, whose outputs are the scores, and the parameters of the model, (n,).

    >>> objective, start = of_model(nn.Linear(4, 3), torch.ones(2, 4, dtype=torch.float64), torch.tensor([0, 2]))
    >>> start.shape, start.dtype
    (torch.Size([15]), torch.float64)
    """
    model = copy.deepcopy(model).to(x.dtype).eval().requires_grad_(requires_grad=False)
    shapes = {name: param.shape for name, param in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    start = nn.utils.parameters_to_vector(model.parameters())

    def outputs(params: Tensor) -> Tensor:
        parts = zip(shapes.items(), params.split(sizes), strict=True)
        return functional_call(model, {name: part.view(shape) for (name, shape), part in parts}, (x,))

    return Objective(outputs, lambda scores: cross_entropy(scores, y), l2), start


# Curvature ------------------------------------------------------------------------------------------------------------


def hessian_products(objective: Objective, params: Tensor) -> Products:
    """Return the function ``v -> H v``, with ``H = ∇²f(θ)``, which never makes ``H``.

    ``H`` is symmetric, so the derivative of the gradient is run backwards: each product costs about two gradients
    (Pearlmutter 1994, "Fast exact multiplication by the Hessian"). The gradient itself is computed once, here.

    >>> product = hessian_products(Objective(lambda x: x, lambda x: x.prod()), torch.tensor([2.0, 3.0]))
    >>> product(torch.tensor([1.0, 0.0])).tolist()
    [0.0, 1.0]
    """
    product = vjp(grad(objective), params)[1]
    return lambda vector: product(vector)[0]


def gauss_newton_products(objective: Objective, params: Tensor) -> Products:
    """Return the function ``v -> G v``, with ``G = Jᵀ ∇²loss(z) J + λI`` and ``J = ∂z/∂θ``.

    ``G`` is the Hessian without the curvature of the model, which is that of the linear model exactly. It has no
    negative eigenvalue where the loss is convex in the outputs (Schraudolph 2002, "Fast curvature matrix-vector
    products for second-order gradient descent").
    """
    scores, backward = vjp(objective.outputs, params)[:2]
    # u -> Jᵀ u is linear, so its own derivative run backwards is J. Forward mode would do, but warns: it still imports
    # parts of torch that use torch.jit.script.
    forward = vjp(lambda cotangent: backward(cotangent)[0], torch.zeros_like(scores))[1]
    curvature = vjp(grad(objective.loss), scores)[1]

    def product(vector: Tensor) -> Tensor:
        return backward(curvature(forward(vector)[0])[0])[0] + objective.l2 * vector

    return product


def hessian(objective: Objective, params: Tensor) -> Tensor:
    """Return ``∇²f(θ)``, (n, n), exact to rounding: 8 n² bytes in float64, n products of time."""
    return _matrix(hessian_products(objective, params), params)


def gauss_newton_matrix(objective: Objective, params: Tensor) -> Tensor:
    """Return the matrix of :func:`gauss_newton_products`, (n, n)."""
    return _matrix(gauss_newton_products(objective, params), params)


def _matrix(products: Products, params: Tensor) -> Tensor:
    matrix = params.new_empty(params.numel(), params.numel())
    for start in range(0, params.numel(), CHUNK):
        rows = matrix[start : start + CHUNK]
        rows.zero_().diagonal(offset=start).fill_(1.0)  # of the unit matrix
        rows.copy_(vmap(products)(rows))
    return matrix


# Methods --------------------------------------------------------------------------------------------------------------


class _Run:
    """Evaluates an objective, counts, and keeps the trace."""

    def __init__(self, objective: Objective, start: Tensor, tolerance: float) -> None:
        if start.dim() != 1 or not start.is_floating_point():
            raise ValueError(f"start must be a vector of a floating-point dtype, got {start.dtype} {[*start.shape]}")
        if not tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {tolerance!r}: rounding keeps gradients from being zero")
        self.objective = objective
        self.tolerance = tolerance
        self.evaluations = 0
        self.trace = Trace(start.detach().clone())
        self.began = time.perf_counter()

    def loss(self, params: Tensor) -> float:
        self.evaluations += 1
        with torch.no_grad():
            return self.objective(params).item()

    def gradient(self, params: Tensor) -> tuple[float, Tensor]:
        self.evaluations += 1
        gradient, loss = grad_and_value(self.objective)(params)
        return loss.item(), gradient

    def counted(self, products: Products) -> Products:
        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            return products(vector)

        return product

    def matrix(self, make: Callable[[Objective, Tensor], Tensor]) -> Tensor:
        self.evaluations += self.trace.params.numel()
        return make(self.objective, self.trace.params)

    def at(self, params: Tensor, loss: float, gradient_norm: float) -> bool:
        """Record where the method is, and return whether to stop here."""
        trace, seconds = self.trace, time.perf_counter() - self.began
        trace.params = params.detach().clone()
        trace.steps.append(Step(len(trace.steps), loss, gradient_norm, seconds, self.evaluations))
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            trace.status = "diverged"
        elif gradient_norm <= self.tolerance:
            trace.status = "converged"
        return trace.status != "steps"

    def search(self, loss: float, slope: float, direction: Tensor) -> Tensor | None:
        """Halve the step until it lowers the loss by ``ARMIJO`` of what the slope predicts; ``None`` if none does.

        A rise by a few roundings of the loss is no rise: close to the minimum, nothing else is left to be seen.
        """
        rounding = 4 * torch.finfo(direction.dtype).eps * abs(loss)
        for length in (0.5**halvings for halvings in range(HALVINGS)):
            params = self.trace.params + length * direction
            if self.loss(params) <= loss + ARMIJO * length * slope + rounding:
                return params
        self.trace.status = "stalled"
        return None


def newton(
    objective: Objective, start: Tensor, *, steps: int = 50, tolerance: float = TOLERANCE, damping: float = 1e-2
) -> Trace:
    """Minimise by Newton's method with the exact Hessian, damping and a line search.

    ``θ ← θ - t (H + μI)⁻¹ g``, with ``μ = damping |g|``: the damping ends with the gradient, so convergence stays
    quadratic, even where the Hessian is singular, as that of softmax regression is along a shift of all classes (Li,
    Fukushima, Qi and Yamashita 2004, "Regularized Newton methods for convex minimization problems with singular
    solutions"). Where ``H + μI`` is not positive definite, ``μ`` grows by factors of 4 until it is (Nocedal and Wright
    2006, "Numerical Optimization", algorithm 3.3). ``t`` is halved from 1 until the loss falls enough (Armijo).

    Args:
        objective: The function.
        start: Where to begin, (n,); float64 for tolerances below 1e-4.
        steps: At most so many.
        tolerance: Of the gradient norm, above 0.
        damping: ``μ / |g|``, at least 0; 0 needs a Hessian that is positive definite.

    Raises:
        ValueError: An argument is out of range.
    """
    if not damping >= 0:
        raise ValueError(f"damping must be at least 0, got {damping!r}")
    run = _Run(objective, start, tolerance)
    loss, gradient = run.gradient(run.trace.params)
    while not run.at(run.trace.params, loss, norm := gradient.norm().item()) and len(run.trace.steps) <= steps:
        curvature = run.matrix(hessian)
        factor = _factor(curvature, damping * norm)
        direction = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        if (params := run.search(loss, (gradient @ direction).item(), direction)) is None:
            break
        run.trace.params = params
        loss, gradient = run.gradient(params)
    return run.trace


def _factor(matrix: Tensor, damping: float) -> Tensor:
    """Return the Cholesky factor of ``matrix + damping * I``, with more damping where it would not exist."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype)
    least = torch.finfo(matrix.dtype).eps * matrix.diagonal().abs().max().item()
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + damping * eye)
        if not failed:
            return factor
        damping = max(4 * damping, least)


def gauss_newton(
    objective: Objective, start: Tensor, *, steps: int = 50, tolerance: float = TOLERANCE, damping: float = 1e-3
) -> Trace:
    """Minimise by the Gauss-Newton method, damped after Levenberg and Marquardt.

    ``θ ← θ - (G + μI)⁻¹ g``. A step that raises the loss is not made; ``μ`` follows the ratio of the decrease to what
    the quadratic model predicts, by the rule of Nielsen 1999 ("Damping parameter in Marquardt's method"): it shrinks by
    up to 3 where they agree, and grows by 2, 4, 8 ... where they do not.

    Args:
        objective: The function; its loss convex in the outputs.
        start: Where to begin, (n,); float64 for tolerances below 1e-4.
        steps: At most so many.
        tolerance: Of the gradient norm, above 0.
        damping: The first ``μ``, above 0, as a share of the largest diagonal element of ``G``.

    Raises:
        ValueError: An argument is out of range.
    """
    if not damping > 0:
        raise ValueError(f"damping must be above 0, got {damping!r}")
    run = _Run(objective, start, tolerance)
    loss, gradient = run.gradient(run.trace.params)
    mu = 0.0
    while not run.at(run.trace.params, loss, gradient.norm().item()) and len(run.trace.steps) <= steps:
        curvature = run.matrix(gauss_newton_matrix)
        mu, growth = mu or damping * curvature.diagonal().max().item(), 2.0
        rounding = 4 * torch.finfo(start.dtype).eps * abs(loss)
        for _ in range(HALVINGS):
            factor = _factor(curvature, mu)
            direction = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
            predicted = -(gradient @ direction + direction @ (curvature @ direction) / 2).item()
            params = run.trace.params + direction
            gained = loss - run.loss(params)
            ratio = gained / predicted if predicted > rounding else 1.0  # below it the loss says nothing
            if gained >= -rounding and ratio > ARMIJO:
                mu *= max(1 / 3, 1 - (2 * ratio - 1) ** 3)
                break
            mu, growth = mu * growth, growth * 2
        else:
            run.trace.status = "stalled"
            break
        run.trace.params = params
        loss, gradient = run.gradient(params)
    return run.trace


def newton_cg(
    objective: Objective,
    start: Tensor,
    *,
    steps: int = 100,
    tolerance: float = TOLERANCE,
    inner_steps: int = 200,
    curvature: Callable[[Objective, Tensor], Products] = hessian_products,
) -> Trace:
    """Minimise by Newton's method whose equation ``H d = -g`` conjugate gradients solve, without making ``H``.

    Conjugate gradients stop at the residual ``min(1/2, √|g|) |g|``, which is superlinear convergence, or at a direction
    of negative curvature: what they have by then is a descent direction, and before their first step ``-g`` is
    (Nocedal and Wright 2006, "Numerical Optimization", algorithm 7.1). The line search is that of :func:`newton`.

    Args:
        objective: The function.
        start: Where to begin, (n,); float64 for tolerances below 1e-4.
        steps: At most so many.
        tolerance: Of the gradient norm, above 0.
        inner_steps: Products a step, at most.
        curvature: :func:`hessian_products` or :func:`gauss_newton_products`.

    Raises:
        ValueError: An argument is out of range.
    """
    run = _Run(objective, start, tolerance)
    loss, gradient = run.gradient(run.trace.params)
    while not run.at(run.trace.params, loss, norm := gradient.norm().item()) and len(run.trace.steps) <= steps:
        product = run.counted(curvature(objective, run.trace.params))
        direction = _conjugate_gradients(product, gradient, min(0.5, math.sqrt(norm)) * norm, inner_steps)
        if (params := run.search(loss, (gradient @ direction).item(), direction)) is None:
            break
        run.trace.params = params
        loss, gradient = run.gradient(params)
    return run.trace


def _conjugate_gradients(product: Products, gradient: Tensor, enough: float, steps: int) -> Tensor:
    """Return an approximate ``-H⁻¹ g``, up to a residual norm of ``enough`` or to negative curvature."""
    solution, residual = torch.zeros_like(gradient), -gradient
    direction, square = residual, (residual @ residual).item()
    for step in range(steps):
        curved = product(direction)
        bend = (direction @ curved).item()
        if bend <= 0:
            return -gradient if step == 0 else solution
        solution = solution + square / bend * direction
        residual = residual - square / bend * curved
        square, before = (residual @ residual).item(), square
        if math.sqrt(square) <= enough:
            break
        direction = residual + square / before * direction
    return solution


def lbfgs(
    objective: Objective, start: Tensor, *, steps: int = 300, tolerance: float = TOLERANCE, history: int = 10
) -> Trace:
    """Minimise by L-BFGS: :class:`torch.optim.LBFGS` with a line search for the strong Wolfe conditions.

    The inverse of the Hessian is built from the last ``history`` changes of gradient and parameters (Liu and Nocedal
    1989, "On the limited memory BFGS method for large scale optimization"): 2 n ``history`` numbers.

    Args:
        objective: The function.
        start: Where to begin, (n,); float64 for tolerances below 1e-4.
        steps: At most so many.
        tolerance: Of the gradient norm, above 0.
        history: Pairs kept.

    Raises:
        ValueError: An argument is out of range.
    """
    run = _Run(objective, start, tolerance)
    weights = nn.Parameter(run.trace.params.clone())
    optimizer = torch.optim.LBFGS(
        [weights],
        lr=1.0,
        max_iter=1,
        max_eval=26,  # of which the line search gets 25
        tolerance_grad=0,
        tolerance_change=0,
        history_size=history,
        line_search_fn="strong_wolfe",
    )
    # torch evaluates anew, at the start of a step, where the line search of the last one ended.
    seen: tuple[Tensor, float, Tensor] | None = None

    def evaluate() -> Tensor:
        nonlocal seen
        if seen is None or not torch.equal(seen[0], weights):
            loss, gradient = run.gradient(weights.detach())
            seen = weights.detach().clone(), loss, gradient
        weights.grad = seen[2].clone()
        return torch.tensor(seen[1], dtype=weights.dtype)

    loss = evaluate().item()
    while not run.at(weights, loss, weights.grad.norm().item()) and len(run.trace.steps) <= steps:  # type: ignore[union-attr]
        optimizer.step(evaluate)
        if torch.equal(weights, run.trace.params):
            run.trace.status = "stalled"
            break
        loss = evaluate().item()
    return run.trace


def first_order(
    objective: Objective,
    start: Tensor,
    optimizer: Callable[[list[nn.Parameter]], Optimizer],
    *,
    steps: int = 300,
    tolerance: float = TOLERANCE,
) -> Trace:
    """Minimise with an optimizer on full gradients, for comparison: a step is one evaluation.

    Args:
        objective: The function.
        start: Where to begin, (n,).
        optimizer: Makes one of the parameters, such as ``lambda params: optizoo.SGD(params, lr=0.1)``.
        steps: At most so many.
        tolerance: Of the gradient norm, above 0.

    Raises:
        ValueError: An argument is out of range.
    """
    run = _Run(objective, start, tolerance)
    weights = nn.Parameter(run.trace.params.clone())
    minimiser = optimizer([weights])
    while True:
        loss, weights.grad = run.gradient(weights.detach())
        if run.at(weights, loss, weights.grad.norm().item()) or len(run.trace.steps) > steps:
            return run.trace
        minimiser.step()
