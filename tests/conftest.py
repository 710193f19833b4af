"""Options and markers that every test shares."""

import gc
import itertools
from typing import Any

import pytest
import torch

from optizoo.testing.pairwise import pairwise
from tests.zoo import FAMILIES


def pytest_configure() -> None:
    """Use one thread: the tensors are small, and threads that wait for each other are slow on a busy machine."""
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Look for garbage only in what tests leave: among all that was imported and collected it takes half a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the interpreter free everything at its end, or Triton's bindings tell of leaks."""
    gc.unfreeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--slow``, which runs every case of every test."""
    parser.addoption(
        "--slow", action="store_true", help="also run the tests marked slow, and every case of those marked thin"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this call does not ask for; skip what this machine cannot run, and say why."""
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is visible"))
    if not config.getoption("--slow"):
        for beyond in (beyond_families, beyond_thin):
            for item in beyond(items):
                item.add_marker(pytest.mark.slow)
        config.hook.pytest_deselected(items=[item for item in items if "slow" in item.keywords])
        items[:] = [item for item in items if "slow" not in item.keywords]


def beyond_families(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the cases of tests marked ``families`` that are left to ``--slow``.

    Of optimizers that are not in ``tests.zoo.FAMILIES`` the first case stays.
    """
    seen, beyond = set(), []
    for item in _with_cases_left(items, "families"):
        name = item.callspec.params["name"]  # pyright: ignore[reportAttributeAccessIssue]
        case = _test(item), name
        if name not in FAMILIES and case in seen:
            beyond.append(item)
        seen.add(case)
    return beyond


def _with_cases_left(items: list[pytest.Item], mark: str) -> list[pytest.Item]:
    """Return the cases with a mark; those that are slow already do not count, and on a GPU all run."""
    return [item for item in items if mark in item.keywords and not {"slow", "gpu"} & item.keywords.keys()]


def beyond_thin(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the cases of tests marked ``thin`` that are left to ``--slow``.

    Of a test with one or two parameters enough cases stay that each value stands in one, and with three or more that
    each pair of values does. ``thin(every=n)`` leaves one value in n of the longest parameter; ``thin(times=n)`` leaves
    n cases of each of its values, with the combinations of the others in turn. Parameters that are given together count
    as one. Cases that are slow already do not count, and on a GPU all run.
    """
    thin, beyond = _with_cases_left(items, "thin"), []
    for _, group in itertools.groupby(sorted(thin, key=_test), _test):
        cases = [*group]
        rows = _ranks([case.callspec.params for case in cases])  # pyright: ignore[reportAttributeAccessIssue]
        mark = cases[0].get_closest_marker("thin")
        every, times = (mark.kwargs.get(name) for name in ("every", "times")) if mark else (None, None)
        longest, *others = sorted(rows[0], key=lambda name: -max(row[name] for row in rows))
        kept = [row for row in rows if row[longest] % (every or 1) == 0]
        if times:
            kept = _in_turn(kept, longest, times)
        elif len(others) > 1:
            kept = pairwise(kept)
        elif others:
            count = 1 + max(row[others[0]] for row in rows)
            turns = {rank: index + index // count for index, rank in enumerate(sorted({row[longest] for row in kept}))}
            kept = [row for row in kept if turns[row[longest]] % count == row[others[0]]]
        beyond += [case for case, row in zip(cases, rows, strict=True) if row not in kept]
    return beyond


def _in_turn(rows: list[dict[str, int]], longest: str, times: int) -> list[dict[str, int]]:
    """Return so many of the rows that each value of the longest parameter stands in some, beside others each time."""
    kept, start = [], 0
    for _, group in itertools.groupby(sorted(rows, key=lambda row: row[longest]), lambda row: row[longest]):
        turn = [*group]
        kept += [turn[(start + index) % len(turn)] for index in range(min(times, len(turn)))]
        start += times
    return kept


def _test(item: pytest.Item) -> str:
    """Return the name of the test that an item is a case of."""
    return item.nodeid.partition("[")[0]


def _ranks(rows: list[dict[str, Any]]) -> list[dict[str, int]]:
    """Number the values of each parameter, in their order; leave out what another parameter says already."""
    numbers: dict[str, dict[int, int]] = {name: {} for name in rows[0]}
    ranks = [
        {name: numbers[name].setdefault(id(value), len(numbers[name])) for name, value in row.items()} for row in rows
    ]
    free = [*rows[0]]
    for name in rows[0]:
        if any(
            len({(rank[name], rank[other]) for rank in ranks}) == len(numbers[other]) for other in free if other != name
        ):
            free.remove(name)
    return [{name: rank[name] for name in free} for rank in ranks]
