"""Folders: one process at a time, and nothing of anybody's is overwritten or deleted.

That a folder belongs to one config and one set of data is tested beside ``compare`` and the command line
(``tests/lab/test_compare.py``, ``tests/test_cli.py``).
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from optizoo import cli
from optizoo.lab.folder import claim
from optizoo.lab.run_folder import RUN
from tests.faults.conftest import CONFIG, Told
from tests.faults.test_checkpoints import small_disk  # noqa: F401  (a fixture)
from tests.faults.test_signals import LONG, start, wait_for  # noqa: F401  (a fixture)
from tests.processes import Started


@pytest.fixture
def comparison(config: Path) -> Path:
    path = Path("comparison.toml")
    path.write_text(CONFIG.replace("[optimizer]", "[[optimizers]]"), encoding="utf-8")
    return path


@pytest.mark.parametrize("command", ["train", "compare"])
def test_second_process_is_refused(
    config: Path,
    comparison: Path,
    told: Told,
    start: Callable[..., Started],  # noqa: F811
    command: str,
):
    """Of two processes in one run folder the second is refused; one that is killed leaves no lock behind."""
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


# Whose folder it is ---------------------------------------------------------------------------------------------------

COMMANDS = {
    "train": ["train", "small.toml", "--out", "here"],
    "train --resume": ["train", "small.toml", "--out", "here", "--resume"],
    "train --fresh": ["train", "small.toml", "--out", "here", "--fresh"],
    "compare": ["compare", "comparison.toml", "--out", "here"],
    "compare --fresh": ["compare", "comparison.toml", "--out", "here", "--fresh"],
    "lab": ["lab", "momentum_forms", "--steps", "4", "--cut-after", "2", "--out", "here"],
    "lab all": ["lab", "all", "--out", "here"],
}
FOREIGN = {
    "a model": {"config.json": '{"hidden_size": 768}', "checkpoint.pt": "weights"},
    "a config of ours alone": {"config.json": CONFIG, "checkpoint.pt": "weights"},
    "a record": {"record.jsonl": "mine"},
    "a record of events": {"record.jsonl": '{"event": "start"}\n'},
    "cells and pictures": {"config.json": "{}", "environment.json": '{"threads": 1}', "cells/a.jsonl": "", "a.png": ""},
    "a page": {"report.html": "mine", "momentum_forms.jsonl": "mine"},
    "a hidden file": {".git/config": "mine"},
    "a mark of another program": {".optizoo": "mine", "config.json": "{}"},
    "a mark of another kind": {".optizoo": '{"kind": "thesis", "schema": 1}', "config.json": "{}"},
    "a mark of tomorrow": {".optizoo": '{"kind": "%s", "schema": 99}', "config.json": "{}"},
}
KINDS = {"train": "run", "compare": "comparison", "lab": "book of experiments"}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("comparison")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("foreign", FOREIGN)
def test_folders_of_others_are_refused(told: Told, foreign: str, command: str):
    """A folder with files and without our mark is refused by its name, and nothing in it changes."""
    for name, content in FOREIGN[foreign].items():
        path = Path("here", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.replace("%s", KINDS[command.partition(" ")[0]]), encoding="utf-8")
    before = contents(Path("here"))
    error = told(*COMMANDS[command])
    assert "here" in error
    assert "give a new folder, or an empty one, with --out" in error
    assert contents(Path("here")) == before


@pytest.mark.usefixtures("comparison", "unpainted")
@pytest.mark.parametrize("made", ["train", "compare", "lab"])
def test_folders_of_ours_hold_one_kind(told: Told, made: str):
    """A folder of one kind is no place for another: the error says what it holds."""
    assert cli.main(COMMANDS[made]) == 0
    before = contents(Path("here"))
    for name in ("train", "compare", "lab"):
        if name != made:
            assert f"here holds files but no {KINDS[name]}: it holds a {KINDS[made]}" in told(*COMMANDS[name])
    assert contents(Path("here")) == before


@pytest.mark.usefixtures("comparison", "unpainted")
@pytest.mark.parametrize(
    ("made", "again"), [("train", ["--resume"]), ("train", ["--fresh"]), ("compare", []), ("lab", [])]
)
def test_folders_without_a_mark_go_on(made: str, again: list[str]):
    """What a version without marks left, and is whole, gets a mark and goes on."""
    assert cli.main(COMMANDS[made]) == 0
    Path("here/.optizoo").unlink()
    assert cli.main([*COMMANDS[made], *again]) == 0
    assert Path("here/.optizoo").exists()


@pytest.mark.usefixtures("comparison", "unpainted")
@pytest.mark.parametrize("length", [0, 5, 100])
@pytest.mark.parametrize("made", ["train", "compare", "lab"])
def test_folders_without_a_mark_that_had_just_begun(made: str, length: int):
    """What a version without marks left when it was interrupted in the first line of a record goes on, too."""
    assert cli.main(COMMANDS[made]) == 0
    kept = {".optizoo", "config.json", "environment.json"}
    for path in [path for path in Path("here").rglob("*") if path.is_file() and path.name not in kept]:
        if path.suffix == ".jsonl" and path.stem != "results":
            path.write_bytes(path.read_bytes()[:length])
        else:
            path.unlink()
    Path("here/.optizoo").unlink()
    assert cli.main([*COMMANDS[made], *(["--resume"] if made == "train" else [])]) == 0


@pytest.mark.usefixtures("comparison", "unpainted")
@pytest.mark.parametrize("made", ["train", "compare", "lab"])
def test_files_of_others_in_a_folder_of_ours_stay(made: str):
    """What somebody keeps in a folder of ours is left alone, also when we start over."""
    assert cli.main(COMMANDS[made]) == 0
    for name in (
        "notes.txt",
        "figure.png",
        "cells/thesis.txt",
        "cells/notes.jsonl",
        ".checkpoint.pt.mine",
        "old.checkpoint.pt",
    ):
        Path("here", name).parent.mkdir(exist_ok=True)
        Path("here", name).write_text("mine", encoding="utf-8")
    assert cli.main([*COMMANDS[made], *([] if made == "lab" else ["--fresh"])]) == 0
    mine = [path for path, content in contents(Path("here")).items() if content == b"mine"]
    assert len(mine) == 6


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", ".gitkeep", "lost+found", "..optizoo.123"])
def test_folders_that_are_empty_to_their_owner(config: Path, name: str):
    """What a system puts into an empty folder, or we when we were killed, does not make it somebody's."""
    Path("here").mkdir()
    Path("here", name).touch()
    assert cli.main(["train", str(config), "--out", "here"]) == 0


@pytest.mark.usefixtures("comparison", "unpainted")
@pytest.mark.parametrize("command", ["train", "compare", "lab"])
def test_folders_whose_names_are_no_text(command: str):
    """A folder may have a name that is no UTF-8, as on disks of other systems."""
    folder = os.fsdecode(b"caf\xe9")
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes names of UTF-8 alone")
    assert cli.main([*COMMANDS[command][:-1], folder] if command != "lab" else [*COMMANDS["lab"], "--out", folder]) == 0
    if command == "lab":
        assert cli.main(["lab", "book", folder]) == 0


@pytest.mark.usefixtures("comparison", "unpainted")
@pytest.mark.parametrize(
    ("command", "again", "status"),
    [("compare", [], 0), ("train", ["--resume"], 0), ("train", ["--fresh"], 2), ("compare", ["--fresh"], 2)],
)
def test_folders_that_can_only_be_read(
    small_disk: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    command: str,
    again: list[str],
    status: int,
):
    """What is finished can be looked at on a disk that can only be read; what would be written is told."""
    arguments = [*COMMANDS[command][:-1], str(small_disk / "here")]
    assert cli.main(arguments) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    assert cli.main([*arguments, *again]) == status
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {small_disk}/here/.new: Read-only file system: give a folder" if status else "")
