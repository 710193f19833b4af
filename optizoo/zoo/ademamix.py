"""AdEMAMix, Adam with a second, slow momentum."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import Check, number, optional, values
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def ademamix(
    param, grad, exp_avg_fast, exp_avg_slow, exp_avg_sq,
    *, lr, betas, eps, weight_decay, alpha, alpha_warmup, beta3_warmup, step,
):  # fmt: skip
    """AdEMAMix: m₁ ← β₁m₁ + (1-β₁)g; m₂ ← β₃m₂ + (1-β₃)g; θ ← θ - α ((m̂₁ + κm₂) / (√v̂ + ε) + λθ), v as in Adam.

    In a warm-up of T updates, a = min(t/T, 1), κ grows as aκ, and β₃ from β₁ so that its half-life grows in proportion:
    1/ln β₃(t) = (1-a)/ln β₁ + a/ln β₃. Source: Pagliardini et al. (2024), https://arxiv.org/abs/2409.03137.
    """
    beta1, beta2, beta3 = betas
    # min(t/T, 1) without a branch, as t may live on the device: min(t, T) = (t + T - |t - T|) / 2
    shares = ((step + t - ((step - t) ** 2) ** 0.5) / (2 * t) if t else 1.0 for t in (alpha_warmup, beta3_warmup))
    alpha_share, a = shares
    if beta3_warmup and 0 < beta1 < beta3:
        beta3 = beta3 ** (1 / (a + (1 - a) * math.log(beta3) / math.log(beta1)))  # β₃(t)
    exp_avg_fast = exp_avg_fast.lerp(grad, 1 - beta1)  # m₁ ← β₁m₁ + (1-β₁)g
    exp_avg_slow = exp_avg_slow.lerp(grad, 1 - beta3)  # m₂ ← β₃m₂ + (1-β₃)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    denom = exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5 + eps  # √v̂ + ε
    update = (exp_avg_fast / (1 - beta1**step)).add(exp_avg_slow, alpha=alpha * alpha_share)  # m̂₁ + κ(t)m₂
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    return param.addcdiv(update, denom, value=-lr), exp_avg_fast, exp_avg_slow, exp_avg_sq


class AdEMAMix(RegularizedOptimizer):
    r"""AdEMAMix, which is AdamW with a second momentum that remembers thousands of gradients; not in torch.

    .. math::
        \theta \leftarrow (1 - \alpha \lambda) \, \theta - \alpha \,
            \frac{m_1 / (1 - \beta_1^t) + \kappa \, m_2}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Defaults are those of the authors' code; pytorch-optimizer's are κ = 5 (8 % off) and L2 (94 % with λ = 0.05). Rule:
    :func:`optizoo.rules.ademamix`, with its source.

    Args:
        betas: β₁ of the fast momentum, β₂ of the squares, β₃ of the slow momentum, each in [0, 1).
        alpha: κ, the weight of the slow momentum; the paper advises 4 to 10.
        beta3_warmup: Updates in which β₃ grows from β₁ (0 and ``None``: none); the paper takes all of the run.
        alpha_warmup: Updates in which κ grows from 0, the same.
        weight_decay: λ, decoupled.

    Attributes:
        state: Per parameter ``step``, ``exp_avg_fast``, ``exp_avg_slow``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> weight.square().sum().backward()
        >>> optizoo.AdEMAMix([weight], lr=0.1, alpha=0).step()  # without the slow momentum it is AdamW
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(ademamix)
    order = 14
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}
    checks: ClassVar[Mapping[str, Check]] = {
        **dict.fromkeys(("beta3_warmup", "alpha_warmup"), optional(number())),
        "betas": values(number(below=1.0), 3, word="three"),
    }

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: float | None = None,
        alpha_warmup: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        **common: Unpack[Decaying],
    ): ...
