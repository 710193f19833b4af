"""What the tests of faults share: a small run, and the form that every error has on the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from optizoo import cli
from tests.lab.conftest import default_signal_handlers, unpainted  # noqa: F401  (used by every test)

CONFIG = """
name = "small"
[data]
name = "synthetic"
train_size = 64
validation = 16
test_size = 16
[model]
name = "two_layer"
hidden = 8
dropout = 0.5
[optimizer]
name = "adam"
lr = 0.001
[train]
epochs = 3
batch_size = 16
device = "cpu"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of three epochs of four steps, in the current folder, which is empty but for it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return Path(path.name)


Told = Callable[..., str]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """A function that runs a command that must fail, and returns the one line that it prints.

    The exit status is 2, and the traceback comes out with ``--debug`` alone.
    """

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        with pytest.raises(Exception):  # noqa: B017, PT011  (whichever it is, it comes out)
            cli.main([*arguments, "--debug"])
        return error

    return run
