"""Adagrad, the sum of all squares."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import DecayingWithoutForeach


def adagrad(param, grad, sum, *, lr, lr_decay, eps, weight_decay, step):  # noqa: A002 - torch's name of the state
    """Adagrad: s ← s + g²; θ ← θ - α g / (√s + ε), with α divided by 1 + (t-1) ``lr_decay``.

    Weight decay is L2.
    Source: Duchi, Hazan & Singer (2011), https://jmlr.org/papers/v12/duchi11a.html.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    sum = sum.addcmul(grad, grad)  # noqa: A001  # s ← s + g²
    denom = sum.sqrt() + eps  # √s + ε
    return param.addcdiv(grad, denom, value=-lr / (1 + (step - 1) * lr_decay)), sum  # θ ← θ - α g / (√s + ε)


class Adagrad(RegularizedOptimizer):
    r"""Adagrad, divided by the root of the sum of all squared gradients; drop-in for :class:`torch.optim.Adagrad`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        s &\leftarrow s + g^2 \\
        \theta &\leftarrow \theta - \frac{\alpha}{1 + (t - 1) \eta} \, \frac{g}{\sqrt{s} + \epsilon}

    A sparse gradient updates only the elements that it has. Rule: :func:`optizoo.rules.adagrad`, with its source.

    Args:
        lr_decay: η.
        initial_accumulator_value: What s starts at.

    Attributes:
        state: Per parameter ``step``, ``sum``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adagrad([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    rule = staticmethod(adagrad)
    order = 4
    namesake = torch.optim.Adagrad
    initial_values: ClassVar[Mapping[str, str]] = {"sum": "initial_accumulator_value"}
    supports_sparse = True

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        **common: Unpack[DecayingWithoutForeach],
    ): ...

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as every optimizer does, and make its states at once, as torch's does."""
        super().add_param_group(param_group)
        group = self.complete(self.param_groups[-1])
        for param in group["params"]:
            store = self.state[param]
            self._counter(store, param, group["capturable"])
            store["sum"] = self._initial("sum", group, param)
