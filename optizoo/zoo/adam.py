"""Adam and AdamW."""
# pyright: reportOptionalMemberAccess=false
# An optional state is there whenever the option that reads it is on.

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying
from optizoo.core.rule import Rule


def adam(
    param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq=None,
    *, lr, betas, eps, weight_decay, amsgrad, bias_correction, step,
):  # fmt: skip
    """Adam: m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; θ ← θ - α m̂ / (√v̂ + ε), m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ).

    ε is added outside the root and after the bias correction (Algorithm 1; the "ε-hat" form of section 2 and some
    frameworks add it before). Without ``bias_correction`` m̂ = m and v̂ = v, the lecture's "Adam (almost)".
    AMSGrad divides by the largest v so far; like torch and unlike its paper, it corrects that maximum too.
    Weight decay is L2 and so passes through both moments; :func:`adamw` keeps it out of them.
    Source: Kingma & Ba (2015), https://arxiv.org/abs/1412.6980; AMSGrad: Reddi et al. (2018),
    https://arxiv.org/abs/1904.09237.
    """
    beta1, beta2 = betas
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    second_moment = exp_avg_sq
    if amsgrad:
        second_moment = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)  # v_max ← max(v_max, v)
    bias_correction1 = 1 - beta1**step if bias_correction else 1.0  # 1 - β₁ᵗ
    bias_correction2 = 1 - beta2**step if bias_correction else 1.0  # 1 - β₂ᵗ
    denom = second_moment.sqrt() / bias_correction2**0.5 + eps  # √v̂ + ε
    param = param.addcdiv(exp_avg, denom, value=-lr / bias_correction1)  # θ ← θ - α m̂ / (√v̂ + ε)
    return param, exp_avg, exp_avg_sq, max_exp_avg_sq


def adamw(
    param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq=None,
    *, lr, betas, eps, weight_decay, amsgrad, bias_correction, step,
):  # fmt: skip
    """AdamW: shrink the weights, θ ← (1 - αλ)θ, then an :func:`adam` step without L2.

    The decay is multiplied by the learning rate, as in torch; the paper multiplies it by the schedule factor alone.
    Source: Loshchilov & Hutter (2019), Algorithm 2, https://arxiv.org/abs/1711.05101.
    """
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    return adam(
        param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq,
        lr=lr, betas=betas, eps=eps, weight_decay=0, amsgrad=amsgrad, bias_correction=bias_correction, step=step,
    )  # fmt: skip


class Adam(RegularizedOptimizer):
    r"""Adam, with AMSGrad; drop-in for :class:`torch.optim.Adam`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow \theta - \alpha \,
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    With ``decoupled_weight_decay`` λ leaves the gradient and this is :class:`AdamW`. Rule: :func:`optizoo.rules.adam`,
    with its sources and with what frameworks do differently.

    Args:
        eps: ε, added outside the root. In float16 the default rounds to zero.
        weight_decay: λ, L2; it passes through both moments.
        amsgrad: Divide by the largest second moment so far.
        bias_correction: ``False`` leaves out both divisions by 1 - βᵗ, the lecture's "Adam (almost)".

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``; ``max_exp_avg_sq`` with AMSGrad.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data  # the first step has the size of lr, whatever the gradient
        tensor([ 0.9000, -1.9000])
    """

    order = 7
    namesake = torch.optim.Adam
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None}
    state_switches: ClassVar[Mapping[str, str]] = {"max_exp_avg_sq": "amsgrad"}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
        **common: Unpack[Decaying],
    ): ...

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """Decoupled decay is AdamW's rule."""
        return adamw if group["decoupled_weight_decay"] else adam


class AdamW(Adam):
    r"""Adam with decoupled weight decay; drop-in for :class:`torch.optim.AdamW`.

    .. math::
        \theta \leftarrow (1 - \alpha \lambda) \, \theta, \text{ then the step of Adam without L2}

    The decay stays out of both moments and is multiplied by the learning rate, as in torch. Rule:
    :func:`optizoo.rules.adamw`, with its source.

    Args:
        weight_decay: λ, decoupled.
        amsgrad: As in :class:`Adam`.
        bias_correction: As in :class:`Adam`.
        weight_decay_mode: ``None`` or ``"decoupled"``, or ``"independent"`` or ``"cautious"`` as in :class:`SGD`.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = optizoo.AdamW([weight], lr=0.1, weight_decay=0.5)
        >>> weight.grad = torch.tensor([0.0])
        >>> optimizer.step()
        >>> weight.data  # no gradient: only the decay
        tensor([0.9500])
    """

    namesake = torch.optim.AdamW
    fixed: ClassVar[Mapping[str, Any]] = {"decoupled_weight_decay": True}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        bias_correction: bool = True,
        **common: Unpack[Decaying],
    ): ...

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint of Adam too: the decay stays decoupled, as in torch."""
        for group in state.get("param_groups", ()):
            group["decoupled_weight_decay"] = True
        super().__setstate__(state)
