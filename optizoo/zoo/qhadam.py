"""QHAdam, Adam that sees the newest gradient more."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import Check, number, pair
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def qhadam(param, grad, exp_avg, exp_avg_sq, *, lr, betas, nus, eps, weight_decay, step):
    """QHAdam: θ ← θ - α ((1-ν₁)g + ν₁m̂) / (√((1-ν₂)g² + ν₂v̂) + ε), with the m̂ and v̂ of :func:`adam`.

    Quasi-hyperbolic: a mean of the average and of its newest term. ν₁ = ν₂ = 1 is Adam; ν₁ = 0 with ν₂ = 1 is RMSProp
    with a bias correction. Weight decay is L2.
    Source: Ma & Yarats (2019), https://arxiv.org/abs/1810.06801.
    """
    (beta1, beta2), (nu1, nu2) = betas, nus
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    numer = (grad * (1 - nu1)).add(exp_avg / (1 - beta1**step), alpha=nu1)  # (1-ν₁)g + ν₁m̂
    square = (exp_avg_sq * (nu2 / (1 - beta2**step))).addcmul(grad, grad, value=1 - nu2)  # (1-ν₂)g² + ν₂v̂
    return param.addcdiv(numer, square.sqrt() + eps, value=-lr), exp_avg, exp_avg_sq


class QHAdam(RegularizedOptimizer):
    r"""QHAdam, quasi-hyperbolic Adam, which sees the newest gradient more; not in torch.

    .. math::
        \theta \leftarrow \theta - \alpha \, \frac{(1 - \nu_1) \, g + \nu_1 \, m / (1 - \beta_1^t)}
            {\sqrt{(1 - \nu_2) \, g^2 + \nu_2 \, v / (1 - \beta_2^t)} + \epsilon}

    with the moments m and v of :class:`Adam`, which it is where ν₁ = ν₂ = 1. A longer memory (β₁ nearer 1) is made up
    for by the newest gradient (ν₁ below 1). Rule: :func:`optizoo.rules.qhadam`, with its source.

    The defaults are what its authors advise; those of their package, and of pytorch-optimizer, are Adam's. After 1000
    steps in float64 ν₁ = ν₂ = 1 is 2e-15 from Adam. pytorch-optimizer 4.1.0 keeps the weights of its averages in
    float32, and so ends 4e-8 of the path away.

    Args:
        nus: ν₁ and ν₂, from 0 to 1: the share of each average; the rest is the newest term.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.QHAdam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(qhadam)
    order = 8.5
    checks: ClassVar[Mapping[str, Check]] = {"nus": pair(number(maximum=1.0))}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.995, 0.999),
        nus: tuple[float | Tensor, float | Tensor] = (0.7, 1.0),
        eps: float = 1e-8,
        weight_decay: float = 0,
        **common: Unpack[Decaying],
    ): ...
