"""Adamax, Adam with a maximum."""

from typing import Any, Unpack

import torch
from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import DecayingWithoutForeach


def adamax(param, grad, exp_avg, exp_inf, *, lr, betas, eps, weight_decay, step):
    """Adamax: m ← β₁m + (1-β₁)g; u ← max(β₂u, |g| + ε); θ ← θ - α m̂ / u, m̂ = m/(1-β₁ᵗ).

    Adam with the largest gradient in place of the root of the mean square. ε keeps u above zero, as in torch; the paper
    has none. Weight decay is L2.
    Source: Kingma & Ba (2015), Algorithm 2, https://arxiv.org/abs/1412.6980.
    """
    beta1, beta2 = betas
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_inf = (exp_inf * beta2).maximum(grad.abs() + eps)  # u ← max(β₂u, |g| + ε)
    return param.addcdiv(exp_avg, exp_inf, value=-lr / (1 - beta1**step)), exp_avg, exp_inf  # θ ← θ - α m̂ / u


class Adamax(RegularizedOptimizer):
    r"""Adamax, Adam with the largest gradient in place of the mean square; drop-in for :class:`torch.optim.Adamax`.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        u &\leftarrow \max(\beta_2 u, |g| + \epsilon) \\
        \theta &\leftarrow \theta - \alpha \, \frac{m / (1 - \beta_1^t)}{u}

    Rule: :func:`optizoo.rules.adamax`, with its source.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_inf``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adamax([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(adamax)
    order = 8
    namesake = torch.optim.Adamax

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        **common: Unpack[DecayingWithoutForeach],
    ): ...
