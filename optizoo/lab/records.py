"""Records: what happened in a run, as JSON lines that are written while it goes.

A record file holds one event a line: ``start``, ``epoch``, ``resume``, ``result``, and what a tool adds behind it, such
as ``twin``. :mod:`optizoo.lab.rows` says what stands in each. Every event is on the disk before the run goes on. NaN
and infinity are written as ``null``. Reports read records and nothing else; :func:`frame` makes a table of them.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from optizoo.lab.config import digest
from optizoo.lab.environment import code, environment
from optizoo.lab.files import naming, sync, write
from optizoo.lab.rows import CHECKS, SCHEMA

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "Record", "RecordError", "Recorder", "environment", "frame", "has_start", "is_finished", "is_half_written",
    "reconfigure",
]  # fmt: skip

Event = dict[str, Any]
START = b'{"event": "start"'  # what begins otherwise is no record
TRIALS = "trials.jsonl"  # of a sweep
RESULTS = "results.jsonl"  # the rows of a comparison's table, which are no record


class RecordError(ValueError):
    """A record file is not what it should be; the message names file, line and remedy."""


@dataclass
class Record:
    """What a record file says.

    Attributes:
        config: The resolved config; :func:`optizoo.lab.config.run_from_dict` reads it.
        environment: Versions and machine; see :func:`environment`.
        dataset: ``name``, ``source``, ``digest`` and the sizes ``train``, ``validation``, ``test``.
        epochs: One :class:`~optizoo.lab.rows.Epoch` for each epoch that was run.
        result: The :class:`~optizoo.lab.rows.Result`, or ``None`` if the run has not ended.
        resumes: The steps at which the run went on after an interruption.
        others: Events that tools added, in order.
        schema: The version of the schema in which it was written.
        digests: What config, code and data are told by; empty in records of schema 1.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    dataset: dict[str, Any]
    epochs: list[Event] = field(default_factory=list)
    result: Event | None = None
    resumes: list[int] = field(default_factory=list)
    others: list[Event] = field(default_factory=list)
    schema: int = field(default=SCHEMA, compare=False)
    digests: dict[str, str | None] = field(default_factory=dict, compare=False)

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
        first = events[0][1]
        if isinstance(first.get("schema"), int) and first["schema"] > SCHEMA:
            raise RecordError(f"{path}: has schema {first['schema']}, and this optizoo knows {SCHEMA}: update optizoo")
        record: Record | None = None
        for line, event in events:
            _check(event, f"{path}, line {line}")
            if record is None:
                parts = (event[name] for name in ("config", "environment", "dataset"))
                record = cls(*parts, schema=event.get("schema", 1), digests=event.get("digests", {}))
            else:
                record.add(event)
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


def _check(event: Event, place: str) -> None:
    """Raise where an event of a known kind lacks a key, or has one of another type."""
    if (check := CHECKS.get(event["event"])) is None:
        return
    try:
        check.validate_python(event)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        what = f"lacks {key!r}" if first["type"] == "missing" else f"has {key} = {first['input']!r}: {first['msg']}"
        raise RecordError(f"{place}: the {event['event']} event {what}; delete the file and run again") from None


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
        digests = {"config": digest(config), "code": code(environment), "data": dataset.get("digest")}
        self._record = Record(dict(config), dict(environment), dict(dataset), digests=digests)
        start = {"config": config, "environment": environment, "dataset": dataset}
        self._write({"event": "start", "schema": SCHEMA, "digests": digests, **start})

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


def is_half_written(path: Path) -> bool:
    """Return whether a record is there and was cut off in its first line, as by an interruption when it began."""
    if not path.is_file() or has_start(path):
        return False
    content = path.read_bytes()
    return content.startswith(START) or START.startswith(content)


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
    line, rest = path.read_bytes().split(b"\n", 1)
    start = {**json.loads(line), "config": config}
    if "digests" in start:
        start["digests"]["config"] = digest(config)
    write(into or path, json.dumps(start, allow_nan=False).encode() + b"\n" + rest)


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


def frame(path: str | Path, rows: str = "runs") -> "DataFrame":
    """Return records as a pandas table.

    Columns are named as in :mod:`optizoo.lab.rows`, with dots where tables stand in tables: ``config.optimizer.lr``,
    ``result.test_accuracy``. The index counts the rows.

    Args:
        path: A record; a folder of records, such as that of a comparison, whose column ``file`` tells them apart; or
            the ``trials.jsonl`` or the folder of a sweep.
        rows: ``"runs"``: a row for each run, without the lists of its losses; or ``"epochs"``: one for each epoch, with
            its run's columns.

    Raises:
        ImportError: pandas is not installed.
        RecordError: There is no record, or one is corrupt.
    """
    from pandas import DataFrame, json_normalize

    if rows not in ("runs", "epochs"):
        raise ValueError(f"rows must be 'runs' or 'epochs', got {rows!r}")
    runs = []
    for run in _runs(Path(path)):
        epochs = run.pop("epochs", [])
        run["result"] = {key: value for key, value in (run.get("result") or {}).items() if key != "losses"}
        runs += [run] if rows == "runs" else [run | epoch for epoch in epochs]
    return json_normalize(runs) if runs else DataFrame()


def _runs(path: Path) -> list[Event]:
    """Return what the records in a place say of each run."""
    files = [path]
    if path.is_dir():
        trials = path / TRIALS
        files = (
            [trials] if trials.exists() else [file for file in sorted(path.rglob("*.jsonl")) if file.name != RESULTS]
        )
    runs: list[Event] = []
    for file in files:
        if file.name == TRIALS:
            for line, event in _read_events(file):
                _check(event, f"{file}, line {line}")
                runs.append({key: value for key, value in event.items() if key != "event"})
        else:
            record = Record.read(file)
            names = ("config", "environment", "dataset", "digests", "epochs", "result")
            runs.append({"file": str(file), **{name: getattr(record, name) for name in names}})
            runs[-1] |= {each["event"]: each for each in record.others if each["event"] in CHECKS}
    if not runs:
        raise RecordError(f"{path}: holds no record; give a record, or a folder of records")
    return runs
