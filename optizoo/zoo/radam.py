"""RAdam, Adam that warms itself up."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def radam(param, grad, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, decoupled_weight_decay, step):
    """RAdam: Adam whose adaptive rate waits until its variance is known, and is then rectified by r.

    ρ∞ = 2/(1-β₂) - 1; ρ = ρ∞ - 2tβ₂ᵗ/(1-β₂ᵗ). Where ρ > 5, θ ← θ - α m̂ r √(1-β₂ᵗ) / (√v + ε) with
    r² = (ρ-4)(ρ-2)ρ∞ / ((ρ∞-4)(ρ∞-2)ρ); before, θ ← θ - α m̂. Like torch, it waits for ρ > 5, the paper for ρ > 4.
    Weight decay is L2, or decoupled.
    Source: Liu et al. (2020), Algorithm 2, https://arxiv.org/abs/1908.03265.
    """
    beta1, beta2 = betas
    if weight_decay and decoupled_weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    elif weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    bias_correction2 = 1 - beta2**step  # 1 - β₂ᵗ
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / bias_correction2
    update = exp_avg / (1 - beta1**step) * lr  # α m̂
    if rho > 5.0:
        rectification = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5  # r
        update = update * (bias_correction2**0.5 / (exp_avg_sq.sqrt() + eps)) * rectification
    return param.add(update, alpha=-1), exp_avg, exp_avg_sq


class RAdam(RegularizedOptimizer):
    r"""RAdam, which is Adam that warms itself up; drop-in for :class:`torch.optim.RAdam`.

    .. math::
        \theta \leftarrow \theta - \alpha \, \hat m \, r_t \, \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon)
            \quad \text{once } \rho_t > 5, \text{ before that } \theta - \alpha \, \hat m

    The rectification :math:`r_t` grows to 1 as the variance of the adaptive rate becomes known. Rule:
    :func:`optizoo.rules.radam`, with its source.

    Args:
        capturable: Must be ``False``: the rule branches on the number of the step.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.RAdam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.8000, -1.6000])
    """

    rule = staticmethod(radam)
    order = 10
    namesake = torch.optim.RAdam
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        **common: Unpack[Decaying],
    ): ...

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check also that the step can be read on the host."""
        super().check_group(group)
        if group["capturable"]:
            raise ValueError("RAdam does not support capturable=True: its rule branches on the step; set it to False")
