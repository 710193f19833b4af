"""Distances between floating-point numbers, in units in the last place."""

import torch
from torch import Tensor

_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def ulp_distance(actual: Tensor, expected: Tensor) -> Tensor:
    """Return, element by element, how many floating-point numbers lie between ``actual`` and ``expected``.

    Zeros of both signs are one number, and so are all NaNs; a NaN beside a number is as far as numbers go.

    Args:
        actual: Real floating-point tensor.
        expected: Tensor of the same shape and dtype.

    Returns:
        int64 tensor of that shape.

    Raises:
        TypeError: The dtypes differ or are not floating-point.

    >>> ulp_distance(torch.tensor([1.0, 0.0]), torch.tensor([1.0000002, -0.0]))
    tensor([2, 0])
    """
    if actual.dtype != expected.dtype or actual.dtype not in _INTEGERS:
        raise TypeError(
            f"ulp_distance needs two tensors of one floating-point dtype; got {actual.dtype}, {expected.dtype}"
        )
    first, second = _ordered(actual), _ordered(expected)
    farthest = torch.iinfo(torch.int64).max
    # Between large numbers of opposite signs there are more float64 numbers than int64 can count.
    distance = torch.where((first.double() - second.double()).abs() < farthest, (first - second).abs(), farthest)
    nan_actual, nan_expected = actual.isnan(), expected.isnan()
    distance = torch.where(nan_actual ^ nan_expected, farthest, distance)
    return torch.where(nan_actual & nan_expected, 0, distance)


def _ordered(values: Tensor) -> Tensor:
    """Map floating-point numbers to integers that keep their order and are consecutive where the numbers are."""
    integers = _INTEGERS[values.dtype]
    bits = values.contiguous().view(integers).to(torch.int64)
    # Negative numbers are stored as sign and magnitude: mirror them below zero.
    return torch.where(bits < 0, torch.iinfo(integers).min - bits, bits)


def identical(actual: Tensor, expected: Tensor) -> bool:
    """Whether type and shape agree and all elements are the same numbers; NaN equals NaN, and 0 equals -0."""
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return False
    return torch.equal(actual, expected) or bool(((actual == expected) | (actual.isnan() & expected.isnan())).all())
