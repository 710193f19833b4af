"""Weights of 32 bits in a parameter of 16: what bfloat16 leaves of a float32 weight is a state beside the parameter.

A bfloat16 number is the upper half of a float32 number. The parameter holds the weight, rounded to the nearest of them,
a tie away from zero; ``param_rest`` holds the difference of the bits, from -32768 to 32767. The two are the weight, bit
for bit, but for the payload of a NaN.
"""

from typing import Any

import torch
from torch import Tensor

_HALF, _UPPER = 0x8000, -0x10000  # half of what the upper 16 bits count, and the mask of these bits


def mastered(rule, param, grad, param_rest, *state, **options):
    """The update of another rule on the float32 weights of which ``param`` has the upper 16 bits, rounded.

    The weights walk the path that they would walk in float32 with the same gradients; the model reads them rounded.
    Source: the split of a float32 weight in 16 bits and a rest is that of Zamirai et al. (2020), "Revisiting BFloat16
    training", section 3.2, https://arxiv.org/abs/2010.06192.
    """
    weight = joined(param, param_rest)
    weight, *state = rule(weight, grad, *state, **options)
    return top(weight), rest(weight), *state


def joined(param: Any, param_rest: Any) -> Any:
    """Return the float32 numbers of which a bfloat16 tensor and a rest are the halves."""
    if not isinstance(param, Tensor):
        return param.joined(param_rest)
    return (param.float().view(torch.int32) + param_rest.to(torch.int32)).view(torch.float32)


def top(weight: Any) -> Any:
    """Return float32 numbers, rounded to the nearest of bfloat16, a tie away from zero."""
    if not isinstance(weight, Tensor):
        return weight.top()
    rounded = ((weight.view(torch.int32) + _HALF) & _UPPER).view(torch.float32)
    return torch.where(weight.isnan(), weight, rounded)


def rest(weight: Any) -> Any:
    """Return what :func:`top` leaves of float32 numbers: the difference of the bits, as whole numbers."""
    if not isinstance(weight, Tensor):
        return weight.rest()
    bits = weight.view(torch.int32)
    return torch.where(weight.isnan(), 0, bits - ((bits + _HALF) & _UPPER)).float()


FUNCTIONS = {"joined": joined, "top": top, "rest": rest}
"""Words that are no methods of tensors."""
