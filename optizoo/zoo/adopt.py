"""ADOPT, Adam that divides by the second moment of before."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import Check, number, optional
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def adopt(
    param, grad, exp_avg, exp_avg_sq,
    *, lr, betas, eps, weight_decay, decoupled_weight_decay, clip_exponent, step,
):  # fmt: skip
    """ADOPT: m ← β₁m + (1-β₁) clip(g / max(√v, ε), ±(t-1)ᵖ); θ ← θ - αm; v ← β₂v + (1-β₂)g².

    g meets the v of before it, so the two are independent, and Adam's convergence hangs on β₂ no more. The first update
    only makes v = g²: there 1 - β₂ is 1, and 1 - β₁ and the decoupled decay are 0. p = ``clip_exponent``; ``None`` is
    Algorithm 1, which does not clip. Weight decay is L2, or decoupled.
    Source: Taniguchi et al. (2024), Algorithm 2, https://arxiv.org/abs/2411.02853.
    """
    beta1, beta2 = betas
    later = 1 - 0.0 ** (step - 1)  # 0 in the first update, then 1; no branch, as the step may live on the device
    if weight_decay and decoupled_weight_decay:
        param = param.add(param, alpha=-lr * weight_decay * later)  # θ ← θ - αλθ
    elif weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    direction = grad / exp_avg_sq.sqrt().clamp_min(eps + (1 - later))  # g / max(√v, ε); finite where v is still 0
    if clip_exponent is not None:
        bound = (step - 1) ** clip_exponent  # (t-1)ᵖ
        direction = direction.clamp_min(-bound).clamp_max(bound)
    exp_avg = exp_avg.lerp(direction, (1 - beta1) * later)  # m ← β₁m + (1-β₁) · direction
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2 * later)  # v ← β₂v + (1-β₂)g²
    return param.add(exp_avg, alpha=-lr), exp_avg, exp_avg_sq  # θ ← θ - αm


class ADOPT(RegularizedOptimizer):
    r"""ADOPT, which is Adam that divides by the second moment of before, and converges with any β₂; not in torch.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) \operatorname{clip}
            \left(\frac{g}{\max(\sqrt{v}, \epsilon)}, \pm (t - 1)^p\right) \\
        \theta &\leftarrow \theta - \alpha m \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \qquad (v \leftarrow g^2 \text{ alone in the first update})

    The first update moves nothing. Defaults are those of the authors' package, torch-adopt, which it equals to the bit
    in float64. timm has p = 0.333 (24 % off), pytorch-optimizer clips to tᵖ (0.6 %) and decays first. Rule:
    :func:`optizoo.rules.adopt`, with its source.

    Args:
        eps: ε, the least that a gradient is divided by.
        weight_decay: λ, L2; it passes through both moments.
        decoupled_weight_decay: Shrink the weights instead, but not in the first update.
        clip_exponent: p; ``None`` does not clip.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.ADOPT([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data, optimizer.state[weight]["exp_avg_sq"]
        (tensor([ 1., -2.]), tensor([ 4., 16.]))
    """

    rule = staticmethod(adopt)
    order = 12
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None}
    checks: ClassVar[Mapping[str, Check]] = {"clip_exponent": optional(number())}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.9999),
        eps: float = 1e-6,
        clip_exponent: float | None = 0.25,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        **common: Unpack[Decaying],
    ): ...
