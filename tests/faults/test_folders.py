"""Run folders: one process at a time, and nothing of anybody's is overwritten.

That a folder belongs to one config and one set of data is tested beside ``compare`` and the command line
(``tests/lab/test_compare.py``, ``tests/test_cli.py``).
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from optizoo import cli
from optizoo.lab.folder import claim
from optizoo.lab.run_folder import RUN
from tests.faults.conftest import CONFIG, Told
from tests.faults.test_signals import LONG, start, wait_for  # noqa: F401  (a fixture)
from tests.processes import Started


@pytest.mark.parametrize("command", ["train", "compare"])
def test_second_process_is_refused(config: Path, told: Told, start: Callable[..., Started], command: str):  # noqa: F811
    """Of two processes in one run folder the second is refused; one that is killed leaves no lock behind."""
    comparison = Path("comparison.toml")
    comparison.write_text(CONFIG.replace("[optimizer]", "[[optimizers]]"), encoding="utf-8")
    path = str(config if command == "train" else comparison)
    process = start(command, path, "--out", "here", *LONG)
    pattern = "record.jsonl" if command == "train" else "cells/*.jsonl"
    wait_for(lambda: [each for each in Path("here").glob(pattern) if each.stat().st_size], process)
    others = ("--resume",) if command == "train" else ("--fresh",)
    for extra in ((), others) if command == "compare" else (others, ("--fresh",)):
        assert "another process works in here: wait for it, or use another folder" in told(
            command, path, "--out", "here", *LONG, *extra
        )
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert cli.main([command, path, "--out", "here", "--fresh", "--train.epochs", "1"]) == 0


def a_file() -> None:
    Path("here").write_text("mine", encoding="utf-8")


def foreign_files() -> None:
    Path("here").mkdir()
    Path("here/record.jsonl").write_text("mine", encoding="utf-8")


def damaged_config() -> None:
    claim(Path("here"), RUN)
    Path("here/config.json").write_text("{", encoding="utf-8")


def config_that_is_a_folder() -> None:
    claim(Path("here"), RUN)
    Path("here/config.json").mkdir(parents=True)


def record_that_is_a_folder() -> None:
    claim(Path("here"), RUN)
    Path("here/record.jsonl/deeper").mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        pytest.param(a_file, [], "here: File exists: it is no folder; give another path", id="file"),
        pytest.param(foreign_files, [], "here holds files but no run (record.jsonl): give a new", id="foreign"),
        pytest.param(damaged_config, ["--resume"], "here/config.json: is not valid JSON", id="damaged-config"),
        pytest.param(config_that_is_a_folder, [], "here/config.json: Is a directory: it is a folder", id="config"),
        pytest.param(
            record_that_is_a_folder, ["--fresh"], "here/record.jsonl: Is a directory: it is a folder", id="record"
        ),
    ],
)
def test_folder_that_cannot_be_used(
    config: Path, told: Told, make: Callable[[], None], arguments: list[str], message: str
):
    """What stands in the way in a run folder is named, with the remedy, and kept."""
    make()
    before = {path: path.is_file() and path.read_bytes() for path in (Path("here"), *Path("here").rglob("*"))}
    assert message in told("train", str(config), "--out", "here", *arguments)
    for path, content in before.items():
        assert path.exists()
        assert (path.is_file() and path.read_bytes()) == content


def test_folder_below_a_file(config: Path, told: Told):
    """A folder that cannot be made is named."""
    a_file()
    assert f"{os.path.join('here', 'runs')}: Not a directory: it is no folder" in told(
        "train", str(config), "--out", "here/runs"
    )
