"""Adan, Adam with Nesterov's momentum from differences of gradients."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import Check, number, values
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def adan(
    param, grad, exp_avg, exp_avg_diff, exp_avg_sq, previous_grad,
    *, lr, betas, eps, weight_decay, no_prox, step,
):  # fmt: skip
    """Adan: d = g - g₋₁; m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)d; n ← β₃n + (1-β₃)(g + β₂d)².

    θ ← (θ - α (m̂ + β₂v̂) / (√n̂ + ε)) / (1 + αλ), or with ``no_prox`` θ ← (1 - αλ)θ - α (m̂ + β₂v̂) / (√n̂ + ε). In the
    first update d = 0. The paper writes 1 - β for β, and corrects no bias; the authors' code does, and so does this.
    Source: Xie et al. (2022), Algorithm 1, https://arxiv.org/abs/2208.06677.
    """
    beta1, beta2, beta3 = betas
    later = 1 - 0.0 ** (step - 1)  # 0 in the first update, then 1; no branch, as the step may live on the device
    difference = grad - previous_grad  # d ← g - g₋₁
    ahead = grad.add(difference, alpha=beta2 * later)  # g + β₂d
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_diff = exp_avg_diff.lerp(difference, (1 - beta2) * later)  # v ← β₂v + (1-β₂)d
    exp_avg_sq = (exp_avg_sq * beta3).addcmul(ahead, ahead, value=1 - beta3)  # n ← β₃n + (1-β₃)(g + β₂d)²
    denom = exp_avg_sq.sqrt() / (1 - beta3**step) ** 0.5 + eps  # √n̂ + ε
    update = (exp_avg / (1 - beta1**step)).add(exp_avg_diff, alpha=beta2 / (1 - beta2**step))  # m̂ + β₂v̂
    if weight_decay and no_prox:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    param = param.addcdiv(update, denom, value=-lr)  # θ ← θ - α (m̂ + β₂v̂) / (√n̂ + ε)
    if weight_decay and not no_prox:
        param = param / (1 + lr * weight_decay)  # θ ← θ / (1 + αλ)
    return param, exp_avg, exp_avg_diff, exp_avg_sq, grad


class Adan(RegularizedOptimizer):
    r"""Adan, which is Adam with Nesterov's momentum, from differences of gradients; not in torch.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) (g - g_{previous}) \\
        n &\leftarrow \beta_3 n + (1 - \beta_3) (g + \beta_2 (g - g_{previous}))^2 \\
        \theta &\leftarrow \frac{1}{1 + \alpha \lambda} \left(\theta - \alpha \,
            \frac{\hat m + \beta_2 \hat v}{\sqrt{\hat n} + \epsilon}\right)

    Defaults are those of the authors' code. timm, torch-optimi and pytorch-optimizer agree to 3e-13 of the way; with
    torch-optimi's ε of 1e-6 it is 4 %. Rule: :func:`optizoo.rules.adan`, with its source.

    Args:
        betas: β₁ of the gradients, β₂ of their differences, β₃ of the squares, each in [0, 1).
        eps: ε, added outside the root.
        weight_decay: λ, decoupled; the weights are divided by 1 + αλ after the update.
        no_prox: Multiply the weights by 1 - αλ before the update instead, as AdamW does.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``previous_grad``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adan([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(adan)
    order = 13
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}
    checks: ClassVar[Mapping[str, Check]] = {"betas": values(number(below=1.0), 3, word="three")}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0,
        no_prox: bool = False,
        **common: Unpack[Decaying],
    ): ...
