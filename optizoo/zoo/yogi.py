"""Yogi, Adam whose second moment changes slowly."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def yogi(param, grad, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, bias_correction, step):
    """Yogi: m ← β₁m + (1-β₁)g; v ← v - (1-β₂) sign(v-g²) g²; θ ← θ - α m̂ / (√v̂ + ε), m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ).

    Adam's v moves by (1-β₂)(v - g²), and so falls fast where gradients become small; Yogi's moves by (1-β₂)g² at most.
    Algorithm 2 has no bias correction: with ``bias_correction=False`` m̂ = m and v̂ = v.
    The decay is decoupled, as in :func:`adamw`.
    Source: Zaheer et al. (2018), Algorithm 2,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization.
    """
    beta1, beta2 = betas
    if weight_decay:
        param = param.add(param, alpha=-lr * weight_decay)  # θ ← θ - αλθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    square = grad * grad
    growth = (square - exp_avg_sq).sign()  # -sign(v - g²)
    exp_avg_sq = exp_avg_sq.addcmul(growth, square, value=1 - beta2)  # v ← v - (1-β₂) sign(v - g²) g²
    bias_correction1 = 1 - beta1**step if bias_correction else 1.0  # 1 - β₁ᵗ
    bias_correction2 = 1 - beta2**step if bias_correction else 1.0  # 1 - β₂ᵗ
    denom = exp_avg_sq.sqrt() / bias_correction2**0.5 + eps  # √v̂ + ε
    param = param.addcdiv(exp_avg / bias_correction1, denom, value=-lr)  # θ ← θ - α m̂ / (√v̂ + ε)
    return param, exp_avg, exp_avg_sq


class Yogi(RegularizedOptimizer):
    r"""Yogi, which is Adam whose second moment changes slowly; not in torch.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow v - (1 - \beta_2) \operatorname{sign}(v - g^2) \, g^2 \\
        \theta &\leftarrow \theta - \alpha \,
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Rule: :func:`optizoo.rules.yogi`, with its source.

    Packages add the bias correction that Algorithm 2 leaves out, and start v at 1e-6. optax and pytorch-optimizer 4.1.0
    start m there too, not at 0, which moves weights that have no gradient: after 1000 steps in float64 the latter is
    7e-6 of the path away, and up to 85 % of that of a weight with small gradients; with m from 0 it is 4e-15 away.

    Args:
        eps: ε, added outside the root.
        weight_decay: λ, decoupled.
        initial_accumulator: What v starts at.
        bias_correction: ``False`` leaves out both divisions by 1 - βᵗ, as its paper prints it.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Yogi([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9001, -1.9000])
    """

    rule = staticmethod(yogi)
    order = 7.4
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}
    initial_values: ClassVar[Mapping[str, str]] = {"exp_avg_sq": "initial_accumulator"}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0,
        initial_accumulator: float = 1e-6,
        *,
        bias_correction: bool = True,
        **common: Unpack[Decaying],
    ): ...
