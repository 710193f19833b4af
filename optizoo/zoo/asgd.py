"""ASGD, gradient descent that averages its path."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.checks import Check, number
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import DecayingByKeyword
from optizoo.core.rule import at_least, kept


def asgd(param, grad, ax, eta=0.0, mu=1.0, *, lr, lambd, alpha, t0, weight_decay, step):
    """Averaged SGD: θ ← (1 - λ'η)θ - ηg; a ← a + μ(θ - a), with ηₜ₊₁ = α (1 + λ'αt)^-κ and μₜ₊₁ = 1 / max(1, t - t₀).

    The rate η starts at α and falls; a, in the state ``ax``, follows θ until step t₀ and is the mean of the path from
    there on. Nothing but the state holds it. λ' is ``lambd`` and κ ``alpha``; weight decay is L2, as in :func:`sgd`.
    Source: Polyak & Juditsky (1992), https://doi.org/10.1137/0330046; the rates are those of Bottou's SGD, as in torch.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    param = (param * (1 - lambd * eta)).add(grad, alpha=-eta)  # θ ← (1 - λ'η)θ - ηg
    ax = ax + (param - ax) * mu if mu != 1 else param  # a ← a + μ(θ - a)
    eta = kept(lr / (1 + lambd * lr * step) ** alpha)  # η ← α (1 + λ'αt)^-κ
    mu = kept(1 / at_least(step - t0, 1))  # μ ← 1 / max(1, t - t₀)
    return param, ax, eta, mu


class ASGD(RegularizedOptimizer):
    r"""Averaged SGD, which keeps the mean of its path; drop-in for :class:`torch.optim.ASGD`.

    .. math::
        \theta &\leftarrow (1 - \lambda' \eta) \, \theta - \eta g, \qquad
            \eta \leftarrow \alpha \, (1 + \lambda' \alpha t)^{-\kappa} \\
        a &\leftarrow a + \mu \, (\theta - a), \qquad \mu \leftarrow 1 / \max(1, t - t_0)

    The mean stands in ``state[param]["ax"]`` alone; copy it into the model to use it. Rule:
    :func:`optizoo.rules.asgd`, with its source.

    Args:
        lr: Learning rate α, which η starts at.
        lambd: λ', a decay of its own, which makes the rate fall too.
        alpha: κ, the power of the fall.
        t0: The step from which on the mean is taken.

    Attributes:
        state: Per parameter ``step``, ``eta``, ``mu``, ``ax``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.ASGD([weight], lr=0.1, lambd=0, t0=0)
        >>> for _ in range(2):
        ...     weight.grad = torch.ones(2)
        ...     optimizer.step()
        >>> weight.data, optimizer.state[weight]["ax"]
        (tensor([ 0.8000, -2.2000]), tensor([ 0.8000, -2.2000]))
    """

    rule = staticmethod(asgd)
    order = 2.5
    namesake = torch.optim.ASGD
    checks: ClassVar[Mapping[str, Check]] = {"t0": number(minimum=-math.inf)}
    initial_values: ClassVar[Mapping[str, str]] = {"eta": "lr"}

    @constructor
    def __init__(
        self, params: Any, lr: float | Tensor = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
        weight_decay: float = 0, foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
        capturable: bool = False, **common: Unpack[DecayingByKeyword],
    ): ...  # fmt: skip
