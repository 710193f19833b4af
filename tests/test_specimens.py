"""Specimens: found by themselves, complete, and crossed so that every pair of option values is tried."""

import importlib
import inspect
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import optizoo
from optizoo import zoo
from optizoo.testing import MUTANTS, assert_equivalent, has_torch_twin, mutants, textbook, torch_twin
from optizoo.testing import specimens as package
from optizoo.testing.pairwise import level, pairwise, product
from optizoo.testing.specimens import specimens
from optizoo.testing.verify import count_cells, option_combinations, verify
from optizoo.zoo import optimizer_class
from tests.zoo import parameters

PAGE = '''
"""Signs of the gradient: an optimizer that is nowhere else."""

from optizoo.custom import from_rule


def compass(param, grad, *, lr, weight_decay):
    """Source: Bernstein et al. (2018), https://arxiv.org/abs/1802.04434."""
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)
    return (param.add(grad.sign(), alpha=-lr),)


Compass = from_rule(compass, "Compass", lr=0.01, weight_decay=0)
'''
SPECIMEN = '''
"""Signs of the gradient."""

from optizoo.testing.mutants import Mutant
from optizoo.testing.specimen import Specimen
from optizoo.testing.textbook import sign


def compass(theta, g, *, lr, weight_decay):
    """Bernstein et al. (2018)."""
    return (theta - lr * sign(g + weight_decay * theta),)


COMPASS = Specimen(
    name="compass", textbook=(compass,), mutants=(Mutant("compass-no-sign", "compass", "grad.sign()", "grad"),)
)
'''


@pytest.fixture
def compass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A page and a specimen in a temporary folder: nothing else knows of the optimizer."""
    for module, text in ((zoo, PAGE), (package, SPECIMEN)):
        folder = tmp_path / module.__name__
        folder.mkdir()
        (folder / "compass.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    for module in (zoo, package):
        sys.modules.pop(f"{module.__name__}.compass", None)
        vars(module).pop("compass", None)


def test_a_new_optimizer_is_a_page_and_a_specimen(compass):
    """An optimizer of two new files is found by everything: list, oracle, textbook, options, mutants."""
    assert "compass" in optizoo.list_optimizers()
    assert not has_torch_twin("compass")
    assert textbook.compass(1.0, -3.0, lr=0.25, weight_decay=0) == (1.25,)
    cases = [options for name, options in option_combinations() if name == "compass"]
    assert [case for case in cases if "lr" not in case] == product(
        {"weight_decay": (0, 0.05), "maximize": (False, True)}
    )
    (mutant,) = (mutant for mutant in mutants.MUTANTS if mutant.optimizer == "compass")
    with pytest.raises(AssertionError, match="T2"):
        assert_equivalent(mutant.build, mutant.reference)


def test_a_new_optimizer_is_verified(compass):
    """Its cells stand in the table of ``verify`` and pass, in this process, and the same ones in others.

    Tensors among the options arrive there, and the folders of new pages are known.
    """
    tried = option_combinations(pairs=True)
    cases = [case for name in ("compass", "rprop") for case in [case for case in tried if case[0] == name][-2:]]
    assert any(torch.is_tensor(value) for _, options in cases for value in options.values())
    here, apart = (list(verify([torch.float64], steps=4, combinations=cases, jobs=jobs)) for jobs in (1, 2))
    assert {(result.optimizer, result.backend) for result in here} >= {("compass", "loop"), ("compass", "foreach")}
    assert [result.message for result in here if not result.passed] == []
    assert [str(result) for result in apart] == [str(result) for result in here]  # NaN is not equal to itself


def test_an_optimizer_without_specimen_fails(compass, monkeypatch: pytest.MonkeyPatch):
    """A page without a specimen is a cell that fails, in every type: nothing says what it should compute."""
    monkeypatch.setattr(package, "__path__", package.__path__[:1])
    cases = [(name, options) for name, options in option_combinations() if name == "compass"]
    (result,) = verify([torch.float64], steps=10, combinations=cases)
    assert not result.passed
    assert "write its specimen" in result.message
    assert not has_torch_twin("compass")


def test_two_specimens_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second specimen of an optimizer is an error: which of them holds would depend on names of files."""
    (tmp_path / "second.py").write_text(SPECIMEN.replace("compass", "lion"), encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="second specimen of 'lion'"):
        specimens()


def test_every_page_has_a_specimen():
    """Every optimizer of the zoo has one, in the order of the zoo, with a formula for each of its rules."""
    assert list(specimens()) == optizoo.list_optimizers()
    for name, options in option_combinations():
        optimizer = optimizer_class(name)(parameters(of=name), **options)
        rule = optimizer.select_rule(optimizer.complete(optimizer.param_groups[0])).__name__
        assert rule in [formula.__name__ for formula in specimens()[name].textbook]
        assert getattr(textbook, rule) in specimens()[name].textbook
    assert not hasattr(textbook, "no_such_rule")


def test_every_option_stands_in_a_table():
    """What an optimizer can be told by numbers is tried, or is a number that its rule only multiplies by."""
    numbers = {"betas", "rho", "alpha", "eps", "momentum_decay", "max_lr", "momentum"}
    executions = {"foreach", "fused", "capturable", "differentiable", "nonfinite", "params"}
    executions |= {"across_processes", "master", "state_dtype"}  # test_zero.py and test_master.py hold them
    for name, specimen in specimens().items():
        tried = {option for options in specimen.combinations() for option in options}
        left = {*inspect.signature(optimizer_class(name)).parameters} - numbers - executions - tried
        assert left <= {"weight_decay_mode"}, name


@pytest.mark.parametrize("path", sorted(Path(package.__path__[0]).glob("*.py")), ids=lambda path: path.stem)
def test_a_specimen_is_short(path: Path):
    """A specimen takes at most 60 lines."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60 * max(1, text.count(" = Specimen("))


def test_twins_are_torchs():
    """A twin is torch's own class, with the defaults that make it equal: momentum has its momentum."""
    for name in filter(has_torch_twin, optizoo.list_optimizers()):
        params = parameters(of=name)
        assert type(torch_twin(name, params)).__module__.startswith("torch.optim")
        assert type(torch_twin(name.upper(), params)) is type(torch_twin(name, params))
    assert torch_twin("momentum", parameters()).param_groups[0]["momentum"] == 0.9


def test_mutants_are_those_of_the_specimens():
    """The public tuple has every mutant of a specimen, of that optimizer and named once."""
    for name, specimen in specimens().items():
        assert specimen.mutants
        assert {mutant.optimizer for mutant in specimen.mutants} == {name}
        assert all(each in MUTANTS for each in specimen.mutants)


# pairs ----------------------------------------------------------------------------------------------------------------

values = st.lists(st.sampled_from([0, 0.0, False, None, "a", (1, 2), [1, 2]]), min_size=1, max_size=3)
tables = st.dictionaries(st.sampled_from("abcdef"), values, min_size=1, max_size=4)


def pairs(rows: list[dict[str, Any]], defaults: dict[str, Any] | None = None) -> set:
    """Return which two values stand together in a row; in a row with one option, which value."""
    names = {name for row in rows for name in row}
    completed = [{**dict.fromkeys(names, "left out"), **(defaults or {}), **row} for row in rows]
    return {
        frozenset((name, level(row[name])) for name in chosen)
        for row in completed
        for chosen in itertools.combinations(sorted(names), min(2, len(names)))
    }


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(tables, min_size=1, max_size=3))
def test_every_pair_of_values_is_covered(several):
    """What stands together in the full product stands together in the selection, in no more rows, each time alike."""
    rows = [row for table in several for row in product(table)]
    chosen = pairwise(rows)
    assert pairs(chosen) == pairs(rows)
    assert len(chosen) <= len(rows)
    assert chosen == pairwise(rows)
    assert all(any(row is other for other in rows) for row in chosen)


def test_values_that_python_holds_equal_are_told_apart():
    """0, 0.0 and False are different options, and so are two tensors that print alike."""
    close = [torch.tensor(0.01), torch.tensor(0.01000001)]
    assert len(pairwise(product({"a": (0, 0.0, False)}))) == 3
    assert len(pairwise(product({"a": close}))) == 2


def test_few_rows_are_enough():
    """Of ten switches ten rows are enough, of 1024; of a table with two options the full product is needed."""
    assert len(pairwise(product(dict.fromkeys("abcdefghij", (False, True))))) <= 10
    assert len(pairwise(product({"a": (1, 2, 3), "b": (1, 2)}))) == 6
    assert pairwise([]) == []


def test_an_option_left_out_has_its_default():
    """With defaults, a row that leaves an option out counts as one that gives the default."""
    rows = [{"a": 1}, {"a": 1, "b": 0}, {"a": 1, "b": 1}]
    assert pairwise(rows) == rows
    assert pairwise(rows, {"b": 0}) == [rows[0], rows[2]]


@pytest.mark.parametrize("name", optizoo.list_optimizers())
def test_the_pairs_of_a_specimen_are_some_of_its_combinations(name: str):
    """What ``verify`` takes by default has every pair of the full table, and is in it."""
    specimen = specimens()[name]
    parameters = inspect.signature(optimizer_class(name)).parameters
    defaults = {option: parameter.default for option, parameter in parameters.items()}
    few, every = specimen.combinations(pairs=True), specimen.combinations()
    assert pairs(few, defaults) == pairs(every, defaults)
    assert len(few) < len(every) or len(every) <= 4


# verify ---------------------------------------------------------------------------------------------------------------

CASES = [("adam", {"amsgrad": True}), ("lion", {}), ("sgd", {"lr": torch.tensor(0.01)})]
TYPES = [torch.float32, torch.bfloat16]


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch):
    """Where the system has no semaphores, or the program cannot be imported again, one process does all the work."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no semaphores")

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", refuse)
    assert all(result.passed for result in verify(TYPES, steps=4, combinations=CASES[:1], jobs=2))


def test_cells_are_counted_beforehand():
    """A progress bar knows how many cells there will be."""
    assert count_cells(TYPES, "cpu", CASES) == len(list(verify(TYPES, steps=2, combinations=CASES)))
