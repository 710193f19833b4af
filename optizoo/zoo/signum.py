"""Signum, the sign of a momentum."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def signum(param, grad, momentum_buffer, *, lr, momentum, weight_decay):
    """Signum: m ← μm + (1-μ)g; θ ← θ - α sign(m).

    With μ = 0 it is signSGD. Every weight moves by α, whatever the size of its gradient; one with m = 0 rests.
    The decay is decoupled, as in :func:`adamw`.
    Source: Bernstein et al. (2018), Algorithm 2, https://arxiv.org/abs/1802.04434.
    """
    if weight_decay:
        param = param.add(param, alpha=-lr * weight_decay)  # θ ← θ - αλθ
    momentum_buffer = momentum_buffer.lerp(grad, 1 - momentum)  # m ← μm + (1-μ)g
    return param.add(momentum_buffer.sign(), alpha=-lr), momentum_buffer  # θ ← θ - α sign(m)


class Signum(RegularizedOptimizer):
    r"""Signum, which moves every weight by the learning rate, along the sign of its momentum; not in torch.

    .. math::
        m &\leftarrow \mu m + (1 - \mu) g \\
        \theta &\leftarrow (1 - \alpha \lambda) \, \theta - \alpha \operatorname{sign}(m)

    :class:`Lion` is Signum whose sign sees the newest gradient more than its momentum does. Rule:
    :func:`optizoo.rules.signum`, with its source.

    After 1000 steps in float64 pytorch-optimizer 4.1.0 (``SignSGD``) has the same bits. MXNet's, by one of its authors,
    has L2 beside the decoupled decay.

    Args:
        momentum: μ, from 0, which is signSGD, to 1.
        weight_decay: λ, decoupled.

    Attributes:
        state: Per parameter ``momentum_buffer``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Signum([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(signum)
    order = 1.5
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}
    counts_steps = False

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0,
        **common: Unpack[Decaying],
    ): ...
