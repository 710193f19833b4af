"""The script that writes README's table of who works with optizoo: it counts what ran, and says what did not."""

import json
import subprocess
from pathlib import Path

import torch

from tests.processes import Started

SCRIPT = Path(__file__).parents[1] / "scripts" / "works_with.py"

MIXED = """
import pytest
WORKS_WITH = "A loop"
HELD_TO = "bitwise"

@pytest.mark.parametrize("name", ["adam", "sgd", "no optimizer"])
def test_passes(name): pass

def test_fails(): assert False

@pytest.fixture
def broken(): raise OSError
def test_cannot_begin(broken): pass

def test_skipped(): pytest.skip("needs a moon")
"""

WITHOUT_LIBRARY = """
import pytest
WORKS_WITH = "A library"
HELD_TO = "1e-6"
library = pytest.importorskip("no_such_library", reason="needs no_such_library")

def test_passes(): pass
"""

BROKEN = """
WORKS_WITH = "Nothing"
HELD_TO = "bitwise"
import no_such_library
"""

GOOD = """
WORKS_WITH = "An easy one"
HELD_TO = "bitwise"
def test_passes(): pass
"""


def works_with(folder: Path, files: dict[str, str]) -> tuple[subprocess.CompletedProcess, Path]:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    record = folder.parent / "record.json"
    code = f"import os, runpy; os.chdir({str(folder)!r}); runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    arguments = ["--folder", str(folder), "--json", str(record), "-p", "no:cacheprovider"]
    process = Started(code, folder.parent, *arguments)
    output, errors = process.communicate(300)
    return subprocess.CompletedProcess(arguments, process.returncode or 0, output, errors), record


def test_counts_what_ran(tmp_path: Path):
    """Passed, failed and skipped tests are told apart, a missing library is named, and the exit status is 1."""
    files = {"test_mixed.py": MIXED, "test_library.py": WITHOUT_LIBRARY, "test_broken.py": BROKEN, "test_good.py": GOOD}
    done, path = works_with(tmp_path / "contract", files)
    assert done.returncode == 1, done.stderr
    tried = f"torch {torch.__version__.partition('+')[0]}"
    folder = "tests/contract"
    assert done.stdout.splitlines()[-6:] == [
        "| works with | held to torch's optimizer | tests passed | tried with |",
        "| --- | --- | --- | --- |",
        f"| [A library]({folder}/test_library.py) | 1e-6 | not run: needs no_such_library | "
        f"{tried}, no_such_library missing |",
        f"| [A loop]({folder}/test_mixed.py) | bitwise | 3 of 5 (1 skipped: needs a moon) | {tried} |",
        f"| [An easy one]({folder}/test_good.py) | bitwise | 1 | {tried} |",
        f"| [Nothing]({folder}/test_broken.py) | bitwise | 0 of 1 | {tried} |",
    ]
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [row["optimizers"] for row in record["rows"]] == [[], ["adam", "sgd"], [], []]
    assert record["environment"]["torch"] == torch.__version__


def test_all_passed(tmp_path: Path):
    """Where every file passes, the exit status is 0."""
    done, _ = works_with(tmp_path / "contract", {"test_good.py": GOOD})
    assert done.returncode == 0, done.stderr


def test_a_file_without_a_name(tmp_path: Path):
    """A file that does not name its row is refused before anything runs."""
    done, path = works_with(tmp_path / "contract", {"test_nameless.py": "HELD_TO = 'bitwise'\n"})
    assert done.returncode == 1
    assert "test_nameless.py has no string WORKS_WITH" in done.stderr
    assert not path.exists()
