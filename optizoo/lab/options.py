"""Options of experiments: each is declared once, with all that it may be, and checked whenever options are made."""

import argparse
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    repeats: bool = False,
    check: Callable[[Any], str] | None = None,
) -> Any:
    """Return a field of an experiment's ``Options``, which is a flag on the command line.

    Its type is ``int``, ``float``, ``str``, ``bool``, or a tuple of one of the first three, such as
    ``tuple[int, ...]``; its values differ. Numbers are finite.

    Args:
        default: The value for the default size: the whole experiment within two minutes on two cores.
        help: What it is, with its unit.
        choices: The values that are allowed.
        at_least: The smallest value that is allowed.
        at_most: The largest value that is allowed, or the name of the option that holds it.
        below: A value that is too large, or the name of the option that holds it.
        nonzero: Whether 0 is refused.
        repeats: Whether values of a tuple may be equal.
        check: Returns what a value must be, if it is not.
    """
    about = {"help": help, "choices": tuple(choices), "at_least": at_least, "at_most": at_most, "below": below}
    return field(default=default, metadata=about | {"nonzero": nonzero, "repeats": repeats, "check": check})


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
            value, repeats = getattr(self, each.name), each.metadata["repeats"]
            object.__setattr__(self, each.name, _converted(each.name, value, kinds[each.name], repeats))
        for problem_of in (_problem_alone, self._problem_beside):
            for each in known:
                value = getattr(self, each.name)
                for item in value if isinstance(value, tuple) else (value,):
                    if problem := problem_of(item, each.metadata):
                        raise ExperimentError(f"{each.name} = {item!r}{problem}")

    def _problem_beside(self, item: Any, about: Mapping[str, Any]) -> str:
        """Return what is wrong with a value beside those of other options."""
        for words, limit, fits in _upper(about):
            if isinstance(limit, str) and not fits(item, number := getattr(self, limit)):
                return f"; it must be {words} the {_written(number)} {limit}"
        return ""


def _problem_alone(item: Any, about: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, whatever other options are."""
    choices = about["choices"]
    if choices and item not in choices:
        if not isinstance(item, str):
            return f"; it must be one of {', '.join(map(str, choices))}"
        return f" is unknown: {did_you_mean(item, choices)}"
    if about["check"] and (problem := about["check"](item)):
        return f"; it must be {problem}"
    if isinstance(item, (str, bool)) or choices:
        return ""
    if not item >= about["at_least"]:
        return f"; it must be at least {_written(about['at_least'])}"
    if about["nonzero"] and not item:
        return "; it must not be 0"
    if 0 < abs(item) < SMALLEST:
        return f"; it must be at least {SMALLEST:g}, or 0 where that is allowed"
    for words, limit, fits in _upper(about):
        if not isinstance(limit, str) and not fits(item, limit):
            return f"; it must be {words} {_written(limit)}"
    return ""


def _upper(about: Mapping[str, Any]) -> Iterator[tuple[str, Any, Callable[[Any, Any], bool]]]:
    """Yield the upper limits of an option: in words, as a number or the name of an option, and how they are held."""
    if about["at_most"] is not None:
        yield "at most", about["at_most"], operator.le
    if about["below"] is not None:
        yield "below", about["below"], operator.lt


def _written(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _converted(name: str, value: Any, kind: Any, repeats: bool) -> Any:
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
        converted = tuple(_converted(name, item, get_args(kind)[0], repeats) for item in values)
        for index, item in enumerate(converted):
            if item in converted[:index] and not repeats:
                raise ExperimentError(f"{name} has {item!r} twice; its values must differ")
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


def device(name: str) -> str:
    """Return what the name of a device must be, if it is not; whether the machine has it is asked when it is used."""
    return "" if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) else "auto, cpu, cuda, or one such as cuda:1"


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
