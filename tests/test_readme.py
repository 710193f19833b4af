"""What README says holds: its examples run, its files exist, its numbers are those of the records."""

import json
import re
from pathlib import Path

import optizoo
from optizoo.lab.book import verdicts
from optizoo.lab.step_benchmark import format_markdown
from optizoo.testing import MUTANTS
from scripts import lecture_table, works_with, zoo_table
from tests import documents

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run():
    """The Python blocks run, one after the other, as a reader would paste them."""
    assert isinstance(documents.run_python(ROOT / "README.md")["optimizer"], optizoo.AdamW)


def test_files_that_are_named_exist():
    """Links into the repository and configs in commands lead somewhere."""
    links = documents.links(README)
    commands = re.findall(r"(?:configs|scripts|tests)/\w+\.(?:toml|py)", README)
    assert links
    assert commands
    for name in [*links, *commands]:
        assert (ROOT / name).exists(), name


def test_the_number_of_mutants():
    """README counts the mutants right."""
    assert f"all {len(MUTANTS)} deliberate mistakes" in README


def test_accuracies_are_those_of_the_records():
    """Every accuracy in the table stands in the kept results, with its standard deviation."""
    recorded = set()
    for name in ("cifar10_linear", "cifar10_two_layer"):
        for line in (ROOT / "benchmarks" / name / "results.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            recorded.add(f"{row['test_accuracy_mean'] * 100:.2f} ± {row['test_accuracy_std'] * 100:.2f} %")
    compared = re.sub(r"<!-- sweep .*?<!-- end of sweep -->", "", README, flags=re.DOTALL)
    shown = re.findall(r"\d\d\.\d\d ± \d\.\d\d %", compared)
    assert len(shown) == 12
    assert set(shown) == recorded


def test_sweeps_are_those_of_the_records():
    """The leaderboards are the kept ones, row by row: accuracy, points behind the first with interval, group."""
    sweeps = re.findall(r"<!-- sweep (\w+) -->\n+(.*?)\n+<!-- end of sweep -->", README, re.DOTALL)
    assert sweeps
    for name, table in sweeps:
        board = (ROOT / "benchmarks" / "sweeps" / name / "leaderboard.txt").read_text(encoding="utf-8").split("\n\n")[0]
        kept = [re.split(r"  +", line) for line in board.splitlines()[2:]]
        shown = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
        assert [row[0].lower() for row in shown] == [row[0] for row in kept]
        assert [row[1:] for row in shown] == [
            [accuracy.replace(" (10)", " %"), behind, group] for _, accuracy, behind, group, *_ in kept
        ]


def test_epoch_times_are_those_of_the_record():
    """The table of epoch times is the kept record."""
    for row in json.loads((ROOT / "benchmarks" / "epoch_cpu.json").read_text(encoding="utf-8"))["rows"]:
        ratios = f"{row['in_memory_over_lab']:.2f} | {row['dataloader_over_lab']:.1f} |"
        assert f"| {row['optimizer']} | {row['lab_s']:.3f} | {row['in_memory_s']:.3f} |" in README
        assert ratios in README


def test_step_times_are_those_of_the_record():
    """The table of step times is what the kept record renders to: neither stands there without the other."""
    record = ROOT / "benchmarks" / "step_cpu.json"
    kept = [format_markdown(json.loads(record.read_text(encoding="utf-8")))] if record.exists() else []
    shown = re.findall(r"<!-- step benchmark -->\n+(.*?)\n+<!-- end of step benchmark -->", README, re.DOTALL)
    assert shown == kept


def test_works_with_is_what_the_record_says():
    """The table of who works with optizoo is what the kept record renders to, and in the record all tests passed."""
    record = json.loads(works_with.RECORD.read_text(encoding="utf-8"))
    shown = re.findall(r"<!-- works with -->\n+(.*?)\n+<!-- end of works with -->", README, re.DOTALL)
    assert shown == [works_with.format_markdown(record)]
    assert [row["module"] for row in record["rows"] if row["failed"] or not row["passed"]] == []


def test_works_with_has_a_row_for_every_file():
    """Every file of contract tests stands in the record, under the name that it gives itself."""
    record = json.loads(works_with.RECORD.read_text(encoding="utf-8"))
    said = [works_with.described(path) for path in works_with.FOLDER.glob("test_*.py")]
    for name in ("module", "works_with", "held_to"):
        assert sorted(row[name] for row in record["rows"]) == sorted(row[name] for row in said)


def test_the_lecture_table_is_what_the_records_say():
    """The table of experiments is what their kept records render to."""
    shown = re.findall(r"<!-- lab -->\n+(.*?)\n+<!-- end of lab -->", README, re.DOTALL)
    assert shown == [verdicts(lecture_table.FOLDER)]


def test_the_zoo_table_is_what_the_pages_give():
    """The table of the zoo is made from its pages."""
    shown = re.findall(r"<!-- zoo -->\n+(.*?)\n+<!-- end of zoo -->", README, re.DOTALL)
    assert shown == [zoo_table.format_markdown()]
