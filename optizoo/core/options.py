"""Options: each one once, with its type, default, check and meaning; and argument checks, in one voice.

Every message names the argument, shows the value and tells the remedy. A check is a function ``(name, value) ->
value``. It raises ``TypeError`` or ``ValueError``, or returns the value that is to be kept: numbers of other libraries
(``numpy.float32``, ``Decimal``) come back as plain Python numbers, because checkpoints that hold them do not load with
``weights_only=True``.
"""

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple, TypedDict

from torch import Tensor

Check = Callable[[str, Any], Any]

# What torch and its schedulers keep in param groups beside the options.
TORCHS_KEYS = {"params", "param_names", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}

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
# Those of them that programs also keep in param groups for themselves: SAM's rho, Muon's mu, a factor on the rate.
_OFTEN_FOREIGN = {"rho", "mu", "decay"}


class OutOfRangeError(ValueError):
    """A value of the right type outside its range: a run that has come to it can still be saved and loaded.

    Args:
        message: Names the argument, the value and the remedy.
        kept: The value as it is kept where that is done.
    """

    def __init__(self, message: str, kept: Any = None):
        super().__init__(message)
        self.kept = kept


# Numbers of other kinds -----------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a number of any kind as a Python number, a sequence of them as a tuple, and all else as it is.

    Tensors of one element stay tensors, which their owner may fill or differentiate.

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
        value = value.tolist()
        if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list):
            value = value[0]
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, (Real, Decimal)) or hasattr(value, "__float__"):
        return float(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return tuple(map(plain, value))
    return value


# Checks ---------------------------------------------------------------------------------------------------------------


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

    def check_values(name: str, value: Any) -> tuple[Any, ...]:
        found = plain(value)
        if not isinstance(found, tuple) or (not word and len(found) != count):
            raise TypeError(f"Invalid {name} value: {value!r}; {name} must be a tuple of {word or count} numbers")
        if len(found) != count:
            raise ValueError(f"Invalid {name} value: {value!r} of length {len(found)}; {name} must have {word} numbers")
        kept, outside = [], ""
        for index, item in enumerate(found):
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


def optional_flag(name: str, value: Any) -> bool | None:
    """Accept ``True``, ``False``, and ``None`` for "choose for me"."""
    found = _truth(value)
    if found is None and value is not None:
        raise TypeError(f"Invalid {name} value: {value!r}; {name} must be True, False or None (choose for me)")
    return found


# The table ------------------------------------------------------------------------------------------------------------


class Option(NamedTuple):
    """What is known of an option beside its type.

    Attributes:
        meaning: A sentence for documentation.
        check: Its check.
        default: Its default; constructors that name the option have their own.
    """

    meaning: str
    check: Check
    default: Any = None


class AlwaysByKeyword(TypedDict, total=False):
    """Options of every optimizer that no constructor of torch has by position."""

    fused: Annotated[
        bool | None,
        Option("``True`` one kernel for the whole update or an error, ``False`` none, ``None`` wherever it can serve.",
               optional_flag),
    ]  # fmt: skip
    nonfinite: Annotated[
        str,
        Option("What a step does where a gradient is NaN or infinite: ``\"propagate\"`` it, ``\"skip\"`` the step, or\n"
               "``\"raise\"``; the last two read all gradients first, touch nothing, and count in ``nonfinite_steps``.",
               choice("propagate", "skip", "raise"), "propagate"),
    ]  # fmt: skip


class WithoutForeach(AlwaysByKeyword, total=False):
    """Options of every optimizer that only torch's RMSprop has by position, or none."""

    maximize: Annotated[bool, Option("Ascend instead of descend.", flag, False)]
    differentiable: Annotated[bool, Option("Let autograd see the step.", flag, False)]
    capturable: Annotated[
        bool, Option("Keep ``step`` on the device and read a tensor ``lr`` there only.", flag, False)
    ]


class Common(WithoutForeach, total=False):
    """Options of every optimizer."""

    foreach: Annotated[
        bool | None,
        Option("``True`` lists of tensors at once, ``False`` one after the other, ``None`` the fastest that can serve.",
               optional_flag),
    ]  # fmt: skip


class Decay(TypedDict, total=False):
    """Options of optimizers whose weights decay; see :class:`optizoo.core.decay.RegularizedOptimizer`."""

    weight_decay_mode: Annotated[
        str | None,
        Option("``\"coupled\"`` (L2), ``\"decoupled\"`` (times α, as in AdamW) or ``\"independent\"`` (not times α, only\n"
               "times its schedule); ``None`` is what ``decoupled_weight_decay`` says.",
               choice("coupled", "decoupled", "independent"), "coupled"),
    ]  # fmt: skip
    l1: Annotated[
        float, Option("Strength of the L1 norm, whose proximal step after the update reaches exact zeros.", number(), 0)
    ]


class Decaying(Decay, Common, total=False):
    """All shared options."""


class DecayingWithoutForeach(Decay, WithoutForeach, total=False):
    """All shared options but ``foreach``, for constructors that have it by position, as torch does."""


class DecayingByKeyword(Decay, AlwaysByKeyword, total=False):
    """The shared options of a constructor that has the others by position, as torch does."""


TORCHS = ("maximize", "foreach", "differentiable", "fused", "capturable")
OURS = ("weight_decay_mode", "l1", "max_lr", "nonfinite")
"""Shared options that optimizers of torch have, and those that none has, in the order in which they are shown."""

SHARED: Mapping[str, tuple[Any, Option]] = {
    name: (kind.__origin__, kind.__metadata__[0])
    for name in (*TORCHS, *OURS)
    if (kind := Decaying.__annotations__.get(name)) is not None
}
"""For every shared option its type and what else is known."""

NAMED: Mapping[str, Option] = {
    "params": Option("Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.", lambda _, value: value),
    "lr": Option("Learning rate α; a number or a one-element tensor.", number()),
    "betas": Option("β₁ and β₂, each in [0, 1); numbers or one-element tensors.", pair(number(below=1.0))),
    "eps": Option("ε.", number()),
    "weight_decay": Option("λ, L2.", number()),
    "momentum": Option("μ, from 0 to 1.", number(maximum=1.0)),
    "decoupled_weight_decay": Option("Shrink the weights instead of adding λθ to the gradient.", flag),
}
"""Options that several constructors name. Others have their check and their sentence on the page of their optimizer."""


def check_of(name: str, default: Any) -> Check:
    """Return the check of an option: that of the tables, or by the kind of its default.

    Raises:
        TypeError: Nothing is known of the option; its optimizer must say its check.
    """
    known = SHARED[name][1] if name in SHARED else NAMED.get(name)
    if known is not None:
        return optional(known.check) if default is None else known.check
    if isinstance(default, bool):
        return flag
    if isinstance(default, (tuple, list)):
        return pair(number()) if len(default) == 2 else values(number(), len(default))
    if isinstance(default, (int, float)):
        return number()
    raise TypeError(f"the check of option {name!r}, whose default is {default!r}, is unknown; name it in `checks`")


# Names ----------------------------------------------------------------------------------------------------------------


def did_you_mean(name: object, known: Collection[str]) -> str:
    """Return the remedy for an unknown name: a suggestion where one is near, and the known names.

    >>> did_you_mean("learning_rate", ["lr", "eps"])
    "did you mean 'lr'? Known: eps, lr"
    """
    from difflib import get_close_matches

    meant = near_miss(str(name), tuple(known)) or ALIASES.get(str(name))
    near = [meant] if meant in known else get_close_matches(str(name), known, n=1)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    return f"{suggestion}Known: {', '.join(sorted(known))}"


@lru_cache(1024)
def near_miss(name: str, known: tuple[str, ...]) -> str | None:
    """Return the option that a name in a param group surely means, or ``None``: then it is somebody else's key.

    A name means an option if it is its name in another library, or its name with other capitals or separators, or with
    a slip of the keyboard in it: one letter more, less, other, or two swapped; two slips in a long name, none but a
    swap or a doubled letter in one of two or three letters. People hit the first letter, and digits tell names apart.

    >>> near_miss("weigth_decay", ("lr", "weight_decay")), near_miss("lr_scale", ("lr", "weight_decay"))
    ('weight_decay', None)
    """
    bare = _bare(name)
    for alias, option in ALIASES.items():
        if option in known and alias not in _OFTEN_FOREIGN and _is_slip(bare, _bare(alias)):
            return option
    return next((option for option in known if _is_slip(bare, _bare(option))), None)


def _bare(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _is_slip(typed: str, meant: str) -> bool:
    if typed == meant:
        return True
    if len(meant) <= 3:
        doubled = len(typed) == len(meant) + 1 and any(
            typed[place] == typed[place + 1] and typed[:place] + typed[place + 1 :] == meant
            for place in range(len(meant))
        )
        return doubled or (len(typed) == len(meant) and _slips(typed, meant) == 1 and sorted(typed) == sorted(meant))
    first = typed[:1] == meant[:1] or typed[:2] == meant[1::-1]
    if not first or [*filter(str.isdigit, typed)] != [*filter(str.isdigit, meant)]:
        return False
    allowed = 2 if len(meant) >= 10 else 1
    return abs(len(typed) - len(meant)) <= allowed and _slips(typed, meant) <= allowed


def _slips(typed: str, meant: str) -> int:
    """Return the number of letters to insert, leave out, replace, or swap with their neighbour."""
    before: list[int] = []
    row = [*range(len(meant) + 1)]
    for i, letter in enumerate(typed, start=1):
        older, before, row = before, row, [i]
        for j, other in enumerate(meant, start=1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == other:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]


def check_options(
    options: Mapping[str, Any], checks: Mapping[str, Check], *, where: str, known: Collection[str] = (), loading: bool
) -> dict[str, Any]:
    """Check every option of a param group and return the values to keep.

    Args:
        options: Option values. Keys that are no option pass unchecked: they belong to somebody else.
        checks: For every known option, its check.
        where: Where the options stand, as the messages say it: ``"Adam, param group 1"``.
        known: Keys that pass even where they look like a slip for an option.
        loading: Whether a run has stepped with these values: those out of range are kept, with a warning.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range, or a key is a slip for an option.
    """
    kept = {}
    for name, value in options.items():
        check = checks.get(name)
        if check is not None:
            try:
                kept[name] = check(name, value)
            except OutOfRangeError as error:
                if not loading:
                    raise OutOfRangeError(f"{error} ({where})") from None
                warn_of_range(error, where)
                kept[name] = error.kept
            except (TypeError, ValueError) as error:
                raise type(error)(f"{error} ({where})") from None
            continue
        kept[name] = value
        if not isinstance(name, str) or name in ("params", "param_names") or name in known or name.startswith("_"):
            continue
        if (meant := near_miss(name, tuple(checks))) is not None:
            raise ValueError(
                f"Unknown option {name!r} = {value!r}; did you mean {meant!r}? Known: {', '.join(sorted(checks))}; "
                f"keys of your own may start with an underscore ({where})"
            )
    return kept


def warn_of_range(error: OutOfRangeError, where: str) -> None:
    """Warn of a value that a saved run had, outside its range."""
    warnings.warn(f"{error} ({where}); the saved run had it, so it is kept: set it before the next step", stacklevel=6)
