"""Run tests/contract and write down who works with optizoo's optimizers as with torch's: a record, and README's table.

Every file there names its row in ``WORKS_WITH`` and says in ``HELD_TO`` how it compares. What is counted is what ran.

pip install -c constraints.txt -e '.[dev,integrations]'
python scripts/works_with.py                         # other arguments go to pytest, such as --slow
"""

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import pytest

import optizoo
from optizoo.lab.files import write
from optizoo.lab.records import environment

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "contract"
RECORD = ROOT / "benchmarks" / "works_with.json"


def described(path: Path) -> dict[str, Any]:
    """Return what a test file says of itself, read without importing it: it may need what is not installed.

    Returns:
        ``module``, ``works_with``, ``held_to``, and ``versions`` of torch and of the libraries that the file asks for
        with ``pytest.importorskip``, ``None`` for those that are missing.

    Raises:
        ValueError: The file has no ``WORKS_WITH`` or no ``HELD_TO``.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for name in ("WORKS_WITH", "HELD_TO"):
        if not isinstance(constants.get(name), str):
            raise ValueError(f"{path.name} has no string {name}, from which its row is made; give it one")
    libraries = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "pytest.importorskip"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]
    return {
        "module": path.name,
        "works_with": constants["WORKS_WITH"],
        "held_to": constants["HELD_TO"],
        "versions": {library: _version(library) for library in ("torch", *libraries)},
    }


def _version(module: str) -> str | None:
    distributions = packages_distributions().get(module, [module])
    try:
        return version(distributions[0]).partition("+")[0]
    except PackageNotFoundError:
        return None


class Results:
    """A plugin of pytest that counts, file by file, what passed, failed and was skipped, and why."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.reasons: dict[str, Counter[str]] = {}
        self.optimizers: dict[str, set[str]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Note the optimizers of the zoo that a test is given by name."""
        arguments = item.callspec.params.values() if hasattr(item, "callspec") else ()  # pyright: ignore[reportAttributeAccessIssue]
        names = {value for value in arguments if isinstance(value, str)} & set(optizoo.list_optimizers())
        self.optimizers.setdefault(item.path.name, set()).update(names)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a file that could not be imported as a failure, and one that was skipped as one skip."""
        if report.outcome != "passed":
            self._count(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or by what went wrong around it."""
        if report.when == "call" or report.outcome != "passed":
            self._count(report)

    def _count(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        module = Path(report.nodeid.partition("::")[0]).name
        self.counts.setdefault(module, Counter())[report.outcome] += 1
        if report.outcome == "skipped":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.reasons.setdefault(module, Counter())[reason.removeprefix("Skipped: ")] += 1


def measure(folder: Path, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Run the tests of a folder and return the record: the environment, and a row for every file.

    Args:
        folder: Where the files of tests lie.
        arguments: More arguments of pytest, such as ``--slow``.

    Raises:
        ValueError: A file does not name its row.
        RuntimeError: pytest could not run.
    """
    rows = [described(path) for path in sorted(folder.glob("test_*.py"))]
    results = Results()
    own = ["-o", "addopts=--strict-markers", "--continue-on-collection-errors", "-q", str(folder)]
    status = pytest.main([*own, *arguments], [results])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {status!r}; its output says why")
    for row in rows:
        module = row["module"]
        counts = results.counts.get(module, Counter())
        row |= {outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")}
        row["reasons"] = dict(results.reasons.get(module, {}))
        row["optimizers"] = sorted(results.optimizers.get(module, ()))
    rows.sort(key=lambda row: re.sub(r"\W", "", row["works_with"]).lower())
    return {"environment": environment(), "rows": rows}


def format_markdown(record: Mapping[str, Any]) -> str:
    """Return the table of a record, for README: a row for each file of tests that passed, or why it did not."""
    lines = ["| works with | held to torch's optimizer | tests passed | tried with |", "| --- | --- | --- | --- |"]
    for row in record["rows"]:
        versions = ", ".join(f"{name} {found or 'missing'}" for name, found in row["versions"].items())
        name = f"[{row['works_with']}](tests/contract/{row['module']})"
        lines.append(f"| {name} | {row['held_to']} | {_outcome(row)} | {versions} |")
    return "\n".join(lines)


def _outcome(row: Mapping[str, Any]) -> str:
    """Say how many tests passed, and of how many if that is not all."""
    reasons = "; ".join(row["reasons"])
    ran = row["passed"] + row["failed"]
    if not ran:
        return f"not run: {reasons}" if reasons else "not run"
    passed = f"{row['passed']} of {ran}" if row["failed"] else str(row["passed"])
    return f"{passed} ({row['skipped']} skipped: {reasons})" if row["skipped"] else passed


def main() -> int:
    """Run, write the record, print the table; 1 if a test failed or a file had none that ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tests lie (default: tests/contract)")
    parser.add_argument("--json", type=Path, default=RECORD, metavar="PATH", help="where the record goes (%(default)s)")
    options, arguments = parser.parse_known_args()
    record = measure(options.folder, arguments)
    write(options.json, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(format_markdown(record))
    return int(any(row["failed"] or not row["passed"] for row in record["rows"]))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
