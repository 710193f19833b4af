"""Run the tests of tests/contract, keep what came of them in benchmarks/works_with.json, and print README's table.

pip install -c constraints.txt -e '.[dev,integrations]'
python scripts/works_with.py                         # arguments go to pytest, such as --slow
"""

import argparse
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from optizoo.lab.records import environment

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "works_with.json"
LIBRARIES = ("torch", "accelerate", "pytorch-lightning", "transformers")


class Collector:
    """A pytest plugin that counts by module what passed, failed and was skipped, with the reasons."""

    def __init__(self):
        self.rows: dict[str, dict[str, Any]] = {}

    def row(self, path: str) -> dict[str, Any]:
        """Return the counts of a module, by its path below the root."""
        empty = {"works_with": None, "held_to": None, "passed": 0, "failed": 0, "skipped": 0, "reasons": {}}
        return self.rows.setdefault(path, empty)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Read what a module says of itself."""
        for item in items:
            module = getattr(item, "module", None)
            if isinstance(module, ModuleType) and hasattr(module, "WORKS_WITH"):
                names = {"works_with": module.WORKS_WITH, "held_to": module.HELD_TO}
                self.row(item.nodeid.partition("::")[0]).update(names)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that cannot be imported, or that skips itself, which its constants are then read from."""
        if report.outcome == "passed":
            return
        path = report.nodeid.partition("::")[0]
        row = self.row(path)
        text = (ROOT / path).read_text(encoding="utf-8")
        for key, constant in (("works_with", "WORKS_WITH"), ("held_to", "HELD_TO")):
            found = re.search(rf'^{constant} = "(.*)"$', text, re.MULTILINE)
            row[key] = found and found[1]
        self._count(row, report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: its call, or the part around it that failed or skipped it."""
        if report.when == "call" or report.outcome != "passed":
            self._count(self.row(report.nodeid.partition("::")[0]), report)

    @staticmethod
    def _count(row: dict[str, Any], report: pytest.CollectReport | pytest.TestReport) -> None:
        row[report.outcome] += 1
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            row["reasons"][reason] = row["reasons"].get(reason, 0) + 1


def versions() -> dict[str, str | None]:
    """Return the version of every library, ``None`` where it is not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def format_markdown(record: Mapping[str, Any]) -> str:
    """Return the table of a record, for README."""
    lines = ["| works with | held to | tests passed | test |", "| --- | --- | --- | --- |"]
    for path, row in record["rows"].items():
        outcome = str(row["passed"])
        if row["failed"]:
            outcome += f", {row['failed']} **failed**"
        if row["skipped"]:
            outcome += f", {row['skipped']} skipped"
        test = f"[`{Path(path).name}`]({path})"
        lines.append(f"| {row['works_with']} | {row['held_to']} | {outcome} | {test} |")
    return "\n".join(lines)


def main() -> int:
    """Run the tests; return pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RECORD, metavar="PATH", help="where the record goes (%(default)s)")
    options, arguments = parser.parse_known_args()
    os.chdir(ROOT)
    collector = Collector()
    status = pytest.main(["tests/contract", *arguments], plugins=[collector])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    rows = {path: row for path, row in sorted(collector.rows.items()) if row["works_with"]}
    record = {"environment": environment(), "versions": versions(), "rows": rows}
    options.json.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(format_markdown(record))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
