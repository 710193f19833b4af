"""AdaBelief, Adam that divides by the surprise of a gradient."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def adabelief(param, grad, exp_avg, exp_avg_var, *, lr, betas, eps, weight_decay, step):
    """AdaBelief: m ← β₁m + (1-β₁)g; s ← β₂s + (1-β₂)(g-m)² + ε; θ ← θ - α m̂ / (√ŝ + ε), m̂ = m/(1-β₁ᵗ), ŝ = s/(1-β₂ᵗ).

    Adam that divides by how far the gradient is from what was expected of it, m. ε is added twice; in s it stays, and
    adds up to ε/(1-β₂). The decay is decoupled, as in :func:`adamw`.
    Source: Zhuang et al. (2020), Algorithm 2, https://arxiv.org/abs/2010.07468.
    """
    beta1, beta2 = betas
    if weight_decay:
        param = param.add(param, alpha=-lr * weight_decay)  # θ ← θ - αλθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    surprise = grad - exp_avg  # g - m
    exp_avg_var = (exp_avg_var * beta2).addcmul(surprise, surprise, value=1 - beta2) + eps  # s ← β₂s + (1-β₂)(g-m)² + ε
    denom = exp_avg_var.sqrt() / (1 - beta2**step) ** 0.5 + eps  # √ŝ + ε
    param = param.addcdiv(exp_avg / (1 - beta1**step), denom, value=-lr)  # θ ← θ - α m̂ / (√ŝ + ε)
    return param, exp_avg, exp_avg_var


class AdaBelief(RegularizedOptimizer):
    r"""AdaBelief, which is Adam that divides by the surprise of a gradient; not in torch.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        s &\leftarrow \beta_2 s + (1 - \beta_2) (g - m)^2 + \epsilon \\
        \theta &\leftarrow \theta - \alpha \,
            \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}, \text{ after } \theta \leftarrow
            (1 - \alpha \lambda) \, \theta

    Steps are long where gradients are as expected, short where they surprise. Rule: :func:`optizoo.rules.adabelief`,
    with its source.

    After 1000 steps in float64 pytorch-optimizer 4.1.0 is 2e-15 away, and so is timm 1.0.31 with ``rectify=False``. By
    default timm rectifies (as :class:`RAdam`), which Algorithm 2 does not: it ends 112 % of the path away.

    Args:
        eps: ε, inside s and outside the root: ε = 1e-16 does here what 1e-8 does in Adam. In float16 it rounds to zero.
        weight_decay: λ, decoupled.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_var``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.AdaBelief([weight], lr=0.09)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data  # the first surprise is β₁g
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(adabelief)
    order = 7.2
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0,
        **common: Unpack[Decaying],
    ): ...
