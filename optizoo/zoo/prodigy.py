"""Prodigy, Adam that finds its own rate."""

from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import number, optional
from optizoo.core.declaration import constructor
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.options import Common


def prodigy(
    param, grad, exp_avg, exp_avg_sq, s, p0=None, d=1e-6, d_max=1e-6, d_numerator=0.0, updates=0.0, *, lr, betas, beta3,
    eps, weight_decay, decouple, use_bias_correction, safeguard_warmup, d0, d_coef, growth_rate,
):  # fmt: skip
    """Prodigy: Adam at the rate αd, where d estimates how far the solution is: d ← max(d, Σ⟨g, θ₀-θ⟩ / Σ|s|₁).

    Source: Mishchenko & Defazio (2024), Algorithm 4, https://arxiv.org/abs/2306.06101.
    """
    (beta1, beta2), beta3 = betas, betas[1] ** 0.5 if beta3 is None else beta3
    p0 = param if p0 is None else p0  # θ₀
    if not lr:  # at rate 0 it rests
        return param, None, None, None, p0, None, None, None, None
    updates = updates + 1
    grad = grad.add(param, alpha=weight_decay) if weight_decay and not decouple else grad  # g ← g + λθ
    rate = lr * ((1 - beta2**updates) ** 0.5 / (1 - beta1**updates)) if use_bias_correction else lr
    exp_avg = (exp_avg * beta1).add(grad, alpha=d * (1 - beta1))  # m ← β₁m + (1-β₁)dg
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=d * d * (1 - beta2))  # v ← β₂v + (1-β₂)d²g²
    s = (s * beta3).add(grad, alpha=d / d0 * d * (1.0 if safeguard_warmup else rate))  # s ← β₃s + αd²g / d₀
    distance = yield (grad * (p0 - param)).sum() * (d / d0 * d * rate)  # αd²⟨g, θ₀-θ⟩ / d₀
    length = yield s.abs().sum()  # |s|₁
    d_numerator = d_numerator * beta3 + distance
    estimate = d_coef * d_numerator / length if length > 0 else d
    grown, d_max = max(d, estimate) if d <= d0 else d, max(d_max, estimate)
    new_d = d_max if growth_rate is None else min(d_max, grown * growth_rate)
    param = param.add(param, alpha=-weight_decay * d * rate) if weight_decay and decouple else param  # θ ← θ - αdλθ
    param = param.addcdiv(exp_avg, exp_avg_sq.sqrt() + new_d * eps, value=-d * rate)  # θ ← θ - αd m / (√v + dε)
    return param, exp_avg, exp_avg_sq, s, p0, new_d, d_max, d_numerator, updates


class Prodigy(RuleOptimizer):
    r"""Prodigy, which is Adam that finds its own rate; not in torch.

    .. math::
        \theta \leftarrow \theta - \alpha d \, \frac{m}{\sqrt{v} + d \epsilon}, \qquad
        d \leftarrow \max\left(d, \frac{\sum \alpha d^2 \langle g, \theta_0 - \theta \rangle}{\| s \|_1}\right)

    with m and v of the gradients times d, and s their sum times αd². Sums go over the whole model, and d is one for all
    parameters, those that join late too: ``optimizer.state[param]["d"]``. Rule: :func:`optizoo.rules.prodigy`, with its
    source. After 1000 steps in float64 prodigyopt 1.1.2 is 5e-13 away, but for β₁ = 0, where it multiplies the gradient
    by the next d. It writes a coupled decay into ``p.grad``, and refuses groups of two rates.

    Args:
        lr: α, a factor on d. At 0 nothing moves or is counted, as in the reference.
        beta3: Of the sums; ``None`` for √β₂.
        decouple: Shrink the weights by αdλ, instead of adding λθ to the gradient.
        use_bias_correction: Correct both moments in the rate: times √(1-β₂ᵗ) / (1-β₁ᵗ).
        safeguard_warmup: Leave α out of s, which warm-up makes small.
        d0: First d.
        d_coef: Factor on the estimate: the one to tune, from 0.5 to 2.
        growth_rate: Largest factor by which d grows in a step; ``None`` for any.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``, ``s``, ``p0``; the model's numbers from ``d`` on.
    """

    rule = staticmethod(prodigy)
    order = 17
    initial_values: ClassVar[Any] = {"d": "d0", "d_max": "d0"}
    checks: ClassVar[Any] = {**dict.fromkeys(("beta3", "growth_rate"), optional(number())), "d0": number(minimum=1e-30)}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float | None = None,
        **common: Unpack[Common],
    ): ...
