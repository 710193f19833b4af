"""Few combinations that still bring every two option values together."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Options = dict[str, Any]
Table = Mapping[str, Sequence[Any]]
"""The values that options take; it stands for every combination of them."""


def product(table: Table) -> list[Options]:
    """Return every combination of the values of a table.

    >>> product({"lr": (0.1,), "nesterov": (False, True)})
    [{'lr': 0.1, 'nesterov': False}, {'lr': 0.1, 'nesterov': True}]
    """
    return [dict(zip(table, values, strict=True)) for values in itertools.product(*table.values())]


def pairwise(rows: Sequence[Options], defaults: Mapping[str, Any] | None = None) -> list[Options]:
    """Return some of the rows, in their order, such that every pair of option values in them still stands in one.

    Most faults need one option or two to show (Kuhn, Wallace & Gallo 2004, https://doi.org/10.1109/TSE.2004.24).
    Greedy, and a function of its arguments alone: the row that brings most new pairs comes next, the first of equals.

    Args:
        rows: Combinations of options, such as the full product of a table, or what a constraint leaves of it.
        defaults: What an option stands for in a row that leaves it out; otherwise that is a value of its own.

    >>> len(product(dict.fromkeys("abcdef", (0, 1, 2)))), len(pairwise(product(dict.fromkeys("abcdef", (0, 1, 2)))))
    (729, 15)
    """
    names = sorted({name for row in rows for name in row})
    left_out = {name: level(value) for name, value in (defaults or {}).items()}
    pairs = [_pairs(row, names, left_out) for row in rows]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(rows)), key=lambda index: len(pairs[index] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return [rows[index] for index in sorted(chosen)]


def _pairs(row: Options, names: Sequence[str], left_out: Mapping[str, tuple]) -> set[tuple]:
    """Return the pairs of values in a row; of a single option, its value."""
    levels = [(name, level(row[name]) if name in row else left_out.get(name)) for name in names]
    return {*itertools.combinations(levels, min(2, len(levels)))}


def level(value: Any) -> tuple[type, str]:
    """Return what tells the values of an option apart, and can be hashed: type and digits, of a tensor too."""
    return type(value), repr(value.tolist() if isinstance(value, Tensor) else value)
