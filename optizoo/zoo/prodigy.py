"""Prodigy, Adam that finds its own rate."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import Check, OutOfRangeError, number, optional
from optizoo.core.declaration import constructor
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.options import Common


def prodigy(
    param, grad, exp_avg, exp_avg_sq, s, p0=None, d=1e-6, d_max=1e-6, d_numerator=0.0,
    *, lr, betas, beta3, eps, weight_decay, decouple, use_bias_correction, safeguard_warmup, d0, d_coef, growth_rate,
    step,
):  # fmt: skip
    """Prodigy: Adam at the rate αd, where d estimates how far the solution is: d ← max(d, Σ⟨g, θ₀-θ⟩ / Σ|s|₁).

    Source: Mishchenko & Defazio (2024), Algorithm 4, https://arxiv.org/abs/2306.06101.
    """
    (beta1, beta2), beta3 = betas, betas[1] ** 0.5 if beta3 is None else beta3
    p0 = param if p0 is None else p0  # θ₀
    if weight_decay and not decouple:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    rate = lr * ((1 - beta2**step) ** 0.5 / (1 - beta1**step)) if use_bias_correction else lr
    exp_avg = (exp_avg * beta1).add(grad, alpha=d * (1 - beta1))  # m ← β₁m + (1-β₁)dg
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=d * d * (1 - beta2))  # v ← β₂v + (1-β₂)d²g²
    s = (s * beta3).add(grad, alpha=d / d0 * d * (1.0 if safeguard_warmup else rate))  # s ← β₃s + αd²g / d₀
    distance = yield (grad * (p0 - param)).sum() * (d / d0 * d * rate)  # αd²⟨g, θ₀-θ⟩ / d₀
    length = yield s.abs().sum()  # |s|₁
    d_numerator = d_numerator * beta3 + distance
    estimate = d_coef * d_numerator / length if length > 0 else d
    grown = max(d, estimate) if d <= d0 else d
    d_max = max(d_max, estimate)
    new_d = min(d_max, grown * growth_rate)
    if weight_decay and decouple:
        param = param.add(param, alpha=-weight_decay * d * rate)  # θ ← θ - αdλθ
    param = param.addcdiv(exp_avg, exp_avg_sq.sqrt() + new_d * eps, value=-d * rate)  # θ ← θ - αd m / (√v + dε)
    return param, exp_avg, exp_avg_sq, s, p0, new_d, d_max, d_numerator


def _growth(name: str, value: Any) -> Any:
    """Check a factor from 1 on, which may be infinite."""
    return value if isinstance(value, float) and value == math.inf else number(minimum=1.0)(name, value)


class Prodigy(RuleOptimizer):
    r"""Prodigy, which is Adam that finds its own rate: leave ``lr`` at 1 and schedule it; not in torch.

    .. math::
        \theta \leftarrow \theta - \alpha d \, \frac{m}{\sqrt{v} + d \epsilon}, \qquad
        d \leftarrow \max\left(d, \frac{\sum \alpha d^2 \langle g, \theta_0 - \theta \rangle}{\| s \|_1}\right)

    with m and v of the gradients times d, and s their sum times αd², all averaged; sums go over the whole model. d is
    one for all parameters, also for those that join late; ``optimizer.state[param]["d"]`` shows it. Where groups differ
    in an option that d hangs on, the last group's counts. Rule: :func:`optizoo.rules.prodigy`, with its source.

    After 1000 steps in float64 prodigyopt 1.1.2 is 1e-13 away. It writes the decay into ``p.grad`` if that is coupled,
    prints a line where it is not, refuses groups of two rates, and moves one of rate 0 with β₁ = 0, or its decay, all
    the same. At rate 0 it forgets the gradient, here moments and sums take it in.

    Args:
        lr: α, a factor on d; a group may have its own.
        beta3: Of the sums; ``None`` for √β₂.
        eps: ε, times d, outside the root.
        weight_decay: λ.
        decouple: Shrink the weights by αdλ, instead of adding λθ to the gradient.
        use_bias_correction: Correct both moments at once, in the rate: times √(1-β₂ᵗ) / (1-β₁ᵗ).
        safeguard_warmup: Leave α out of s, which warm-up makes small.
        d0: First d, above 0.
        d_coef: Factor on the estimate: the one to tune, from 0.5 to 2.
        growth_rate: Largest factor by which d grows in a step, from 1 on.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``, ``s``, ``p0``, ``d``, ``d_max``, ``d_numerator``.
    """

    rule = staticmethod(prodigy)
    order = 15
    initial_values: ClassVar[Mapping[str, str]] = {"d": "d0", "d_max": "d0"}
    checks: ClassVar[Mapping[str, Check]] = {"beta3": optional(number(below=1.0)), "growth_rate": _growth}

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
        growth_rate: float = math.inf,
        **common: Unpack[Common],
    ): ...

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check that the first d can grow."""
        super().check_group(group)
        if not group["d0"]:
            raise OutOfRangeError(f"Invalid d0 value: {group['d0']!r}; d only grows by factors of d0, give one above 0")
