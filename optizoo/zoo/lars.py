"""LARS, momentum on gradients that are as long as a share of their weights."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.checks import OutOfRangeError
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def lars(param, grad, momentum_buffer, *, lr, momentum, weight_decay, nesterov, trust_coefficient, eps):
    """LARS: u = η ‖θ‖ / (‖g‖ + λ‖θ‖ + ε) (g + λθ); b ← μb + u; θ ← θ - αb, or θ - α(u + μb) with Nesterov.

    The norms are those of the whole tensor. Where one of them is 0, u = g + λθ. The rate stands outside the velocity,
    as in :func:`momentum`, and not inside as in the paper: the two part where it changes.
    Source: You et al. (2017), Algorithm 1, https://arxiv.org/abs/1708.03888.
    """
    size, length = param.norm(), grad.norm()
    trust = size * trust_coefficient / (length + size * weight_decay + eps)  # η ‖θ‖ / (‖g‖ + λ‖θ‖ + ε)
    trust = trust.where(size > 0, 1.0).where(length > 0, 1.0)
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    update = grad * trust
    momentum_buffer = momentum_buffer * momentum + update  # b ← μb + u
    direction = update.add(momentum_buffer, alpha=momentum) if nesterov else momentum_buffer  # u + μb, or b
    return param.add(direction, alpha=-lr), momentum_buffer  # θ ← θ - α · direction


class LARS(RegularizedOptimizer):
    r"""LARS, momentum whose gradients are scaled to the norms of their weights, for large batches; not in torch.

    .. math::
        u &= \eta \, \frac{\lVert \theta \rVert}{\lVert g \rVert + \lambda \lVert \theta \rVert + \epsilon}
            \, (g + \lambda \theta) \\
        b &\leftarrow \mu b + u \\
        \theta &\leftarrow \theta - \alpha b \qquad (\text{Nesterov: } \theta - \alpha (u + \mu b))

    Rule: :func:`optizoo.rules.lars`, with its source.

    Implementations differ. timm's ``Lars`` is this one, to the bit, with ``always_adapt=True``; by default it moves a
    group without decay as SGD does. That of pytorch-optimizer moves biases so (24 % off after 1000 steps).

    Args:
        nesterov: Use Nesterov's form; needs momentum.
        trust_coefficient: η, the share of its norm by which a tensor moves at α = 1.
        eps: ε, added to the norms in the denominator.
        weight_decay: λ, within the ratio.
        weight_decay_mode: ``None``, the paper's, within the ratio; with any other of :class:`SGD` the decay stands
            outside of it.

    Attributes:
        state: Per parameter ``momentum_buffer``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
        >>> optimizer = optizoo.LARS([weight], trust_coefficient=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data  # a tenth of the norm, along the gradient
        tensor([ 2.7000, -3.6000])
    """

    rule = staticmethod(lars)
    order = 2.5
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None}
    counts_steps = False

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        nesterov: bool = False,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        **common: Unpack[Decaying],
    ): ...

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check that Nesterov's form has momentum."""
        super().check_group(group)
        if group["nesterov"] and not group["momentum"]:
            raise OutOfRangeError(f"Nesterov momentum requires a momentum; got momentum={group['momentum']!r}")
