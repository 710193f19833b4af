"""NAdam, Adam that looks ahead."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying
from optizoo.core.rule import times


def nadam(
    param, grad, exp_avg, exp_avg_sq, mu_product=1.0,
    *, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, step,
):  # fmt: skip
    """NAdam: Adam with Nesterov's look-ahead and a momentum μₜ that grows to β₁; ``mu_product`` is μ₁ ⋯ μₜ.

    θ ← θ - α ((1-μₜ) g / (1 - μ₁⋯μₜ) + μₜ₊₁ m / (1 - μ₁⋯μₜ₊₁)) / (√v̂ + ε). Weight decay is L2, or decoupled.
    Source: Dozat (2016), Algorithm 2, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    """
    beta1, beta2 = betas
    if weight_decay and decoupled_weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    elif weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    mu = nadam_momentum(step, betas=betas, momentum_decay=momentum_decay)  # μₜ
    mu_next = nadam_momentum(step + 1, betas=betas, momentum_decay=momentum_decay)  # μₜ₊₁
    mu_product = times(mu_product, mu)  # μ₁ ⋯ μₜ, kept in float32 as torch does
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    denom = (exp_avg_sq / (1 - beta2**step)).sqrt() + eps  # √v̂ + ε
    param = param.addcdiv(grad, denom, value=-lr * (1 - mu) / (1 - mu_product))
    param = param.addcdiv(exp_avg, denom, value=-lr * mu_next / (1 - mu_product * mu_next))
    return param, exp_avg, exp_avg_sq, mu_product


def nadam_momentum(step, *, betas, momentum_decay):
    """Return the momentum of an update of :func:`nadam`: μₜ = β₁ (1 - ½ · 0.96^(ψt)), with ψ = ``momentum_decay``.

    Source: Dozat (2016), section 2.2, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    """
    return betas[0] * (1 - 0.5 * 0.96 ** (step * momentum_decay))


class NAdam(RegularizedOptimizer):
    r"""NAdam, which is Adam with Nesterov's look-ahead; drop-in for :class:`torch.optim.NAdam`.

    .. math::
        \theta \leftarrow \theta - \alpha \, \left(\frac{(1 - \mu_t) \, g}{1 - \prod_{i \le t} \mu_i}
            + \frac{\mu_{t+1} \, m}{1 - \prod_{i \le t+1} \mu_i}\right) / (\sqrt{\hat v} + \epsilon)

    The momentum :math:`\mu_t = \beta_1 (1 - \frac{1}{2} 0.96^{t \psi})` grows to β₁. Rule:
    :func:`optizoo.rules.nadam`, with its source.

    Args:
        momentum_decay: ψ.

    Attributes:
        state: Per parameter ``step``, ``mu_product``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.NAdam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[weight])
        ['exp_avg', 'exp_avg_sq', 'mu_product', 'step']
    """

    rule = staticmethod(nadam)
    order = 9
    namesake = torch.optim.NAdam
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        **common: Unpack[Decaying],
    ): ...
