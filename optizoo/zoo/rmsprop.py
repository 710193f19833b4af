"""RMSProp, the mean of squares."""
# pyright: reportOptionalMemberAccess=false
# An optional state is there whenever the option that reads it is on.

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.checks import Check, number
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import DecayingByKeyword


def rmsprop(
    param, grad, square_avg, momentum_buffer=None, grad_avg=None,
    *, lr, alpha, eps, weight_decay, momentum, centered, eps_inside_sqrt,
):  # fmt: skip
    """RMSProp: v ← ρv + (1-ρ)g²; θ ← θ - α g / (√v + ε), where ``alpha`` is ρ and ``lr`` is α.

    Centered, v - ḡ² (the variance of g) stands in place of v. Rounding can push it below zero, where torch goes on with
    NaN; here it is held at zero. With momentum, b ← μb + g / (√v + ε) and θ ← θ - αb.
    ε stands outside the root, as in torch; ``eps_inside_sqrt`` has the √(v + ε) of TensorFlow and optax. Decay is L2.
    Source: Tieleman & Hinton (2012), https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf;
    centered: Graves (2013), equations 38 to 45, https://arxiv.org/abs/1308.0850.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    square_avg = (square_avg * alpha).addcmul(grad, grad, value=1 - alpha)  # v ← ρv + (1-ρ)g²
    variance = square_avg
    if centered:
        grad_avg = grad_avg.lerp(grad, 1 - alpha)  # ḡ ← ρḡ + (1-ρ)g
        variance = square_avg.addcmul(grad_avg, grad_avg, value=-1).clamp_min(0)  # v - ḡ²
    denom = (variance + eps).sqrt() if eps_inside_sqrt else variance.sqrt() + eps  # √(v + ε), or √v + ε
    if momentum:
        momentum_buffer = (momentum_buffer * momentum).addcdiv(grad, denom)  # b ← μb + g / (√v + ε)
        param = param.add(momentum_buffer, alpha=-lr)  # θ ← θ - αb
    else:
        param = param.addcdiv(grad, denom, value=-lr)  # θ ← θ - α g / (√v + ε)
    return param, square_avg, momentum_buffer, grad_avg


class RMSprop(RegularizedOptimizer):
    r"""RMSProp, with momentum and the centered form; drop-in for :class:`torch.optim.RMSprop`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        \theta &\leftarrow \theta - \alpha \, g / (\sqrt{v} + \epsilon)

    Centered, the variance :math:`v - \bar g^2` stands under the root; with momentum μ,
    :math:`b \leftarrow \mu b + g / (\sqrt{v} + \epsilon)` and :math:`\theta \leftarrow \theta - \alpha b`.
    TensorFlow and optax have ε inside the root; TensorFlow 1 started v at 1 (optax: ``initial_scale``). With momentum
    both keep α inside b, which is another sequence once α changes. Rule: :func:`optizoo.rules.rmsprop`, with sources.

    Args:
        alpha: Smoothing constant ρ, from 0 to 1.
        centered: Divide by the standard deviation of the gradient instead of its root mean square.
        eps_inside_sqrt: Divide by √(v + ε) instead of √v + ε.
        initial_accumulator: What v starts at.

    Attributes:
        state: Per parameter ``step``, ``square_avg``; ``momentum_buffer`` and ``grad_avg`` where used.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = optizoo.RMSprop([weight], lr=0.01, centered=True)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[weight])
        ['grad_avg', 'square_avg', 'step']
    """

    rule = staticmethod(rmsprop)
    order = 6
    namesake = torch.optim.RMSprop
    checks: ClassVar[Mapping[str, Check]] = {"alpha": number(maximum=1.0)}
    initial_values: ClassVar[Mapping[str, str]] = {"square_avg": "initial_accumulator"}
    state_switches: ClassVar[Mapping[str, str]] = {"momentum_buffer": "momentum", "grad_avg": "centered"}

    @constructor
    def __init__(
        self, params: Any, lr: float | Tensor = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
        momentum: float = 0, centered: bool = False, capturable: bool = False, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False, *, eps_inside_sqrt: bool = False,
        initial_accumulator: float = 0, **common: Unpack[DecayingByKeyword],
    ): ...  # fmt: skip
