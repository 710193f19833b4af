"""LAMB, Adam whose step is as long as the weights of its tensor."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def lamb(param, grad, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, step):
    """LAMB: u = m̂ / (√v̂ + ε) + λθ, with the moments of :func:`adam`; θ ← θ - α ‖θ‖/‖u‖ u.

    The norms are those of the whole tensor. Where one of them is 0 the ratio is 1, as for a bias that starts at 0.
    Source: You et al. (2020), Algorithm 2 with φ(z) = z, https://arxiv.org/abs/1904.00962.
    """
    beta1, beta2 = betas
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    denom = exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5 + eps  # √v̂ + ε
    update = exp_avg / (1 - beta1**step) / denom  # m̂ / (√v̂ + ε)
    if weight_decay:
        update = update.add(param, alpha=weight_decay)  # u ← u + λθ
    size, length = param.norm(), update.norm()
    trust = (size / length).where(size > 0, 1.0).where(length > 0, 1.0)  # ‖θ‖/‖u‖, or 1
    return param.add(update * trust, alpha=-lr), exp_avg, exp_avg_sq  # θ ← θ - α ‖θ‖/‖u‖ u


class LAMB(RegularizedOptimizer):
    r"""LAMB, which moves every tensor by a share of its own norm, for large batches; not in torch.

    .. math::
        u &= \frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda \theta \\
        \theta &\leftarrow \theta - \alpha \, \frac{\lVert \theta \rVert}{\lVert u \rVert} \, u

    The moments, with their bias corrections, are :class:`Adam`'s. α is the share that a step takes of a tensor's norm.
    Rule: :func:`optizoo.rules.lamb`, with its source.

    Implementations differ, by as much as the way that the weights go. timm's ``Lamb`` is this one, to the bit, with
    ``always_adapt=True`` and ``max_grad_norm=None``; by default it clips all gradients to a norm of 1 first (30 % off
    after 1000 steps), and moves a group without decay as Adam does. That of pytorch-optimizer follows version 3 of the
    paper: no bias corrections, ‖θ‖ of 10 at most.

    Args:
        weight_decay: λ, within the ratio.
        weight_decay_mode: ``None``, the paper's, within the ratio; with any other of :class:`SGD` the decay stands
            outside of it.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
        >>> optimizer = optizoo.LAMB([weight], lr=0.1, weight_decay=0)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data  # a tenth of the norm, 5, along the signs of the first step
        tensor([ 2.6464, -3.6464])
    """

    rule = staticmethod(lamb)
    order = 8.8
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        **common: Unpack[Decaying],
    ): ...
