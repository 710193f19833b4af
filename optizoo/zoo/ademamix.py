"""AdEMAMix, Adam with a second, slow momentum."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import Check, number, optional, values
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def ademamix(param, grad, exp_avg_fast, exp_avg_slow, exp_avg_sq,
             *, lr, betas, eps, weight_decay, alpha, alpha_warmup, beta3_warmup, step):  # fmt: skip
    """AdEMAMix: m₁ ← β₁m₁ + (1-β₁)g; m₂ ← β₃m₂ + (1-β₃)g; θ ← θ - α ((m̂₁ + κm₂) / (√v̂ + ε) + λθ), v as in Adam.

    With a = min(t/T, 1) = (t + T - |t - T|) / 2T (no branch: t may live on the device) κ warms up as aκ, and the
    half-life of β₃ from that of β₁: 1/ln β₃(t) = (1-a)/ln β₁ + a/ln β₃.
    Source: Pagliardini et al. (2024), https://arxiv.org/abs/2409.03137.
    """
    beta1, beta2, beta3 = betas
    share, a = ((step + T - ((step - T) ** 2) ** 0.5) / (2 * T) if T else 1.0 for T in (alpha_warmup, beta3_warmup))
    if beta3_warmup and 0 < beta1 < beta3:
        beta3 = beta3 ** (1 / (a + (1 - a) * math.log(beta3) / math.log(beta1)))  # β₃(t)
    exp_avg_fast = exp_avg_fast.lerp(grad, 1 - beta1)  # m₁ ← β₁m₁ + (1-β₁)g
    exp_avg_slow = exp_avg_slow.lerp(grad, 1 - beta3)  # m₂ ← β₃m₂ + (1-β₃)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    denom = exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5 + eps  # √v̂ + ε
    update = (exp_avg_fast / (1 - beta1**step)).add(exp_avg_slow, alpha=alpha * share)  # m̂₁ + κ(t)m₂
    param = param.add(param, alpha=-lr * weight_decay) if weight_decay else param  # θ ← θ - αλθ
    return param.addcdiv(update, denom, value=-lr), exp_avg_fast, exp_avg_slow, exp_avg_sq


class AdEMAMix(RegularizedOptimizer):
    r"""AdEMAMix, which is AdamW with a second momentum that remembers thousands of gradients; not in torch.

    .. math::
        \theta \leftarrow (1 - \alpha \lambda) \, \theta - \alpha \,
            \frac{m_1 / (1 - \beta_1^t) + \kappa \, m_2}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The authors' defaults; pytorch-optimizer has κ = 5 (8 % off) and L2 (94 %). Rule: :func:`optizoo.rules.ademamix`.

    Args:
        betas: β₁ of the fast momentum, β₂ of the squares, β₃ of the slow momentum, each in [0, 1).
        alpha: κ, the weight of the slow momentum; the paper advises 4 to 10.
        beta3_warmup: T, in which β₃ grows from β₁ (0 and ``None``: it does not); the paper takes all of the run.
        alpha_warmup: T, in which κ grows from 0.
        weight_decay: λ, decoupled.

    Attributes:
        state: Per parameter ``step``, ``exp_avg_fast``, ``exp_avg_slow``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> optizoo.AdEMAMix([weight], lr=0.1, alpha=0).step()  # without the slow momentum it is AdamW
        >>> weight.data
        tensor([0.9000])
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

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check also that no gradient gets lost in the logarithms of a warm-up."""
        super().check_group(group)
        if group["beta3_warmup"] and any(isinstance(beta, Tensor) and beta.requires_grad for beta in group["betas"]):
            raise ValueError("beta3_warmup cannot be differentiated by betas; detach them, or leave it out")
