"""The configs that are shipped: they have names, say what they are, and are copied over nothing."""

import os
import threading
import tomllib
from pathlib import Path

import pytest

from optizoo import cli
from optizoo.lab import shipped
from optizoo.lab.config import load_compare, load_run

NAMES = shipped.names()


def test_the_names_are_those_of_the_files():
    """What lies in ``configs/`` is what is shipped."""
    assert sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.toml")) == NAMES
    assert "quickstart" in NAMES


def test_a_wheel_has_them():
    """What goes into the package beside its modules includes every config; there is one copy of them."""
    project = Path(__file__).parents[2]
    setup = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    taken = {path.stem for pattern in setup["package-data"]["optizoo"] for path in (project / "optizoo").glob(pattern)}
    assert {*NAMES} <= taken
    assert shipped.FOLDER.resolve() == (project / "configs").resolve()


def test_configs_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]):
    """``optizoo configs`` prints name, command and a sentence."""
    assert cli.main(["configs"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, *_ in lines] == NAMES
    assert {command for _, command, _ in lines} <= {"train", "compare", "sweep"}
    assert all(what.endswith(".") and len(what) > 20 for *_, what in lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_its_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a folder without configs a name, with or without its ending, is read as the shipped file."""
    monkeypatch.chdir(tmp_path)
    assert shipped.find(name) == shipped.find(f"{name}.toml")
    if shipped.about(name)[0] in ("train", "compare"):
        load = load_run if shipped.about(name)[0] == "train" else load_compare
        assert load(shipped.find(name)).name


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody's own quickstart.toml is theirs; a folder of that name is no config."""
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    assert shipped.find("quickstart").parent != Path()
    Path("quickstart.toml").write_text("name = 'mine'", encoding="utf-8")
    assert shipped.find("quickstart.toml") == Path("quickstart.toml")


@pytest.mark.parametrize("to", [[], ["."], ["mine.toml"], ["folder"]], ids=["default", "here", "file", "folder"])
def test_a_copy_is_written_once(
    to: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """``--copy`` writes the file as it is; the second time it says that there is one, and leaves it."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert cli.main(["configs", "--copy", "quickstart", *to]) == 0
    (copied,) = Path().rglob("*.toml")
    assert copied.read_bytes() == shipped.find(shipped.FOLDER / "quickstart.toml").read_bytes()
    assert f"optizoo compare {copied}" in capsys.readouterr().out
    copied.write_text("edited", encoding="utf-8")
    assert cli.main(["configs", "--copy", "quickstart", *to]) == 2
    assert capsys.readouterr().err == (
        f"error: {copied} exists, and is left alone: give another path behind --copy quickstart\n"
    )
    assert copied.read_text(encoding="utf-8") == "edited"


def test_a_copy_goes_into_a_pipe(tmp_path: Path) -> None:
    """A pipe or device is no file that must be left alone: it takes the copy."""
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert shipped.copy("quickstart", pipe) == pipe
    reader.join()
    assert got == [(shipped.FOLDER / "quickstart.toml").read_bytes()]


def test_a_copy_may_go_to_a_pipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Through ``/dev/stdout`` comes the config and nothing else; its name may have the ending."""
    assert cli.main(["configs", "--copy", "quickstart.toml", "/dev/stdout"]) == 0
    assert tomllib.loads(capfd.readouterr().out)["name"] == "quickstart"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["configs", "--copy", "quikstart"], "did you mean 'quickstart'?", id="name"),
        pytest.param(["configs", "--copy", "quickstart", "no/q.toml"], "make its folder no first", id="folder"),
        pytest.param(["configs", "--copy", "quickstart", "link.toml"], "link.toml exists", id="dangling-link"),
        pytest.param(["configs", "--copy", "quickstart", "a", "b"], "at most one path", id="paths"),
        pytest.param(["compare", "quikstart"], "did you mean 'quickstart'?", id="compare"),
        pytest.param(["compare", "configs/quickstart.toml"], "did you mean 'quickstart'?", id="path-of-the-project"),
        pytest.param(["train", "."], ".: cannot be read (Is a directory)", id="folder-for-a-config"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """What cannot be found or written is told in one line, with the remedy."""
    monkeypatch.chdir(tmp_path)
    Path("link.toml").symlink_to("nowhere")
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
