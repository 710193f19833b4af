"""Search spaces: ranges in a table of options, and the points of them that are tried.

In TOML a value that is to be searched is a table of one key, which says how:

.. code-block:: toml

    lr = { log_uniform = [1e-4, 1.0] }        # even in the logarithm
    momentum = { uniform = [0.8, 0.99] }
    warmup_steps = { integers = [0, 500] }    # both ends belong to it
    nesterov = { choices = [true, false] }    # drawn, in no order
    weight_decay = { grid = [0.0, 0.01] }     # every value, with every value of the other grids
    betas = [0.9, { uniform = [0.9, 0.999] }] # a part of a list
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from optizoo.core.names import did_you_mean
from optizoo.lab.sections import ConfigError

__all__ = ["Point", "Range", "grid_size", "place", "points", "ranges", "shown", "suggest"]

Point = dict[str, Any]  # a value for each name
KINDS = ("log_uniform", "uniform", "integers", "choices", "grid")
EDGE = 0.05  # a value so near to an end of its range, as a part of the range, lies at the edge


@dataclass(frozen=True)
class Range:
    """The values that one option may take.

    Attributes:
        kind: ``"log_uniform"``, ``"uniform"``, ``"integers"``, ``"choices"`` or ``"grid"``.
        values: Both ends, or all values.
    """

    kind: str
    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """Return the value at a place from 0 to 1.

        >>> Range("log_uniform", (0.01, 1.0)).at(0.5), Range("integers", (0, 9)).at(0.99)
        (0.1, 9)
        """
        low, high = self.values[0], self.values[-1]
        match self.kind:
            case "log_uniform":
                return float(f"{math.exp(math.log(low) + place * (math.log(high) - math.log(low))):.6g}")
            case "uniform":
                return float(f"{low + place * (high - low):.6g}")
            case "integers":
                return min(int(low + place * (high - low + 1)), high)
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def edge(self, value: Any) -> str | None:
        """Return ``"lower"`` or ``"upper"`` for a value at an end of the range: what is best may lie behind it.

        >>> Range("log_uniform", (0.01, 1.0)).edge(0.95), Range("choices", (True, False)).edge(True)
        ('upper', None)
        """
        numbers = [each for each in self.values if isinstance(each, (int, float)) and not isinstance(each, bool)]
        if self.kind == "choices" or len({*numbers}) < max(2, len(self.values)):
            return None
        low, high = min(numbers), max(numbers)
        if self.kind in ("grid", "integers"):
            return "lower" if value == low else "upper" if value == high else None
        if self.kind == "log_uniform":
            low, high, value = math.log(low), math.log(high), math.log(value)
        part = (value - low) / (high - low)
        return "lower" if part <= EDGE else "upper" if part >= 1 - EDGE else None

    def distribution(self) -> Any:
        """Return it as Optuna knows it."""
        from optuna import distributions

        low, high = self.values[0], self.values[-1]
        if self.kind in ("log_uniform", "uniform"):
            return distributions.FloatDistribution(low, high, log=self.kind == "log_uniform")
        if self.kind == "integers":
            return distributions.IntDistribution(low, high)
        return distributions.CategoricalDistribution([*map(shown, self.values)])


def ranges(table: Mapping[str, Any]) -> dict[str, Range]:
    """Return the ranges in a table by their names: dotted, with the place in a list in brackets.

    Raises:
        ConfigError: A range is not one.

    >>> sorted(ranges({"lr": {"grid": [1, 2]}, "betas": [0.9, {"uniform": [0.9, 0.99]}]}))
    ['betas[1]', 'lr']
    """
    return {name: value for name, value in _leaves(table) if isinstance(value, Range)}


def place(table: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """Return the table with the values of a point in place of its ranges.

    >>> place({"lr": {"grid": [1, 2]}, "betas": [0.9, {"uniform": [0.9, 0.99]}]}, {"lr": 2, "betas[1]": 0.95})
    {'lr': 2, 'betas': [0.9, 0.95]}
    """

    def placed(value: Any, name: str) -> Any:
        if name in point:
            return point[name]
        if isinstance(value, Mapping):
            return {key: placed(item, f"{name}.{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [placed(item, f"{name}[{index}]") for index, item in enumerate(value)]
        return value

    return {key: placed(item, key) for key, item in table.items()}


def points(spaces: Mapping[str, Range], count: int, *, seed: int, label: str) -> list[Point]:
    """Return the points to try: all cells of the grids in turn, and a scrambled Sobol sequence through the rest.

    They are a function of the arguments, so all workers agree on them.

    >>> [each["lr"] for each in points({"lr": Range("grid", (0.1, 1.0))}, 4, seed=0, label="sgd")]
    [0.1, 1.0, 0.1, 1.0]
    """
    from scipy.stats import qmc

    grids = {name: each for name, each in spaces.items() if each.kind == "grid"}
    drawn = {name: each for name, each in spaces.items() if each.kind != "grid"}
    cells = [dict(zip(grids, values, strict=True)) for values in product(*(each.values for each in grids.values()))]
    places = np.zeros((count, 0))
    if drawn:
        random = np.random.default_rng([seed, zlib.crc32(label.encode())])
        sobol = qmc.Sobol(len(drawn), scramble=True, rng=random)
        places = sobol.random_base2(max(0, math.ceil(math.log2(count))))[:count]
    return [
        cells[index % len(cells)] | {name: each.at(u) for (name, each), u in zip(drawn.items(), row, strict=True)}
        for index, row in enumerate(places.tolist())
    ]


def grid_size(spaces: Mapping[str, Range]) -> int:
    """Return the number of cells of the grids."""
    return math.prod(len(each.values) for each in spaces.values() if each.kind == "grid")


def suggest(spaces: Mapping[str, Range], tried: Sequence[tuple[Point, float]], *, seed: int) -> Point:
    """Return the point that a tree of Parzen estimators would try next (Optuna's TPE).

    Args:
        spaces: The ranges.
        tried: Points and their values, the larger the better; those that are being tried have minus infinity.
        seed: Of the draw.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    distributions = {name: each.distribution() for name, each in spaces.items()}
    for point, value in tried:
        params = {name: shown(point[name]) for name in spaces}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=value))
    found = study.ask(distributions).params
    return {
        name: next((each for each in spaces[name].values if shown(each) == value), value)
        for name, value in found.items()
    }


def shown(value: Any) -> Any:
    """Return a value as Optuna can write it: a list becomes text."""
    return repr(tuple(value)) if isinstance(value, (list, tuple)) else value


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in KINDS:
            yield name, _range(name, *value.items())
            return
        if name not in ("", "schedule"):
            kind = next(iter(value), "")
            raise ConfigError(f"= {value!r}; is no range: {did_you_mean(kind, KINDS)}", key=name)
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]")
    else:
        yield name, value


def _range(name: str, item: tuple[str, Any]) -> Range:
    kind, values = item
    shown = f"= {{ {kind} = {values!r} }}; must be "
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigError(shown + "a list of values", key=name)
    if kind in ("choices", "grid"):
        if len({repr(each) for each in values}) < len(values):
            raise ConfigError(shown + "a list of different values", key=name)
        return Range(kind, tuple(tuple(each) if isinstance(each, list) else each for each in values))
    whole = kind == "integers"
    numbers = all(isinstance(each, int if whole else (int, float)) and not isinstance(each, bool) for each in values)
    if len(values) != 2 or not numbers or not all(map(math.isfinite, values)) or not values[0] < values[1]:
        raise ConfigError(f"{shown}two {'integers' if whole else 'numbers'}, the smaller first", key=name)
    if kind == "log_uniform" and values[0] <= 0:
        raise ConfigError(shown + "above 0: a logarithm is even in none that reaches 0", key=name)
    return Range(kind, tuple(values) if whole else tuple(map(float, values)))
