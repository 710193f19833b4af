"""Adafactor, Adam in sublinear memory."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.checks import Check, number, optional, sequence
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying
from optizoo.core.rule import at_least, at_most


def adafactor(
    param, grad, row_var=None, col_var=None, variance=None,
    *, lr, beta2_decay, eps, d, weight_decay, shape, machine_eps, step,
):  # fmt: skip
    """Adafactor: v ← RC / mean(R); u ← g/√v; θ ← θ - max(ε₂, RMS(θ)) min(α, 1/√t) u / max(1, RMS(u)/d).

    R and C average the means of g² over rows and over columns; of vectors v is kept whole. ε₁ keeps mean(R) and √v
    above 0; ``None`` is the distance from 1 to the next number of the parameter's type. The decay is decoupled.
    Source: Shazeer & Stern (2018), Algorithm 4, https://arxiv.org/abs/1804.04235; ε₁ stands where torch has it.
    """
    eps1, eps2 = machine_eps if eps[0] is None else eps[0], eps[1]
    root_of_size, weight = math.prod(shape) ** 0.5, step**beta2_decay  # √n; 1 - β̂₂
    rate = at_least(param.norm().double() / root_of_size, eps2) * at_most(1 / step**0.5, lr)  # max(ε₂, RMS(θ)) min(...)
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    if len(shape) > 1:
        rows, columns = grad.norm(dim=-1, keepdim=True), grad.norm(dim=-2, keepdim=True)
        rows, columns = rows * rows / shape[-1], columns * columns / shape[-2]  # means of g²
        row_var = (rows * 0 if row_var is None else row_var).lerp(rows, weight)  # R ← β̂₂R + (1-β̂₂) mean(g²)
        col_var = (columns * 0 if col_var is None else col_var).lerp(columns, weight)
        var = row_var * col_var / row_var.mean(dim=-2, keepdim=True).clamp_min(eps1)  # v = RC / mean(R)
    else:
        var = variance = (grad * 0 if variance is None else variance).lerp(grad * grad, weight)
    update = var.clamp_min(eps1 * eps1).rsqrt() * grad  # u = g/√v
    clip = at_least(update.norm().double() / (root_of_size * d), 1.0)  # max(1, RMS(u)/d)
    return param.add(update, alpha=-rate / clip), row_var, col_var, variance


class Adafactor(RegularizedOptimizer):
    r"""Adafactor, which keeps a number for each row and column, not for each weight; drop-in for torch's.

    .. math::
        u \leftarrow g / \sqrt{R \, C / \operatorname{mean}(R)}, \qquad \theta \leftarrow \theta
            - \frac{\max(\epsilon_2, \operatorname{RMS}(\theta)) \min(\alpha, 1/\sqrt{t})}
            {\max(1, \operatorname{RMS}(u)/d)} \, u

    R and C average the means of :math:`g^2` over rows and columns. Rule: :func:`optizoo.rules.adafactor`.

    Args:
        beta2_decay: The power of t, at most 0.
        eps: ε₁, or ``None`` for that of each parameter's type (torch takes that of the first for all), and ε₂.
        d: The root mean square at which an update is clipped, at least 1.
        weight_decay: λ, decoupled.

    Attributes:
        state: Per parameter ``step``; ``row_var`` and ``col_var``, or for vectors ``variance``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.ones(3, 2))
        >>> optimizer = optizoo.Adafactor([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> [*optimizer.state[weight]["row_var"].shape], weight[0].data
        ([3, 1], tensor([0.9000, 0.9000]))
    """

    rule = staticmethod(adafactor)
    order = 11
    namesake = torch.optim.Adafactor
    remakes_states = False
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}
    checks: ClassVar[Mapping[str, Check]] = {
        "beta2_decay": number(minimum=-math.inf, maximum=0), "d": number(minimum=1),
        "eps": sequence(optional(number()), number(), word="two"),
    }  # fmt: skip
    supports_complex = False

    @constructor
    def __init__(
        self, params: Any, lr: float | Tensor = 1e-2, beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0,
        **common: Unpack[Decaying],
    ): ...  # fmt: skip
