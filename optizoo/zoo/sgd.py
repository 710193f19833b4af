"""Gradient descent, alone and with momentum in both of its forms."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.checks import Check, OutOfRangeError, number
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying
from optizoo.core.rule import Rule


def sgd(param, grad, *, lr, weight_decay):
    """Stochastic gradient descent: θ ← θ - α (g + λθ).

    Weight decay is L2 regularisation: it joins the gradient.
    Source: Robbins & Monro (1951), https://doi.org/10.1214/aoms/1177729586.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    return (param.add(grad, alpha=-lr),)  # θ ← θ - αg


def momentum(param, grad, momentum_buffer=None, *, lr, momentum, dampening, nesterov, weight_decay):
    """Momentum, the learning rate outside the velocity: b ← μb + (1-τ)g; θ ← θ - αb, or θ - α(g + μb) with Nesterov.

    Weight decay is L2, as in :func:`sgd`.
    The first update sets b = g: dampening τ is ignored there. torch does the same and documents it nowhere; the papers
    start from b = 0.
    Source: Polyak (1964); Sutskever et al. (2013), https://proceedings.mlr.press/v28/sutskever13.html, whose
    velocity holds the learning rate: that form is :func:`momentum_lr_in_velocity`.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    if momentum_buffer is None:
        momentum_buffer = grad  # b ← g
    else:
        momentum_buffer = (momentum_buffer * momentum).add(grad, alpha=1 - dampening)  # b ← μb + (1-τ)g
    direction = grad.add(momentum_buffer, alpha=momentum) if nesterov else momentum_buffer  # g + μb, or b
    return param.add(direction, alpha=-lr), momentum_buffer  # θ ← θ - α · direction


def momentum_lr_in_velocity(param, grad, velocity, *, lr, momentum, nesterov, weight_decay):
    """Momentum, the learning rate inside the velocity: v ← ρv - αg; θ ← θ + v, or θ + ρv - αg with Nesterov.

    The same sequence as :func:`momentum` (without dampening) only while α is constant: after a change of α the old
    velocity still carries the old rate here, while there it is rescaled at once.
    Nesterov's form, in the variable at which the gradient is taken, is θ ← θ + ρv - αg with the new v.
    Source: Sutskever et al. (2013), equations 1 to 4, https://proceedings.mlr.press/v28/sutskever13.html.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    velocity = (velocity * momentum).add(grad, alpha=-lr)  # v ← ρv - αg
    if nesterov:
        return param.add(velocity, alpha=momentum).add(grad, alpha=-lr), velocity  # θ ← θ + ρv - αg
    return param + velocity, velocity  # θ ← θ + v


class SGD(RegularizedOptimizer):
    r"""Stochastic gradient descent, with momentum and Nesterov's form of it; drop-in for :class:`torch.optim.SGD`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        b &\leftarrow \mu b + (1 - \tau) g \qquad (b \leftarrow g \text{ in the first update}) \\
        \theta &\leftarrow \theta - \alpha b \qquad (\text{Nesterov: } \theta - \alpha (g + \mu b))

    Without momentum, :math:`\theta \leftarrow \theta - \alpha g` and no state. Rules: :func:`optizoo.rules.sgd`,
    :func:`optizoo.rules.momentum`, with their sources.

    Args:
        dampening: τ, from 0 to 1; ignored in the first update, as torch does.
        nesterov: Use Nesterov's form; needs momentum and no dampening.
        capturable: Read a tensor ``lr`` on its device only.

    Attributes:
        state: Per parameter ``momentum_buffer``, if momentum is used.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = optizoo.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([0.8000, 1.6000])
    """

    order = 1
    namesake = torch.optim.SGD
    checks: ClassVar[Mapping[str, Check]] = {"dampening": number(maximum=1.0)}
    counts_steps = False
    supports_sparse = True

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        **common: Unpack[Decaying],
    ): ...

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check that Nesterov's form has momentum and no dampening."""
        super().check_group(group)
        if group["nesterov"] and (not group["momentum"] or group["dampening"]):
            raise OutOfRangeError(
                "Nesterov momentum requires a momentum and zero dampening; "
                f"got momentum={group['momentum']!r} and dampening={group['dampening']!r}"
            )

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """Momentum is another rule, not a number: without it there is no state."""
        return momentum if group["momentum"] else sgd


class Momentum(SGD):
    r"""Gradient descent with momentum, in either of its two forms.

    By default the learning rate stands outside the velocity, and this is :class:`SGD` with momentum 0.9, whose
    checkpoints it trades. With ``lr_in_velocity`` it stands inside:

    .. math::
        v &\leftarrow \rho v - \alpha g \\
        \theta &\leftarrow \theta + v \qquad (\text{Nesterov: } \theta + \rho v - \alpha g)

    The two give the same sequence while α is constant, and part when a schedule changes it. Rules:
    :func:`optizoo.rules.momentum`, :func:`optizoo.rules.momentum_lr_in_velocity`, with their sources.

    Args:
        momentum: μ or ρ, from 0 to 1.
        dampening: As in :class:`SGD`; the second form has none.
        nesterov: Use Nesterov's form.
        lr_in_velocity: Use the second form, whose state is ``velocity``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = optizoo.Momentum([weight], lr=0.1, lr_in_velocity=True)
        >>> weight.grad = torch.tensor([1.0])
        >>> optimizer.step()
        >>> optimizer.state[weight]
        {'velocity': tensor([-0.1000])}
    """

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        lr_in_velocity: bool = False,
        **common: Unpack[Decaying],
    ): ...

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check also that dampening does not meet the form that has none."""
        super().check_group(group)
        if group["lr_in_velocity"] and group["dampening"]:
            raise OutOfRangeError(
                f"lr_in_velocity=True has no dampening; got dampening={group['dampening']!r}, set it to 0"
            )

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """The second form is a rule of its own."""
        return momentum_lr_in_velocity if group["lr_in_velocity"] else super().select_rule(group)
