"""Options of experiments: each is declared once, with all that it may be, and checked whenever options are made."""

import argparse
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from optizoo.core.names import did_you_mean
from optizoo.lab.experiments import ExperimentError

__all__ = ["IMAGES", "LARGEST", "SEEDS", "SMALLEST", "Checked", "add_flags", "device", "option"]

LARGEST = 1_000_000  # of all numbers that say nothing else: beyond it nobody waits for the end, and sums overflow
SMALLEST = 1e-12  # of all that are not 0: below it quotients overflow
IMAGES = 50_000  # CIFAR-10's
SEEDS = 2**32 - 1  # torch's generators see no further bits
LONGEST = 100  # values of a list


def option(
    default: Any,
    help: str,  # noqa: A002
    *,
    choices: Sequence[Any] = (),
    at_least: float = -LARGEST,
    at_most: float | str = LARGEST,
    below: float | str | None = None,
    nonzero: bool = False,
    check: Callable[[Any], None] | None = None,
) -> Any:
    """Return a field of an experiment's ``Options``, which is a flag on the command line.

    Its type is ``int``, ``float``, ``str``, ``bool``, or a tuple of one of the first three, such as
    ``tuple[int, ...]``; the values of a tuple differ. Numbers are finite.

    Args:
        default: The value for the default size: the whole experiment within two minutes on two cores.
        help: What it is, with its unit.
        choices: The values that are allowed.
        at_least: The smallest value that is allowed.
        at_most: The largest value that is allowed, or the name of the option that holds it.
        below: A value that is too large, or the name of the option that holds it.
        nonzero: Whether 0 is refused.
        check: Raises :class:`ValueError` with what the value must be.
    """
    about = {"help": help, "choices": tuple(choices), "at_least": at_least, "at_most": at_most, "below": below}
    return field(default=default, metadata=about | {"nonzero": nonzero, "check": check})


class Checked:
    """What the options of all experiments share: at construction every value is checked as it was declared.

    Numbers are taken for what they are: ``1`` for ``1.0``, ``100.0`` for ``100``, a list for a tuple.

    Raises:
        ExperimentError: A value is not allowed; the message names the option, shows the value and tells the remedy.
    """

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        known = fields(self)  # type: ignore[arg-type]  # the subclass is a dataclass
        for each in known:
            object.__setattr__(self, each.name, _converted(each.name, getattr(self, each.name), kinds[each.name]))
        for each in known:
            value = getattr(self, each.name)
            for item in value if isinstance(value, tuple) else (value,):
                try:
                    self._check(item, **{key: rule for key, rule in each.metadata.items() if key != "help"})
                except ValueError as error:
                    raise ExperimentError(f"{each.name} = {item!r}{error}") from None

    def _check(
        self,
        item: Any,
        *,
        choices: Sequence[Any],
        at_least: float,
        at_most: float | str,
        below: float | str | None,
        nonzero: bool,
        check: Callable[[Any], None] | None,
    ) -> None:
        if choices and item not in choices:
            raise ValueError(f" is unknown: {did_you_mean(item, list(map(str, choices)))}")
        if check:
            check(item)
        if isinstance(item, (str, bool)) or choices:
            return
        if not item >= at_least:
            raise ValueError(f"; it must be at least {_written(at_least)}")
        if nonzero and not item:
            raise ValueError("; it must not be 0")
        if 0 < abs(item) < SMALLEST:
            raise ValueError(f"; it must be at least {SMALLEST:g}, or 0 where that is allowed")
        for words, limit, fits in (("at most", at_most, operator.le), ("below", below, operator.lt)):
            number = getattr(self, limit) if isinstance(limit, str) else limit
            if number is not None and not fits(item, number):
                whose = _written(number) if number == limit else f"the {_written(number)} {limit}"
                raise ValueError(f"; it must be {words} {whose}")


def _written(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _converted(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its type, or raise what it must be."""
    if get_origin(kind) is tuple:
        values = value if isinstance(value, (tuple, list)) else (value,)
        if not 1 <= len(values) <= LONGEST:
            problem = (
                "is empty; give at least one value"
                if not values
                else f"has {len(values)} values; give at most {LONGEST}"
            )
            raise ExperimentError(f"{name} {problem}")
        converted = tuple(_converted(name, item, get_args(kind)[0]) for item in values)
        if twice := [item for index, item in enumerate(converted) if item in converted[:index]]:
            raise ExperimentError(f"{name} = {converted}; its values must differ, and {twice[0]!r} stands there twice")
        return converted
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind is int and number and (isinstance(value, Integral) or float(value).is_integer()):
        return int(value)  # type: ignore[arg-type]
    if kind is float and number:
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf
    if type(value) is kind:
        return value
    words = {int: "an integer", float: "a number", str: "a word", bool: "true or false"}
    raise ExperimentError(f"{name} = {value!r}; it must be {words[kind]}")


def device(name: str) -> None:
    """Check the name of a device; whether the machine has it is asked when it is used."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("; it must be auto, cpu, cuda, or one such as cuda:1")


def add_flags(parser: argparse.ArgumentParser, kind: type) -> list[str]:
    """Add a flag for each option of an experiment's ``Options``, and return the names of the options."""
    types = get_type_hints(kind)
    group = parser.add_argument_group("options of the experiment")
    for each in fields(kind):
        flag, item = f"--{each.name.replace('_', '-')}", types[each.name]
        arguments: dict[str, Any] = {"dest": each.name, "default": each.default}
        if item is bool:
            arguments["action"] = argparse.BooleanOptionalAction
        elif get_origin(item) is tuple:
            arguments |= {"type": _READ[get_args(item)[0]], "nargs": "+", "action": _Tuple, "metavar": "VALUE"}
        else:
            arguments |= {"type": _READ[item], "metavar": "VALUE"}
        default = " ".join(map(str, each.default)) if isinstance(each.default, tuple) else each.default
        choices = f"; one of {', '.join(map(str, each.metadata['choices']))}" if each.metadata["choices"] else ""
        text = f"{each.metadata['help']}{choices} (default: {default})".replace("%", "%%")
        group.add_argument(flag, help=text, **arguments)
    return [each.name for each in fields(kind)]


def _integer(text: str) -> float:
    """Read an integer, also one such as 1e3; whether it is one is checked with the rest."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        return int(number) if math.isfinite(number) and number.is_integer() else number


_READ: dict[type, Callable[[str], Any]] = {int: _integer, float: float, str: str}


class _Tuple(argparse.Action):
    """Keeps several values as a tuple."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _flag: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))
