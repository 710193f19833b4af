"""Rprop, signs of gradients alone."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.checks import OutOfRangeError
from optizoo.core.declaration import constructor
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.options import Common


def rprop(param, grad, prev, step_size, *, etas, step_sizes):
    """Rprop: Δ ← ηΔ by the sign of g·g₋₁; θ ← θ - sign(g)Δ.

    A step of its own for every weight: η⁺ times longer while the sign of g stays, η⁻ when it turns. Where it turns, the
    weight waits for one update, and the next one counts as neither. The steps start at the learning rate and stay
    within ``step_sizes``. p and n are 1 where the sign stays and where it turns, else 0. Where a gradient that turns is
    infinite, the rule gives NaN and torch 0.
    Source: Riedmiller & Braun (1993), https://doi.org/10.1109/ICNN.1993.298623, in the form iRprop⁻ of Igel & Hüsken
    (2000).
    """
    (shrink, grow), (smallest, largest) = etas, step_sizes
    sign = (grad * prev).sign()
    stays, turns = sign.clamp_min(0), (-sign).clamp_min(0)  # p, n
    factor = stays * grow + turns * shrink + (1 - stays - turns)  # η⁺, η⁻ or 1
    step_size = (step_size * factor).clamp_min(smallest).clamp_max(largest)  # Δ ← min(max(ηΔ, Δ_min), Δ_max)
    grad = grad * (1 - turns)  # g ← 0 where it turns
    return param.addcmul(grad.sign(), step_size, value=-1), grad, step_size  # θ ← θ - sign(g) Δ


class Rprop(RuleOptimizer):
    r"""Rprop, with a step for every weight, set by signs of gradients; drop-in for :class:`torch.optim.Rprop`.

    .. math::
        \Delta &\leftarrow \min(\max(\eta \Delta, \Delta_{min}), \Delta_{max}), \quad
            \eta = \eta^+, \eta^- \text{ or } 1 \text{ by the sign of } g \, g_{previous} \\
        \theta &\leftarrow \theta - \operatorname{sign}(g) \, \Delta \qquad (g \leftarrow 0 \text{ where it turned})

    For full batches: in small ones signs are noise. Rule: :func:`optizoo.rules.rprop`, with its source.

    Args:
        lr: The first step of every weight.
        etas: η⁻ in (0, 1) and η⁺ above 1.
        step_sizes: Smallest and largest step.

    Attributes:
        state: Per parameter ``step``, ``prev``, ``step_size``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Rprop([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(rprop)
    order = 3
    namesake = torch.optim.Rprop
    initial_values: ClassVar[Mapping[str, str]] = {"step_size": "lr"}

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        **common: Unpack[Common],
    ): ...

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check that steps shrink and grow, and that there is room between their bounds."""
        super().check_group(group)
        shrink, grow = group["etas"]
        if not 0 < shrink < 1 < grow:
            raise OutOfRangeError(
                f"Invalid eta values: {shrink}, {grow}; the first must be in (0, 1), the second above 1"
            )
        smallest, largest = group["step_sizes"]
        if smallest > largest:
            raise OutOfRangeError(f"Invalid step_sizes value: {group['step_sizes']!r}; the smallest comes first")
