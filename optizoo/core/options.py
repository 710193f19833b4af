"""Options: each one once, with its type, default, check and one sentence of meaning."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple, TypedDict

import torch

from optizoo.core.checks import (
    Check,
    OutOfRangeError,
    choice,
    flag,
    number,
    optional,
    optional_dtype,
    optional_flag,
    pair,
    values,
    warn_of_range,
)
from optizoo.core.names import near_miss

# What torch and its schedulers keep in param groups beside the options.
TORCHS_KEYS = {"params", "param_names", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}


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
        Option('What a step does where a gradient is NaN or infinite: ``"propagate"`` it, ``"skip"`` the step, or\n'
               '``"raise"``; the last two read all gradients first, touch nothing, and count in ``nonfinite_steps``.',
               choice("propagate", "skip", "raise"), "propagate"),
    ]  # fmt: skip

    master: Annotated[
        bool,
        Option("Keep what bfloat16 leaves of a float32 weight in a state of 16 bits beside each parameter, which must\n"
               "be bfloat16: the weights walk the path of float32, bit for bit. Moments are then float32.",
               flag, False),
    ]  # fmt: skip
    state_dtype: Annotated[
        torch.dtype | None,
        Option("Type of the moments, which are read wide and rounded once; ``None`` is that of the parameter, or\n"
               "float32 with ``master``.", optional_dtype),
    ]  # fmt: skip


class WithoutForeach(AlwaysByKeyword, total=False):
    """Options of every optimizer that only torch's RMSprop has by position, or none."""

    maximize: Annotated[bool, Option("Ascend instead of descend.", flag, False)]
    differentiable: Annotated[bool, Option("Let autograd see the step.", flag, False)]
    capturable: Annotated[bool, Option("Keep ``step`` on the device and read a tensor ``lr`` there only.", flag, False)]


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
        Option('``"coupled"`` (L2), ``"decoupled"`` (times α, as in AdamW), ``"independent"`` (not times α, only\n'
               'times its schedule) or ``"cautious"`` (decoupled, where no update works against it); ``None`` is the\n'
               "rule's own, or what ``decoupled_weight_decay`` says.",
               choice("coupled", "decoupled", "independent", "cautious"), "coupled"),
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
OURS = ("weight_decay_mode", "l1", "max_lr", "nonfinite", "master", "state_dtype")
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
