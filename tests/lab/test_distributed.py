"""Several processes train one model: the run is that of one process with the batches of all."""

import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from optizoo.lab import data
from optizoo.lab.config import run_from_dict
from optizoo.lab.records import Record
from optizoo.lab.train import train
from optizoo.lab.train.distributed import Group
from optizoo.lab.train.distributed import joined as joined
from tests.processes import Started

# Of 60 images a batch of 2 x 8 leaves 12 for the last, and one of 2 x 13 leaves 8, one of 2 x 29 leaves 2.
RUNS: dict[str, dict[str, Any]] = {
    "linear": {"train": {"batch_size": 8}},
    "uneven": {"train": {"batch_size": 13, "l1": 0.01, "l2": 0.1}, "optimizer": {"name": "adam", "lr": 1e-3}},
    "last-batch-of-one": {"train": {"batch_size": 29}, "model": {"name": "two_layer", "hidden": 8}},
    "full-batch": {"train": {"full_batch": True}, "optimizer": {"name": "schedulefreesgd", "lr": 0.05}},
    "schedule": {"train": {"batch_size": 8, "max_steps": 10}, "schedule": {"name": "cosine", "warmup_steps": 3}},
    "diverges": {"train": {"batch_size": 8, "l2": 1e5}, "optimizer": {"lr": 1e20}},
    "scaled": {"train": {"batch_size": 8, "scale_lr": True}},
}
SIZES: dict[str, Any] = {"train_size": 60, "validation": 16, "test_size": 16}


def images() -> data.Dataset:
    return data.load("synthetic", **SIZES)


def table(name: str, processes: int = 1) -> dict[str, Any]:
    """Return a run whose batches are those of so many processes."""
    settings = {"epochs": 3, "device": "cpu", "batch_size": 16, **RUNS[name]["train"]}
    return {**RUNS[name], "train": {**settings, "batch_size": processes * settings["batch_size"]}}


TRAIN_ALL = """
import sys, torch
from tests.lab.test_distributed import RUNS, images, joined, run_from_dict, table, train

torch.set_num_threads(1)
with joined() as group:
    runs = {name: train(run_from_dict(table(name)), images(), progress=False) for name in RUNS}
    if not group.rank:
        ends = {name: (run.losses, run.model.state_dict(), run.record.epochs, run.status) for name, run in runs.items()}
        torch.save(ends, sys.argv[1])
"""
COMMAND = "import sys, torch; torch.set_num_threads(1); from optizoo.cli import main; sys.exit(main())"


@contextmanager
def both(code: str, folder: Path, *arguments: str) -> Iterator[list[Started]]:
    """Start two processes, as ``torchrun`` does, but for what watches them."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in "01":
        own = folder / f"{port}-{rank}"
        own.mkdir()
        processes.append(Started(code, own, *arguments, RANK=rank, LOCAL_RANK=rank, **shared))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def ended(processes: list[Started]) -> tuple[list[int | None], str]:
    """Return the statuses of processes when they have ended, and what they said."""
    said = "".join(process.communicate(timeout=120)[1] for process in processes)
    return [process.returncode for process in processes], said


def wait_for(record: Path, epochs: int, processes: list[Started]) -> None:
    """Wait until a record has so many epochs."""
    for _ in range(2400):
        if record.exists() and record.read_text(encoding="utf-8").count('"event": "epoch"') >= epochs:
            return
        assert all(process.returncode is None for process in processes), ended(processes)
        time.sleep(0.05)
    raise AssertionError(f"the run does not come to epoch {epochs}")


def test_two_processes_are_one_with_the_batches_of_both(tmp_path: Path):
    """Losses, weights and records equal those of one process, every image counted once, also in the last batch."""
    with both(TRAIN_ALL, tmp_path, str(tmp_path / "runs.pt")) as processes:
        statuses, said = ended(processes)
    assert statuses == [0, 0], said
    for name, (losses, weights, epochs, status) in torch.load(tmp_path / "runs.pt", weights_only=True).items():
        if name == "scaled":
            assert [epoch["lr"] for epoch in epochs] == [[0.02]] * 3
            continue
        alone = train(run_from_dict(table(name, 2)), images(), progress=False)
        assert status == alone.status, name
        torch.testing.assert_close(losses, alone.losses, rtol=1e-5, atol=0, equal_nan=True, msg=name)
        for each, weight in alone.model.state_dict().items():
            atol = 1e-5 * weight.abs().max().item()
            torch.testing.assert_close(weights[each], weight, rtol=1e-5, atol=atol, msg=f"{name}, {each}")
        for ours, theirs in zip(epochs, alone.record.epochs, strict=True):
            assert [ours[key] for key in ("step", "lr")] == [theirs[key] for key in ("step", "lr")], name
            for key in ("train_loss", "penalty", "validation_loss", "test_accuracy"):
                expected = theirs[key] and pytest.approx(theirs[key], rel=1e-5, nan_ok=True)
                assert ours[key] == expected, (name, key)


def test_scaled_rate_climbs_to_n_times_its_own():
    """``scale_lr`` multiplies rates by the number of processes, behind a warm-up; alone it changes nothing."""
    asked = run_from_dict({"train": {"scale_lr": True, "batch_size": 8, "epochs": 40}})
    group = Group(rank=0, count=2)
    scaled, factor = group.scaled(group.whole(asked), 60)
    assert (scaled.train.batch_size, scaled.schedule.warmup_steps, factor) == (16, 16, 2.0)
    assert Group().scaled(Group().whole(asked), 60) == (asked, 1.0)
    kept = run_from_dict({"schedule": {"warmup_steps": 3}, "train": {"scale_lr": True}})
    assert group.scaled(kept, 10_000)[0].schedule.warmup_steps == 3


RUN = """
[data]
name = "synthetic"
train_size = 60
validation = 16
test_size = 16
[train]
epochs = 100000
batch_size = 8
device = "cpu"
"""


def test_killed_process_ends_all_with_one_line_and_the_run_goes_on(tmp_path: Path):
    """Where one is killed the others stop at once, and say so once; with --resume the run goes on where it was."""
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    record = tmp_path / "out" / "record.jsonl"
    arguments = ("train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--no-progress")
    with both(COMMAND, tmp_path, *arguments) as processes:
        wait_for(record, 2, processes)
        processes[1].kill()
        statuses, said = ended(processes)
    assert statuses == [2, -signal.SIGKILL]
    assert re.fullmatch(r"(optizoo: )?error: another process of this run has ended .* --resume .*\n", said), said

    before = len(Record.read(record).epochs)
    with both(COMMAND, tmp_path, *arguments, "--resume") as processes:
        wait_for(record, before + 2, processes)
        processes[0].send_signal(signal.SIGTERM)
        statuses, said = ended(processes)
    assert set(statuses) <= {1, 143}
    assert len(said.splitlines()) == 1, said
    found = Record.read(record)
    assert len(found.resumes) == 1
    assert [epoch["step"] for epoch in found.epochs] == [4 * (index + 1) for index in range(len(found.epochs))]
    assert found.environment["processes"] == 2


def test_mistake_is_told_once(tmp_path: Path):
    """What is wrong with a config is said by one process; all end."""
    (tmp_path / "run.toml").write_text(RUN.replace("epochs", "epoch"), encoding="utf-8")
    with both(COMMAND, tmp_path, "train", str(tmp_path / "run.toml")) as processes:
        statuses, said = ended(processes)
    assert set(statuses) == {1, 2}
    assert len(said.splitlines()) == 1, said
    assert "did you mean 'epochs'?" in said
