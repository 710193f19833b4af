"""Which cases of a test marked ``thin`` stay in the default run."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import beyond_thin

A, B, C = (tuple(f"{name}{index}" for index in range(7)) for name in "abc")
TABLES = [
    pytest.param({"a": A}, 1, 7, id="one parameter"),
    pytest.param({"a": A}, 3, 3, id="one parameter, one in three"),
    pytest.param({"a": A, "b": B[:2]}, 1, 7, id="two parameters"),
    pytest.param({"a": A[:3], "b": B}, 1, 7, id="two parameters, the second longer"),
    pytest.param({"a": A, "b": B[:2]}, 3, 3, id="two parameters, one in three"),
    pytest.param({"a": A[:4], "b": B[:3], "c": C[:2]}, 1, 12, id="three parameters"),
]


def cases(table: dict[str, Any], every: int = 1) -> list[Any]:
    mark = pytest.mark.thin(every=every).mark
    return [
        SimpleNamespace(
            nodeid=f"test_x.py::test_x[{'-'.join(values)}]",
            keywords={"thin": mark},
            callspec=SimpleNamespace(params=dict(zip(table, values, strict=True))),
            get_closest_marker=lambda _: mark,
        )
        for values in itertools.product(*table.values())
    ]


def left(items: list[Any]) -> list[dict[str, Any]]:
    beyond = [id(item) for item in beyond_thin(items)]
    return [item.callspec.params for item in items if id(item) not in beyond]


@pytest.mark.parametrize(("table", "every", "count"), TABLES)
def test_few_cases_have_every_value(table, every, count):
    """Every value stays, or one in ``every`` of the longest parameter; of three parameters every two values meet."""
    stay = left(cases(table, every))
    assert len(stay) == count
    together = [frozenset(pair) for row in stay for pair in itertools.combinations(row.items(), min(2, len(row)))]
    for name, values in table.items():
        longest = len(values) == max(map(len, table.values()))
        assert {row[name] for row in stay} == set(values[:: every if longest else 1])
    if len(table) > 2:
        for one, two in itertools.combinations(table, 2):
            for pair in itertools.product(table[one], table[two]):
                assert frozenset(zip((one, two), pair, strict=True)) in together


def test_parameters_given_together_are_one():
    """An optimizer and its options, which are parametrized together, are thinned as one parameter."""
    options = [{"lr": 0.1}, {"lr": 0.2}, {}]
    items = cases({"a": A[:3], "b": B[:2]})
    for item in items:
        item.callspec.params |= {"name": "sgd", "options": options[A.index(item.callspec.params.pop("a"))]}
    assert len(left(items)) == 3


def test_what_cannot_be_thinned_stays():
    """Of a single case, as when it is asked for by name, of slow ones, on a GPU and of other tests nothing is taken."""
    assert len(left(cases({"a": A, "b": B})[5:6])) == 1
    for keywords in ({"thin": True, "slow": True}, {"thin": True, "gpu": True}, {}):
        items = cases({"a": A, "b": B})
        for item in items:
            item.keywords = keywords
        assert len(left(items)) == len(items)
