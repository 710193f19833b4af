"""The executions of a rule, and the choice between them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from optizoo.backends import foreach, loop

FUSED_UNAVAILABLE = "fused kernels are not available yet"

# Tensor types whose lists the foreach functions serve; others (DTensor) bring their own dispatch.
_PLAIN_TYPES = (Tensor, Parameter)


class Choice(NamedTuple):
    """A backend, and why it was picked.

    Attributes:
        name: ``"loop"`` or ``"foreach"``.
        reason: In words, for :func:`optizoo.explain`.
    """

    name: str
    reason: str


UPDATES = {"loop": loop.update, "foreach": foreach.update}


def choose(group: Mapping[str, Any], param: Tensor, grad: Tensor) -> Choice:
    """Choose the backend for the tensors of a bucket, of which ``param`` and ``grad`` are the first.

    Args:
        group: The options of the param group; ``foreach`` is the user's wish.
        param: A parameter of the bucket.
        grad: Its gradient.
    """
    if group["foreach"] is False:
        return Choice("loop", "foreach=False asks for it")
    if group["differentiable"]:
        return Choice("loop", "autograd goes through the step (differentiable=True)")
    if group["capturable"]:
        return Choice("loop", "step and lr stay on the device (capturable=True)")
    if torch.compiler.is_compiling():
        return Choice("loop", "torch.compile is tracing the step")
    if grad.layout is not torch.strided:
        return Choice("loop", f"the gradient is sparse ({grad.layout})")
    if type(param) not in _PLAIN_TYPES or type(grad) is not Tensor:
        return Choice("loop", f"{type(param).__name__} with a gradient of {type(grad).__name__} is not a plain tensor")
    if grad.dtype != param.dtype:
        return Choice("loop", f"the gradient is {grad.dtype}, the parameter {param.dtype}")
    if group["foreach"]:
        return Choice("foreach", "foreach=True asks for it")
    return Choice("foreach", f"the fastest that can serve; {FUSED_UNAVAILABLE}")


__all__ = ["FUSED_UNAVAILABLE", "UPDATES", "Choice", "choose"]
