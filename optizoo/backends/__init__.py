"""The executions of a rule, and the choice between them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from optizoo.backends import foreach, fused, in_place, loop

# Tensor types whose memory and lists the backends may use; others (DTensor) bring their own dispatch.
_PLAIN_TYPES = (Tensor, Parameter)


class Choice(NamedTuple):
    """A backend, and why it was picked.

    Attributes:
        name: ``"loop"``, ``"foreach"`` or ``"fused"``.
        reason: In words, for :func:`optizoo.explain`.
    """

    name: str
    reason: str


UPDATES = {"loop": in_place.update, "foreach": foreach.update, "fused": fused.update}
TOTALS = {"loop": loop.total, "foreach": foreach.total, "fused": fused.total}


def choose(
    group: Mapping[str, Any],
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor] = (),
    kernel: Callable[[], str | None] | None = None,
) -> Choice:
    """Choose the backend for a parameter.

    Args:
        group: The options of the param group; ``foreach`` and ``fused`` are the user's wish.
        param: The parameter.
        grad: Its gradient.
        states: Its states of the same shape, those that exist.
        kernel: Returns why the very kernel of this update cannot serve, or ``None``; asked last.

    Raises:
        RuntimeError: ``fused=True`` cannot be honoured; the message says why.
    """
    if grad.layout is not torch.strided and not group["fused"]:
        return Choice("loop", f"the gradient is sparse ({grad.layout})")
    may_fuse = group["fused"] or (group["fused"] is None and group["foreach"] is None)
    obstacle = fused_obstacle(group, param, grad, states, kernel) if may_fuse else "it is not asked for"
    if group["fused"]:
        if obstacle is not None:
            raise RuntimeError(f"fused=True cannot be honoured: {obstacle}; use fused=None, which chooses what can")
        return Choice("fused", "fused=True asks for it")
    if group["foreach"] is False:
        return Choice("loop", "foreach=False asks for it")
    if group["differentiable"]:
        return Choice("loop", "autograd goes through the step (differentiable=True)")
    if torch.compiler.is_compiling():
        return Choice("loop", "torch.compile is tracing the step")
    if type(param) not in _PLAIN_TYPES or type(grad) is not Tensor:
        return Choice("loop", f"{type(param).__name__} with a gradient of {type(grad).__name__} is not a plain tensor")
    if param.is_meta:
        return Choice("loop", "a tensor on meta has no values")
    if any(state.layout is not torch.strided for state in states):
        return Choice("loop", "a state is sparse, of an earlier gradient that was")
    if obstacle is None:
        return Choice("fused", f"the fastest that can serve, proven on {fused.place(param.device)}")
    if group["capturable"]:
        return Choice("loop", f"step and lr stay on the device (capturable=True), and no fused kernel: {obstacle}")
    if grad.dtype != param.dtype:
        return Choice("loop", f"the gradient is {grad.dtype}, the parameter {param.dtype}")
    if others := {state.dtype for state in states} - {param.dtype}:
        return Choice("loop", f"a state is {others.pop()}, the parameter {param.dtype}")
    if any(tensor.is_neg() for tensor in (param, grad, *states)):
        return Choice("loop", "parameter, gradient or state is a negated view, which torch's lists do not take")
    if group["foreach"]:
        return Choice("foreach", "foreach=True asks for it")
    return Choice("foreach", "fused=False asks for it" if group["fused"] is False else f"no fused kernel: {obstacle}")


def fused_obstacle(
    group: Mapping[str, Any],
    param: Tensor,
    grad: Tensor | None = None,
    states: Sequence[Tensor] = (),
    kernel: Callable[[], str | None] | None = None,
) -> str | None:
    """Return why no fused kernel can update a parameter, or ``None`` if one can.

    Args:
        group: The options of the param group.
        param: The parameter.
        grad: Its gradient, if there is one to judge.
        states: Its states of the same shape, those that exist.
        kernel: As in :func:`choose`; without it, it is asked whether any kernel can be had.
    """
    if group["differentiable"]:
        return "autograd cannot go through a kernel (differentiable=True)"
    if torch.compiler.is_compiling():
        return "torch.compile is tracing the step"
    if type(param) not in _PLAIN_TYPES:
        return f"{type(param).__name__} is not a plain tensor"
    if param.device.type not in ("cpu", "cuda"):
        return f"there are kernels for cpu and cuda, not for {param.device.type}"
    if group["capturable"] and param.device.type == "cpu":
        return "the kernel of the CPU takes numbers, not tensors that stay on a device (capturable=True)"
    if param.dtype not in fused.TYPES:
        return f"there is no kernel for {param.dtype}"
    if grad is not None:
        if type(grad) is not Tensor or grad.layout is not torch.strided:
            return f"the gradient is a {type(grad).__name__} of layout {grad.layout}, not a plain tensor"
        if any(tensor._is_zerotensor() for tensor in (param, grad, *states)):
            return "a tensor has no memory (zeros, as forward-mode AD makes them)"
        if grad.dtype not in fused.TYPES or grad.device != param.device or grad.is_neg():
            return f"there is no kernel for gradients of {grad.dtype} on {grad.device}"
    if any(state.layout is not torch.strided for state in states):
        return "a state is sparse"
    if any(tensor.is_neg() for tensor in (param, *states)):
        return "parameter or state is a negated view, whose memory holds the opposite"
    moments = {state.dtype for state in states} - {torch.int16}
    wide = (param.dtype is torch.float64) == (moments == {torch.float64})  # all is computed in one type
    if any(state.device != param.device for state in states) or len(moments) > 1 or not (wide or not moments):
        return f"a state has another type or device than its parameter ({param.dtype} on {param.device})"
    if any(state.shape != param.shape for state in states):
        return "a state has another shape than its parameter"
    if not _aligned(param, *states, *(() if grad is None else (grad,))):
        return "parameter, gradient and state do not share strides without holes"
    return fused.unavailable(param.device) if kernel is None else kernel()


def _aligned(param: Tensor, *others: Tensor) -> bool:
    """Return whether the tensors have their elements in the same order in memory, without holes."""
    if any(other.shape != param.shape for other in others):
        return False
    if param.is_contiguous() and all(other.is_contiguous() for other in others):
        return True
    if any(other.stride() != param.stride() for other in others):
        return False
    expected = 1
    for stride, size in sorted(zip(param.stride(), param.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


__all__ = ["TOTALS", "UPDATES", "Choice", "choose", "fused_obstacle"]
