"""Argument checks, in one voice: every message names the argument, shows the value and tells the remedy.

A check is a function ``(name, value) -> value``. It raises ``TypeError`` or ``ValueError``, or returns the value that
is to be kept: numbers of other libraries (``numpy.float64``) come back as plain Python numbers, because checkpoints
that hold them do not load with ``weights_only=True``.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from torch import Tensor

Check = Callable[[str, Any], Any]

# Keys that torch and the libraries around it keep in param groups: schedulers, named parameters, layer-wise rates.
FOREIGN_GROUP_KEYS = frozenset(
    {"params", "param_names", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
    | {"name", "group_name", "lr_scale", "lr_mult", "wd_scale", "wd_mult"}
)
# What other libraries call our options.
ALIASES = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "rho": "alpha",
    "beta": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "epsilon": "eps",
    "mu": "momentum",
}


def did_you_mean(name: object, known: Collection[str]) -> str:
    """Return the remedy for an unknown name: a suggestion where one is near, and the known names.

    >>> did_you_mean("learning_rate", ["lr", "eps"])
    "did you mean 'lr'? Known: eps, lr"
    """
    alias = ALIASES.get(str(name))
    near = [alias] if alias in known else get_close_matches(str(name), known, n=1)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    return f"{suggestion}Known: {', '.join(sorted(known))}"


def number(*, minimum: float = 0.0, below: float | None = None, maximum: float | None = None) -> Check:
    """Return a check for a finite real number, or a tensor that holds one, within the bounds."""
    if below is not None:
        allowed = f"at least {minimum:g} and below {below:g}"
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
            plain = value.item()
        elif isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"Invalid {name} value: {value!r} of type {type(value).__name__}; {name} must be {allowed}")
        else:
            plain = int(value) if isinstance(value, Integral) else float(value)
        valid = math.isfinite(plain) and plain >= minimum
        valid = valid and (below is None or plain < below) and (maximum is None or plain <= maximum)
        if not valid:
            raise ValueError(f"Invalid {name} value: {plain!r}; {name} must be {allowed}")
        return value if isinstance(value, Tensor) else plain

    return check


def choice(*known: str) -> Check:
    """Return a check for one of the names in ``known``."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"Invalid {name} value: {value!r}; {name} must be one of {', '.join(map(repr, known))}")
        if value not in known:
            raise ValueError(f"Invalid {name} value: {value!r}; {did_you_mean(value, known)}")
        return value

    return check


def optional(check: Check) -> Check:
    """Return a check for ``None``, or a value that passes ``check``."""
    return lambda name, value: None if value is None else check(name, value)


def pair(check: Check) -> Check:
    """Return a check for a tuple or list of two values that each pass ``check``; the tuple is kept."""

    def check_pair(name: str, value: Any) -> Any:
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"Invalid {name} value: {value!r}; {name} must be a tuple of two numbers")
        if len(value) != 2:
            raise ValueError(f"Invalid {name} value: {value!r} of length {len(value)}; {name} must have two numbers")
        return tuple(check(f"{name}[{index}]", item) for index, item in enumerate(value))

    return check_pair


def flag(name: str, value: Any) -> bool:
    """Accept ``True`` and ``False`` only."""
    if not isinstance(value, bool):
        raise TypeError(f"Invalid {name} value: {value!r}; {name} must be True or False")
    return value


def optional_flag(name: str, value: Any) -> bool | None:
    """Accept ``True``, ``False``, and ``None`` for "choose for me"."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"Invalid {name} value: {value!r}; {name} must be True, False or None (choose for me)")
    return value


def check_results(rule: Callable[..., Any], results: Any, names: Sequence[str]) -> None:
    """Raise ``TypeError`` unless a rule returned a tuple with one result for each of ``names``."""
    if not isinstance(results, tuple) or len(results) != len(names):
        expected = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
        got = f"{len(results)} results" if isinstance(results, tuple) else repr(results)
        raise TypeError(f"rule {rule.__name__!r} must return the tuple {expected}; got {got}")


def check_options(
    options: Mapping[str, Any], checks: Mapping[str, Check], *, where: str, known: Collection[str] = ()
) -> dict[str, Any]:
    """Check every option and return the values to keep.

    Args:
        options: Option values; keys of :data:`FOREIGN_GROUP_KEYS` and keys that start with ``_`` pass unchecked.
        checks: For every known option, its check.
        where: Where the options stand, as the messages say it: ``"Adam, param group 1"``.
        known: Further keys that pass unchecked.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range, or a key is unknown.
    """
    kept = {}
    for name, value in options.items():
        check = checks.get(name)
        if check is not None:
            try:
                kept[name] = check(name, value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{error} ({where})") from None
        elif name in FOREIGN_GROUP_KEYS or name in known or str(name).startswith("_"):
            kept[name] = value
        else:
            raise ValueError(
                f"Unknown option {name!r} = {value!r}; {did_you_mean(name, checks)}; "
                f"keys of your own may start with an underscore ({where})"
            )
    return kept
