"""Argument checks, in one voice: every message names the argument, shows the value and tells the remedy.

A check is a function ``(name, value) -> value``. It raises ``TypeError`` or ``ValueError``, or returns the value that
is to be kept: numbers of other libraries (``numpy.float32``, ``Decimal``) come back as plain Python numbers, because
checkpoints that hold them do not load with ``weights_only=True``.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from optizoo.core.names import did_you_mean

Check = Callable[[str, Any], Any]


class OutOfRangeError(ValueError):
    """A value of the right type outside its range: a run that has come to it can still be saved and loaded.

    Args:
        message: Names the argument, the value and the remedy.
        kept: The value as it is kept where that is done.
    """

    def __init__(self, message: str, kept: Any = None):
        super().__init__(message)
        self.kept = kept


def plain(value: Any) -> Any:
    """Return a number of any kind as a Python number, a sequence of them as a tuple, and all else as it is.

    Tensors of one element stay tensors, which their owner may fill or differentiate.

    >>> from decimal import Decimal
    >>> from fractions import Fraction
    >>> plain(Fraction(1, 4)), plain([Decimal("0.5"), 1]), plain("skip")
    (0.25, (0.5, 1), 'skip')
    """
    kind = type(value)
    if kind is float or kind is int or kind is bool or kind is str or value is None:
        return value
    if kind is tuple:
        return tuple(map(plain, value))
    if isinstance(value, Tensor):
        if value.dim() != 1 or len(value) < 2:
            return value
        return tuple(value.unbind() if value.requires_grad else value.tolist())
    if hasattr(value, "tolist"):  # numpy's and its relatives' scalars and arrays
        items: Any = value.tolist()
        value = items[0] if isinstance(items, list) and len(items) == 1 else items
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) or hasattr(value, "__float__"):
        return float(value)  # pyright: ignore[reportArgumentType]
    sequence = hasattr(value, "__getitem__") and hasattr(value, "__len__")  # OmegaConf's ListConfig and its relatives
    if sequence and not isinstance(value, (bytes, bytearray, Mapping)):
        return tuple(map(plain, value))
    return value


def number(*, minimum: float = 0.0, below: float | None = None, maximum: float | None = None) -> Check:
    """Return a check for a finite real number, or a tensor that holds one, within the bounds."""
    if below is not None:
        allowed = f"at least {minimum:g} and below {below:g}"
    elif minimum == -math.inf:
        allowed = "a finite number" + ("" if maximum is None else f", at most {maximum:g}")
    elif maximum is not None:
        allowed = f"from {minimum:g} to {maximum:g}"
    else:
        allowed = f"a finite number, at least {minimum:g}"

    def check(name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.is_complex():
                raise ValueError(
                    f"Invalid {name} value: a tensor of shape {tuple(value.shape)} and {value.dtype}; "
                    f"Tensor {name} must be 1-element and real"
                )
            found = value.item()
        else:
            found = plain(value)
            if isinstance(found, bool) or not isinstance(found, (int, float)):
                remedy = "; it is a text: write the number without quotes, in YAML 1.0e-3 for 1e-3"
                raise TypeError(
                    f"Invalid {name} value: {value!r} of type {type(value).__name__}; {name} must be {allowed}"
                    + (remedy if isinstance(found, str) and _is_numeral(found) else "")
                )
        valid = math.isfinite(found) and found >= minimum
        valid = valid and (below is None or found < below) and (maximum is None or found <= maximum)
        kept = value if isinstance(value, Tensor) else found
        if not valid:
            raise OutOfRangeError(f"Invalid {name} value: {found!r}; {name} must be {allowed}", kept)
        return kept

    return check


def whole_number(*, below: int) -> Check:
    """Return a check for a whole number from 0 on; an ``int`` is kept."""

    def check(name: str, value: Any) -> int:
        found = plain(value.item() if isinstance(value, Tensor) and value.numel() == 1 else value)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or found != found // 1:
            raise TypeError(f"Invalid {name} value: {value!r}; {name} must be a whole number")
        if not 0 <= found < below:
            raise OutOfRangeError(f"Invalid {name} value: {value!r}; {name} must be from 0 to {below - 1}", int(found))
        return int(found)

    return check


def _is_numeral(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def choice(*known: str) -> Check:
    """Return a check for one of the names in ``known``."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"Invalid {name} value: {value!r}; {name} must be one of {', '.join(map(repr, known))}")
        if value not in known:
            raise ValueError(f"Invalid {name} value: {value!r}; {did_you_mean(value, known)}")
        return str(value)

    return check


def optional(check: Check) -> Check:
    """Return a check for ``None``, or a value that passes ``check``."""
    return lambda name, value: None if value is None else check(name, value)


def values(check: Check, count: int, *, word: str = "") -> Check:
    """Return a check for a sequence of values that each pass ``check``; a tuple is kept.

    Args:
        check: The check of each.
        count: How many there are.
        word: The count in words, where another length is an error of value, not of type.
    """
    return sequence(*[check] * count, word=word)


def sequence(*checks: Check, word: str = "") -> Check:
    """Return a check for a sequence of values that pass one check each; ``word`` is as in :func:`values`."""
    count = len(checks)

    def check_values(name: str, value: Any) -> tuple[Any, ...]:
        found = plain(value)
        if not isinstance(found, tuple) or (not word and len(found) != count):
            raise TypeError(f"Invalid {name} value: {value!r}; {name} must be a tuple of {word or count} numbers")
        if len(found) != count:
            raise ValueError(f"Invalid {name} value: {value!r} of length {len(found)}; {name} must have {word} numbers")
        kept, outside = [], ""
        for index, (item, check) in enumerate(zip(found, checks, strict=True)):
            try:
                kept.append(check(f"{name}[{index}]", item))
            except OutOfRangeError as error:
                kept.append(error.kept)
                outside = outside or str(error)
        if outside:
            raise OutOfRangeError(outside, tuple(kept))
        return tuple(kept)

    return check_values


def pair(check: Check) -> Check:
    """Return a check for two values that each pass ``check``, in any sequence; a tuple is kept."""
    return values(check, 2, word="two")


def _truth(value: Any) -> bool | None:
    """Return the flag that a value surely is: a truth value of any library, 0 or 1; else ``None``."""
    found = value.item() if isinstance(value, Tensor) and value.numel() == 1 else plain(value)
    return bool(found) if isinstance(found, (bool, int, float)) and found in (0, 1) else None


def flag(name: str, value: Any) -> bool:
    """Accept ``True`` and ``False``, also as numpy's, 1 and 0."""
    found = _truth(value)
    if found is None:
        raise TypeError(f"Invalid {name} value: {value!r}; {name} must be True or False")
    return found


def optional_dtype(name: str, value: Any) -> torch.dtype | None:
    """Check a floating type, or ``None``."""
    if value is None or (isinstance(value, torch.dtype) and value.is_floating_point):
        return value
    raise TypeError(f"{name} must be a floating torch.dtype or None, but got {value!r}")


def optional_flag(name: str, value: Any) -> bool | None:
    """Accept ``True``, ``False``, and ``None`` for "choose for me"."""
    found = _truth(value)
    if found is None and value is not None:
        raise TypeError(f"Invalid {name} value: {value!r}; {name} must be True, False or None (choose for me)")
    return found


def warn_of_range(error: OutOfRangeError, where: str) -> None:
    """Warn of a value that a saved run had, outside its range."""
    warnings.warn(f"{error} ({where}); the saved run had it, so it is kept: set it before the next step", stacklevel=6)
