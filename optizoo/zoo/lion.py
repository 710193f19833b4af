"""Lion, signs of a momentum."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def lion(param, grad, exp_avg, *, lr, betas, weight_decay):
    """Lion: θ ← θ - α (sign(β₁m + (1-β₁)g) + λθ); m ← β₂m + (1-β₂)g.

    Every weight moves by α, whatever the size of its gradient. The decay is decoupled, as in :func:`adamw`.
    Source: Chen et al. (2023), Algorithm 2, https://arxiv.org/abs/2302.06675.
    """
    beta1, beta2 = betas
    direction = exp_avg.lerp(grad, 1 - beta1).sign()  # sign(β₁m + (1-β₁)g)
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    return param.add(direction, alpha=-lr), exp_avg.lerp(grad, 1 - beta2)  # θ ← θ - α · sign; m ← β₂m + (1-β₂)g


class Lion(RegularizedOptimizer):
    r"""Lion, which moves every weight by the learning rate, along the sign of a momentum; not in torch.

    .. math::
        \theta &\leftarrow \theta - \alpha \,
            (\operatorname{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda \theta) \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    Half of Adam's state. Its paper advises a learning rate three to ten times smaller than AdamW's and a decay as much
    larger. Rule: :func:`optizoo.rules.lion`, with its source.

    Args:
        weight_decay: λ, decoupled.

    Attributes:
        state: Per parameter ``exp_avg``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Lion([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(lion)
    order = 2
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}
    counts_steps = False

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0,
        **common: Unpack[Decaying],
    ): ...
