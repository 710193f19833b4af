"""Checkpoints: killed while saving, no room, a limit on file sizes, damage, and files that would run code.

Two damaged generations, a lost newest one and a failing ``torch.save`` are tested beside training
(``tests/lab/test_train.py``).
"""

import os
import pickle
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from optizoo import cli
from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import data
from optizoo.lab.config import RunConfig, run_from_dict
from optizoo.lab.records import Record
from optizoo.lab.train import train
from optizoo.testing import verify as matrix
from tests.faults.conftest import Told
from tests.faults.test_data import Payload
from tests.lab.test_train import assert_same, signal_at
from tests.processes import context

# Every epoch is one update and one checkpoint: nearly all of the time is spent on saving.
SAVING = run_from_dict(
    {
        "data": {"name": "synthetic", "train_size": 16, "validation": 0, "test_size": 4},
        "model": {"name": "two_layer", "hidden": 64, "dropout": 0.5},
        "optimizer": {"name": "adam", "lr": 1e-4},
        "train": {"epochs": 1_000_000, "batch_size": 16, "evaluate_every": 1_000_000, "device": "cpu", "threads": 1},
    }
)
KILLS = 50


def load(config: RunConfig) -> data.Dataset:
    section = config.data
    return data.load(
        section.name, train_size=section.train_size, validation=section.validation, test_size=section.test_size
    )


def save_for_ever(folder: Path, begun: Connection) -> None:
    """Train and save until killed: what the processes of the test do."""
    tqdm.set_lock(threading.RLock())  # the default one has a semaphore, which the killed would leave behind
    dataset = load(SAVING)
    begun.send_bytes(b"begun")
    train(SAVING, dataset, record=folder / "r.jsonl", checkpoint=folder / "c.pt", resume=True, progress=False)


@pytest.mark.slow
def test_killed_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed with SIGKILL at 50 random moments while it saves, a run always has a checkpoint that loads, and goes on.

    In the end weights, states and losses are, to the bit, those of a run that nobody killed.
    """
    server = context()
    delays = random.Random(0)
    file, last, remains = tmp_path / "c.pt", 0, 0
    for _ in range(KILLS):
        begun, child = server.Pipe(duplex=False)
        process = server.Process(target=save_for_ever, args=(tmp_path, child))
        process.start()
        assert begun.poll(timeout=120)
        time.sleep(delays.uniform(0.0, 0.3))
        assert process.is_alive()
        process.kill()
        process.join()
        begun.close()
        child.close()
        remains += len(list(tmp_path.glob(".c.pt.*")))
        if checkpoints.exists(file):
            step = checkpoints.load(file)["step"]
            assert step >= last
            last = step
        assert not list(tmp_path.glob(".c.pt.*"))
    print(f"{KILLS} kills, {remains} of them in the middle of a file, in {last} updates")
    assert last > 0

    dataset = load(SAVING)
    with monkeypatch.context() as patch:
        patch.setattr("optizoo.lab.train.building.build_optimizer", signal_at(5))
        with pytest.raises(KeyboardInterrupt):
            train(SAVING, dataset, record=tmp_path / "r.jsonl", checkpoint=file, resume=True, progress=False)
    state = checkpoints.load(file)
    assert state["step"] == last + 5
    whole = train(
        replace(SAVING, train=replace(SAVING.train, epochs=last + 5, evaluate_every=last + 5)), dataset, progress=False
    )
    assert_same(state["losses"], whole.losses)
    assert_same(state["model"], whole.model.state_dict())
    assert_same(state["optimizer"], whole.optimizer.state_dict())


def test_what_a_killed_process_left_is_deleted(tmp_path: Path):
    """Half-written files do not pile up: the next load deletes them, and nothing else."""
    checkpoints.save(tmp_path / "c.pt", {"step": 1})
    for name in (".c.pt.123", ".c.pt.456"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".d.pt.123").touch()
    assert checkpoints.load(tmp_path / "c.pt") == {"step": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".d.pt.123", "c.pt"]


# No room --------------------------------------------------------------------------------------------------------------


@contextmanager
def limited_files(_: Path) -> Iterator[None]:
    """No file may be longer than 50 000 bytes: a record fits, a checkpoint does not."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """The disk has room for a record, not for another checkpoint."""
    filler = folder / "filler"
    status = os.statvfs(folder)
    filler.write_bytes(bytes(status.f_bavail * status.f_frsize - 64 * 1024))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command, so no small disk to fill")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted ({mounted.stderr.strip()}); it takes root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def assert_costs_no_checkpoint(
    config: Path, folder: Path, shortage: Any, message: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt a run, let it go on where nothing can be saved, and then where it can."""
    with monkeypatch.context() as patch:
        patch.setattr("optizoo.lab.train.building.build_optimizer", signal_at(6))
        assert cli.main(["train", str(config), "--out", str(folder)]) == 130
    saved = folder / "checkpoint.pt"
    before = saved.read_bytes(), checkpoints.previous(saved).read_bytes()
    with shortage(folder):
        error = told("train", str(config), "--out", str(folder), "--resume")
    assert f"error: {saved}: {message}" in error
    assert (saved.read_bytes(), checkpoints.previous(saved).read_bytes()) == before
    assert not list(folder.glob(".checkpoint.pt*"))

    assert cli.main(["train", str(config), "--out", str(folder), "--resume"]) == 0
    assert cli.main(["train", str(config), "--out", "whole"]) == 0
    assert_same(checkpoints.load(saved)["model"], checkpoints.load(Path("whole/checkpoint.pt"))["model"])
    resumed, whole = (Record.read(path / "record.jsonl").result for path in (folder, Path("whole")))
    assert resumed is not None
    assert whole is not None
    assert resumed["loss_digest"] == whole["loss_digest"]


def test_limit_on_file_sizes(config: Path, told: Told, monkeypatch: pytest.MonkeyPatch):
    """Where a checkpoint exceeds the limit, the old ones stay, the error names file and remedy, and the run goes on."""
    message = "File too large: raise the limit of file sizes (ulimit -f)"
    assert_costs_no_checkpoint(config, Path("here"), limited_files, message, told, monkeypatch)


def test_full_disk(config: Path, told: Told, monkeypatch: pytest.MonkeyPatch, small_disk: Path):
    """Where the disk is full, the old checkpoints stay, the error names file and remedy, and the run can go on."""
    message = "No space left on device: make room on its disk"
    assert_costs_no_checkpoint(config, small_disk / "here", full_disk, message, told, monkeypatch)


def test_full_disk_for_a_record(config: Path, told: Told, small_disk: Path):
    """Where not even the record has room, the error says so."""
    folder = small_disk / "here"
    folder.mkdir()
    status = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize))
    error = told("train", str(config), "--out", str(folder))
    assert f"error: {folder}/.optizoo: No space left on device: make room on its disk" in error
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full to write to")
def test_full_disk_for_a_table(told: Told, monkeypatch: pytest.MonkeyPatch):
    """A result that cannot be written for want of room is told likewise."""
    monkeypatch.setattr(matrix, "verify", lambda *_: [])
    assert "/dev/full: No space left on device: make room on its disk" in told("verify", "--json", "/dev/full")


# Damage and payloads --------------------------------------------------------------------------------------------------


def payload(mark: Path) -> dict[str, Any]:
    return {"digest": "x", "model": Payload(mark)}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path, _: path.write_bytes(path.read_bytes()[:1000]), id="truncated"),
        pytest.param(lambda path, _: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path, _: path.write_bytes(b"<html>404</html>"), id="web page"),
        pytest.param(lambda path, _: torch.save([1, 2], path), id="no state of a run"),
        pytest.param(lambda path, mark: torch.save(payload(mark), path), id="payload"),
        pytest.param(
            lambda path, mark: torch.save(payload(mark), path, _use_new_zipfile_serialization=False),
            id="payload in the old format",
        ),
        pytest.param(lambda path, mark: path.write_bytes(pickle.dumps(payload(mark))), id="payload in a bare pickle"),
    ],
)
def test_checkpoints_that_cannot_be_used(config: Path, told: Told, spoil: Callable[[Path, Path], Any]):
    """Damaged or hostile checkpoints are told by file and remedy; nothing in them is executed, and nothing changes."""
    assert cli.main(["train", str(config), "--out", "here"]) == 0
    mark = Path.cwd() / "executed"
    saved = Path("here/checkpoint.pt")
    for path in (saved, checkpoints.previous(saved)):
        spoil(path, mark)
    record = Path("here/record.jsonl").read_bytes()
    error = told("train", str(config), "--out", "here", "--resume")
    assert "the checkpoint here/checkpoint.pt.previous" in error
    assert "delete it to begin the run again" in error
    assert "trust" not in error  # torch would explain how to load it all the same
    assert not mark.exists()
    assert Path("here/record.jsonl").read_bytes() == record
