"""Cautious AdamW, which leaves out the weights that the newest gradient would move the other way."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def cautiousadamw(param, grad, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, step):
    """Cautious AdamW: φ = 1 where m g > 0, else 0; θ ← (1 - αλ)θ - α φ / max(mean(φ), 0.001) m̂ / (√v̂ + ε).

    The moments are those of :func:`adam`, the mean is that of the whole tensor: the fewer weights move, the farther
    they do. The signs are multiplied, not the numbers, whose product may be too small for the type.
    Source: Liang et al. (2024), Algorithm 1, with the bound of its authors' code, https://arxiv.org/abs/2411.16085.
    """
    beta1, beta2 = betas
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    agrees = (exp_avg.sign() * grad.sign()).clamp_min(0.0)  # φ
    update = exp_avg * (agrees / agrees.mean().clamp_min(1e-3))
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    denom = exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5 + eps  # √v̂ + ε
    param = param.addcdiv(update, denom, value=-lr / (1 - beta1**step))
    return param, exp_avg, exp_avg_sq


class CautiousAdamW(RegularizedOptimizer):
    r"""AdamW that moves only weights whose momentum and gradient have one sign; not in torch.

    .. math::
        \phi &= [m g > 0] \\
        \theta &\leftarrow (1 - \alpha \lambda) \, \theta - \alpha \,
            \frac{\phi}{\max(\operatorname{mean}(\phi), 0.001)} \, \frac{\hat m}{\sqrt{\hat v} + \epsilon}

    The moments are :class:`Adam`'s, and so is the step of a weight that moves, but for the mean.
    Rule: :func:`optizoo.rules.cautiousadamw`, with its source. :func:`optizoo.combinators.cautious` does the same to
    any other rule.

    timm's ``AdamWLegacy(caution=True)`` is this one, to the bit; the paper adds a small number to the mean in place of
    the bound.

    Args:
        weight_decay: λ, decoupled; it shrinks all weights.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = optizoo.CautiousAdamW([weight], lr=0.1, weight_decay=0)
        >>> for grad in ([1.0, 1.0], [1.0, -0.1]):
        ...     weight.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> weight.data  # the second one waits, and the first goes twice as far
        tensor([0.7000, 0.9000])
    """

    rule = staticmethod(cautiousadamw)
    order = 8.2
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **common: Unpack[Decaying],
    ): ...
