"""StableAdamW, AdamW whose rate shrinks where gradients surprise."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def stableadamw(param, grad, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, step):
    """StableAdamW: η = α / max(1, RMS), RMS² = mean(g² / max(v̂, ε²)); θ ← θ - η (m̂ / (√v̂ + ε) + λθ).

    The moments are those of :func:`adam`, the mean that of the whole tensor. Where gradients are as large as their
    second moment expects, RMS is 1 or less, and this is :func:`adamw`.
    Source: Wortsman et al. (2023), Algorithm 2, which corrects the betas instead of the moments, with the same result,
    https://arxiv.org/abs/2304.13013.
    """
    beta1, beta2 = betas
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    second_moment = exp_avg_sq / (1 - beta2**step)  # v̂
    surprise = (grad * grad / second_moment.clamp_min(eps * eps)).mean().sqrt()  # RMS
    size = lr / surprise.clamp_min(1.0)  # η = α / max(1, RMS)
    if weight_decay:
        param = param.addcmul(param, size, value=-weight_decay)  # θ ← θ - ηλθ
    update = exp_avg / (second_moment.sqrt() + eps)
    param = param.addcmul(update, size, value=-1 / (1 - beta1**step))  # θ ← θ - η m̂ / (√v̂ + ε)
    return param, exp_avg, exp_avg_sq


class StableAdamW(RegularizedOptimizer):
    r"""StableAdamW, which is AdamW with update clipping, in place of clipping gradients; not in torch.

    .. math::
        \text{RMS} &= \sqrt{\operatorname{mean}(g^2 / \max(\hat v, \epsilon^2))} \\
        \theta &\leftarrow \theta - \frac{\alpha}{\max(1, \text{RMS})}
            \left(\frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda \theta\right)

    Every tensor has a rate of its own, which shrinks in a step whose gradients are larger than the second moment
    expects. The moments are :class:`Adam`'s. Rule: :func:`optizoo.rules.stableadamw`, with its source.

    torch-optimi and pytorch-optimizer are this one, to 5e-13 of the way after 1000 steps; ε is 1e-8 in the latter by
    default. timm's ``clipping_threshold`` leaves the decay out of the clipping.

    Args:
        weight_decay: λ, times the rate that the tensor has in this step.
        weight_decay_mode: ``None``, the paper's, times η; with any other of :class:`SGD` it is not clipped.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.StableAdamW([weight], lr=0.1, weight_decay=0)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data  # as Adam: in the first step nothing is known, and nothing surprises
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(stableadamw)
    order = 8.4
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        **common: Unpack[Decaying],
    ): ...
