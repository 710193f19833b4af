"""Records: what happened in a run, as JSON lines that are written while it goes.

A record file holds one event a line:

- ``start``: the resolved config, the environment, the data set
- ``resume``: the run went on at this step after an interruption; epochs behind that step are void and come again
- ``epoch``: losses, accuracies and rates at the end of an epoch
- ``result``: how the run ended; always the last event of the training itself
- any other event that a tool adds behind it, such as ``twin``

Every event is on the disk before the run goes on. NaN and infinity are written as ``null``. Reports read records and
nothing else.
"""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import optizoo
from optizoo.lab.files import naming, sync, write

__all__ = ["Record", "RecordError", "Recorder", "environment", "has_start", "is_finished", "reconfigure"]

Event = dict[str, Any]


class RecordError(ValueError):
    """A record file is not what it should be; the message names file, line and remedy."""


@dataclass
class Record:
    """What a record file says.

    Attributes:
        config: The resolved config; :func:`optizoo.lab.config.run_from_dict` reads it.
        environment: Versions and machine; see :func:`environment`.
        dataset: ``name``, ``source``, ``digest`` and the sizes ``train``, ``validation``, ``test``.
        epochs: One event for each epoch that was run: ``epoch``, ``step``, ``train_loss`` (mean over the epoch's
            batches, without the penalty), ``penalty``, ``lr`` (one for each group), ``seconds`` (of training so far,
            evaluation left out); and ``validation_loss``, ``validation_accuracy``, ``test_accuracy`` (fractions),
            ``None`` where the epoch was not evaluated or there is no such split.
        result: The last event, or ``None`` if the run has not ended: ``status`` (``"finished"``, ``"diverged"``,
            ``"tolerance"``, ``"max_steps"``), ``steps``, ``final_loss``, ``test_accuracy``, ``validation_accuracy``,
            ``best_validation_accuracy``, ``seconds``, ``loss_digest`` (sha256 of all step losses as raw bytes),
            ``losses`` (every ``steps_losses_every``-th of them).
        resumes: The steps at which the run went on after an interruption.
        others: Events that tools added, in order.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    dataset: dict[str, Any]
    epochs: list[Event] = field(default_factory=list)
    result: Event | None = None
    resumes: list[int] = field(default_factory=list)
    others: list[Event] = field(default_factory=list)

    @property
    def twin(self) -> Event | None:
        """The last ``twin`` event: how far the run's end lies from that of its twin."""
        return next((event for event in reversed(self.others) if event["event"] == "twin"), None)

    @classmethod
    def read(cls, path: str | Path) -> "Record":
        """Read a record file. A last line that an interruption cut short is left out.

        Raises:
            RecordError: The file cannot be read, has no start, or a line is no event.
        """
        path = Path(path)
        events = _read_events(path)
        if not events or events[0][1]["event"] != "start":
            raise RecordError(f"{path}, line 1: a record begins with a start event; delete the file and run again")
        record: Record | None = None
        for line, event in events:
            try:
                if record is None:
                    record = cls(event["config"], event["environment"], event["dataset"])
                else:
                    record.add(event)
            except (KeyError, TypeError) as error:
                raise RecordError(
                    f"{path}, line {line}: the {event['event']} event lacks {error}; delete the file and run again"
                ) from None
        assert record is not None
        return record

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in an event that happened after the start."""
        content = {name: value for name, value in event.items() if name != "event"}
        match event["event"]:
            case "epoch":
                self.epochs.append(content)
            case "result":
                self.result = content
            case "resume":
                self.resumes.append(content["step"])
                self.epochs = [epoch for epoch in self.epochs if epoch["step"] <= content["step"]]
                self.result = None
            case _:
                self.others.append(dict(event))


def _read_events(path: Path) -> list[tuple[int, Event]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error}); give the path of a record") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: is not text ({error}); delete the file and run again") from None
    events = []
    for number, line in enumerate(lines, start=1):
        whole = number < len(lines)  # an event ends with a newline, and what follows the last one was cut short
        if not whole or not line:
            continue
        try:
            event = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{path}, line {number}: is not JSON ({error}); delete the file and run again") from None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise RecordError(f"{path}, line {number}: is no event; delete the file and run again")
        events.append((number, event))
    return events


class Recorder:
    """Appends events to a record file and keeps the :class:`Record` that they make.

    Args:
        path: The file; its folder is made. ``None`` keeps the record in memory only.
        resume: Go on with the file that is there, if there is one, instead of starting a new one.

    Raises:
        RecordError: The file to go on with is corrupt.
    """

    def __init__(self, path: str | Path | None, *, resume: bool = False) -> None:
        self.path = None if path is None else Path(path)
        self._record: Record | None = None
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume and self.path.exists():
            _drop_cut_line(self.path)
            if self.path.stat().st_size:
                self._record = Record.read(self.path)
        else:
            self.path.write_bytes(b"")

    @property
    def record(self) -> Record:
        """The record so far.

        Raises:
            RecordError: There was no start yet.
        """
        if self._record is None:
            raise RecordError("the record has no start; call Recorder.start first")
        return self._record

    @property
    def started(self) -> bool:
        """Whether there is a start, from this run or from the one that it goes on with."""
        return self._record is not None

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
        """Write the first event; the mappings hold what JSON can."""
        self._record = Record(dict(config), dict(environment), dict(dataset))
        self._write({"event": "start", "config": config, "environment": environment, "dataset": dataset})

    def resume(self, step: int) -> None:
        """Write that the run goes on behind ``step`` updates."""
        self.add({"event": "resume", "step": step})

    def epoch(self, **values: Any) -> None:
        """Write the end of an epoch; the values are those of ``Record.epochs``."""
        self.add({"event": "epoch", **values})

    def result(self, **values: Any) -> None:
        """Write how the run ended; the values are those of ``Record.result``."""
        self.add({"event": "result", **values})

    def add(self, event: Mapping[str, Any]) -> None:
        """Write any event behind the start; ``event["event"]`` says what it is."""
        event = _finite(event)
        self.record.add(event)
        self._write(event)

    def _write(self, event: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")
            file.flush()
            sync(file.fileno())


def has_start(path: Path) -> bool:
    """Return whether a record is there and was not cut off in its first line."""
    return path.exists() and b"\n" in path.read_bytes()


def is_finished(path: Path) -> bool:
    """Return whether a record is there and has its result."""
    return has_start(path) and Record.read(path).result is not None


def reconfigure(path: Path, config: Mapping[str, Any], into: Path | None = None) -> None:
    """Write a record with another config: of the same run under another label, or of a longer one.

    Args:
        path: The record.
        config: What stands in its start.
        into: Where it is written; by default it replaces the old one.

    Raises:
        RecordError: The record is corrupt.
    """
    Record.read(path)
    start, rest = path.read_bytes().split(b"\n", 1)
    write(into or path, json.dumps({**json.loads(start), "config": config}, allow_nan=False).encode() + b"\n" + rest)


def _finite(value: Any) -> Any:
    """Return a copy in which NaN and infinity, which JSON does not have, are ``None``."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_cut_line(path: Path) -> None:
    """Cut off what follows the last newline, or the next event would be glued to it."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what a result depends on beside its config: versions, machine, device, threads, commit and date.

    ``git`` is the commit of a checkout that the package runs from, with ``+`` behind it if tracked files differ from
    it; ``None`` where there is none.

    >>> sorted(environment())
    ['cpu', 'date', 'device', 'git', 'optizoo', 'platform', 'python', 'threads', 'torch']
    """
    device = torch.device(device)
    return {
        "optizoo": optizoo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "git": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    root = Path(optizoo.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
