"""Adadelta, without a learning rate."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.checks import Check, number
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import DecayingWithoutForeach


def adadelta(param, grad, square_avg, acc_delta, *, lr, rho, eps, weight_decay):
    """Adadelta: v ← ρv + (1-ρ)g²; δ = g √(u + ε) / √(v + ε); u ← ρu + (1-ρ)δ²; θ ← θ - αδ.

    The running size u of past updates stands where others have a learning rate; the paper has α = 1.
    Weight decay is L2.
    Source: Zeiler (2012), Algorithm 1, https://arxiv.org/abs/1212.5701.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    square_avg = (square_avg * rho).addcmul(grad, grad, value=1 - rho)  # v ← ρv + (1-ρ)g²
    delta = (acc_delta + eps).sqrt() / (square_avg + eps).sqrt() * grad  # δ = g √(u + ε) / √(v + ε)
    acc_delta = (acc_delta * rho).addcmul(delta, delta, value=1 - rho)  # u ← ρu + (1-ρ)δ²
    return param.add(delta, alpha=-lr), square_avg, acc_delta  # θ ← θ - αδ


class Adadelta(RegularizedOptimizer):
    r"""Adadelta, with the size of past updates in place of a learning rate; drop-in for :class:`torch.optim.Adadelta`.

    .. math::
        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        \delta &= g \, \sqrt{u + \epsilon} / \sqrt{v + \epsilon} \\
        u &\leftarrow \rho u + (1 - \rho) \delta^2 \\
        \theta &\leftarrow \theta - \alpha \delta

    Rule: :func:`optizoo.rules.adadelta`, with its source.

    Args:
        lr: Factor α on the update; the paper has 1.
        rho: ρ, from 0 to 1.
        eps: ε, inside both roots: it sets the size of the first updates.

    Attributes:
        state: Per parameter ``step``, ``square_avg``, ``acc_delta``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adadelta([weight])
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[weight])
        ['acc_delta', 'square_avg', 'step']
    """

    rule = staticmethod(adadelta)
    order = 5
    namesake = torch.optim.Adadelta
    checks: ClassVar[Mapping[str, Check]] = {"rho": number(maximum=1.0)}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        **common: Unpack[DecayingWithoutForeach],
    ): ...
