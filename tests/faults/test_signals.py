"""Signals: a run that is told to stop saves a checkpoint, exits with the status of the signal, and can go on.

That the step under way is finished, and no further one begun, is tested beside training
(``tests/lab/test_train.py::test_resumed_run_is_the_same_run``).
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optizoo.lab import checkpoint as checkpoints
from optizoo.lab.records import Record
from tests.faults.conftest import CONFIG
from tests.processes import Started

COMMAND = "import sys; from optizoo.cli import main; sys.exit(main(sys.argv[1:]))"
# Each step takes ten minutes: what a signal does then does not wait for its end.
STUCK = """
import time
from optizoo.lab.train import objective
objective.cross_entropy = lambda *_: print('stuck') or time.sleep(600)
"""
LONG = ("--train.epochs", "1000000", "--train.evaluate_every", "10000")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """A function that starts the command line in a process of its own, which does not outlive the test."""
    processes = []

    def run(*arguments: str, before: str = "") -> Started:
        processes.append(Started(before + COMMAND, tmp_path, *arguments))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(happened: Callable[[], object], process: Started) -> None:
    for _ in range(1200):
        if happened():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("it did not happen in a minute")


@pytest.mark.parametrize(
    ("number", "status", "command"),
    [
        pytest.param(signal.SIGTERM, 143, "train", id="SIGTERM, train"),
        pytest.param(signal.SIGINT, 130, "train", id="SIGINT, train", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "compare", id="SIGTERM, compare", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "compare", id="SIGINT, compare"),
    ],
)
def test_signal_saves_and_exits(config: Path, start: Callable[..., Started], number: int, status: int, command: str):
    """SIGTERM and SIGINT leave a checkpoint, the status 143 or 130, and one line that says how to go on."""
    record, saved = Path("here/record.jsonl"), Path("here/checkpoint.pt")
    if command == "compare":
        config.write_text(CONFIG.replace("[optimizer]", "[[optimizers]]"), encoding="utf-8")
        stem = "here/cells/adam-constant-seed0-optizoo"
        record, saved = Path(f"{stem}.jsonl"), Path(f"{stem}.checkpoint.pt")
    process = start(command, str(config), "--out", "here", *LONG)
    wait_for(lambda: record.exists() and record.read_text(encoding="utf-8").count("\n") > 3, process)
    begun = time.perf_counter()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    print(f"{command} ended {time.perf_counter() - begun:.2f} s after signal {number}")
    assert process.returncode == status
    assert error.startswith("interrupted: ")
    assert "goes on from here" in error
    assert error.count("\n") == 1
    state = checkpoints.load(saved)
    assert state["status"] is None
    assert state["step"] >= Record.read(record).epochs[-1]["step"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_second_signal_acts_at_once(config: Path, start: Callable[..., Started], number: int, status: int):
    """A run that does not come to the end of its step is ended by the second signal, without waiting for it."""
    process = start("train", str(config), "--out", "here", before=STUCK)
    wait_for(lambda: process.stdout() == "stuck\n", process)
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status
