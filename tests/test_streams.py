"""Where a command prints: closed and full streams, readers that have gone, and terminals of few characters."""

import os
from pathlib import Path

import pytest

from tests.processes import Started

MAIN = "\nfrom optizoo.cli import main; sys.exit(main(sys.argv[1:]))"
CLOSED = "import os, sys; [os.close(number) for number in {numbers}]; {names} = None" + MAIN
FULL = "import os, sys; [os.dup2(os.open('/dev/full', os.O_WRONLY), number) for number in {numbers}]" + MAIN
PLAIN = """
import sys
sys.stdout.reconfigure(encoding="{encoding}", errors="strict")
sys.stderr.reconfigure(encoding="{encoding}", errors="strict")
from optizoo import streams
streams.prepare()
print("0.5 ± 0.1 – 動")
"""


def run(code: str, folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    process = Started(code, folder, *arguments)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


@pytest.mark.parametrize(
    ("numbers", "names", "arguments", "status", "errors"),
    [
        pytest.param((1,), "sys.stdout", ["list"], 0, "", id="stdout"),
        pytest.param((2,), "sys.stderr", ["list"], 0, "", id="stderr"),
        pytest.param((0, 1, 2), "sys.stdin = sys.stdout = sys.stderr", ["list"], 0, "", id="all"),
        pytest.param((2,), "sys.stderr", ["train", "none.toml"], 2, "", id="stderr for an error"),
        pytest.param((1,), "sys.stdout", ["train", "none.toml"], 2, "error: none.toml: cannot", id="stdout, an error"),
    ],
)
def test_closed_streams(
    tmp_path: Path, numbers: tuple[int, ...], names: str, arguments: list[str], status: int, errors: str
):
    """A command whose streams are closed does its work, and tells the outcome in its status."""
    found = run(CLOSED.format(numbers=numbers, names=names), tmp_path, *arguments)
    assert found[0] == status
    assert found[2].startswith(errors)
    assert bool(found[2]) is bool(errors)
    assert (numbers == (2,) and status == 0) is bool(found[1])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full to write to")
@pytest.mark.parametrize(
    ("numbers", "arguments", "errors"),
    [
        pytest.param((1,), ["list"], "error: standard output: No space left on device: make room", id="stdout"),
        pytest.param((1, 2), ["list"], "", id="stdout and stderr"),
        pytest.param((2,), ["train", "none.toml"], "", id="stderr"),
    ],
)
def test_full_streams(tmp_path: Path, numbers: tuple[int, ...], arguments: list[str], errors: str):
    """A full disk behind a stream is told in one line where there is room for it, and by the status 2."""
    found = run(FULL.format(numbers=numbers), tmp_path, *arguments)
    assert found[0] == 2
    assert found[2].startswith(errors)
    assert found[2].count("\n") == bool(errors)


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("ascii", b"0.5 +- 0.1 - ?\n"), ("latin-1", b"0.5 \xb1 0.1 - ?\n"), ("utf-8", "0.5 ± 0.1 – 動\n".encode())],
)
def test_terminals_of_few_characters(tmp_path: Path, encoding: str, printed: bytes):
    """Characters that a terminal lacks are written by ones that it has."""
    process = Started(PLAIN.format(encoding=encoding), tmp_path)
    process._process.join(120)
    assert (tmp_path / "0.stdout").read_bytes() == printed
    assert process.returncode == 0
