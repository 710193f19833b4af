"""The house: what may import what, and how long a rule may be."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import optizoo
from optizoo import rules, zoo

PACKAGE = Path(optizoo.__file__).parent

# Every module or package, and the floor on which it stands. Imports point down, or sideways inside one package.
FLOORS = {
    "schedules": 0,
    "tables": 0,
    "streams": 0,
    "core.names": -2,
    "core.master": -1,
    "core.checks": -1,
    "core.options": 0,
    "core.loading": 0,
    "core.processes": -1,
    "core.rule": 0,
    "core.overlap": 0,
    "backends.process": 0,
    "backends.formulas": 0,
    "core.declaration": 1,
    "backends.trace": 1,
    "backends.loop": 1,
    "backends.build": 1,
    "backends.proof": 5,
    "backends.stages": 2,
    "backends.emit_c_stages": 3,
    "backends.emit_c": 4,
    "backends.emit_triton": 2,
    "backends.emit_triton_stages": 3,
    "backends.foreach": 2,
    "backends.in_place": 3,
    "backends.fused": 7,
    "backends.fused_cuda": 6,
    "backends.reader": 2,
    "backends.plan": 8,
    "backends.sparse": 9,
    "backends.finite": 8,
    "backends": 8,
    "rates": 1,
    "schedule_lr": 2,
    "sequential_lr": 3,
    "schedulers": 6,
    "lr_scheduler": 7,
    "core.bucket": 9,
    "core.duplicates": 10,
    "core.groups": 9,
    "core.state": 10,
    "core.checkpoint": 11,
    "core.compiled": 12,
    "core.evaluation": 12,
    "core.planner": 10,
    "core.optimizer": 13,
    "core.decay": 14,
    "core.explain": 14,
    "core": 14,
    "zoo": 15,
    "rules": 16,
    "optimizers": 16,
    "combinators": 1,
    "custom": 15,
    "groups": 1,
    "testing": 17,
    "lab": 18,
    "cli": 19,
    "__main__": 20,
    "": 20,
}


def floor(module: str) -> tuple[str, int]:
    """Return the entry of FLOORS under which ``module`` (without ``optizoo.``) falls, and its floor."""
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return module, FLOORS[module]


def imports(path: Path) -> set[str]:
    """Return the modules of optizoo that the file imports, without ``optizoo.``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            assert node.module is not None
            candidates = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in candidates if is_module(name)}
            found.update(modules or {node.module})
    return {name.removeprefix("optizoo").removeprefix(".") for name in found if name.split(".")[0] == "optizoo"}


def is_module(name: str) -> bool:
    base = PACKAGE.parent.joinpath(*name.split("."))
    return base.with_suffix(".py").exists() or (base / "__init__.py").exists()


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    """A module imports only from floors below its own, or from its own package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    module = ".".join(parts).removesuffix("__init__").removesuffix(".")
    home, own = floor(module)
    for imported in imports(path):
        target, height = floor(imported)
        package = home in ("lab", "testing") and target == home
        if imported == "" and own > FLOORS["testing"]:
            continue  # the lab uses public names, so it may read the shop window
        assert height < own or package or target == home, f"{module} (floor {own}) imports {imported} (floor {height})"


PAGES = [Path(page.__file__ or "") for page in zoo.pages()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_imports_only_core(path: Path):
    """The heart stands alone: a page knows torch and the core, no other page and no execution."""
    assert {name.partition(".")[0] for name in imports(path)} == {"core"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_short(path: Path):
    """A page has at most 90 lines for each of its optimizers: rule, class and documentation."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90 * sum(line.startswith("class ") for line in lines)


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.stem)
def test_the_core_is_made_of_short_modules(path: Path):
    """No module of the core has more than 350 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


RULES = [function for _, function in inspect.getmembers(rules, inspect.isfunction)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_is_short_and_documented(rule):
    """A rule has at most 25 lines beside its docstring, and the docstring links the paper."""
    doc = inspect.getdoc(rule)
    assert doc is not None
    assert "Source: " in doc
    assert len(inspect.getsource(rule).splitlines()) - len((rule.__doc__ or "").splitlines()) <= 25


def test_import_loads_torch_and_nothing_else():
    """``import optizoo``, and a name of it, add nothing but optizoo and the standard library to what torch loads."""
    code = (
        "import sys, torch; before = set(sys.modules); import optizoo; optizoo.Adam; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - {'optizoo', 'torch'} - set(sys.stdlib_module_names)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
