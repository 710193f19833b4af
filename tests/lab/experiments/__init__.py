"""A test of the number of each experiment, at a size that takes seconds."""

import copy
from functools import cache
from importlib import import_module
from typing import Any

from optizoo.lab import book


def tiny(name: str) -> list[dict[str, Any]]:
    """Return the rows of an experiment with the options ``TINY`` of its test; run once, and yours to doctor."""
    return copy.deepcopy(_rows(name))


@cache
def _rows(name: str) -> list[dict[str, Any]]:
    return book.rows(name, **import_module(f"{__name__}.test_{name}").TINY)
