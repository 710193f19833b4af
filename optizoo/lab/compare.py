"""Comparisons: a grid of optimizers, schedules and seeds on one model, each run beside its twin in ``torch.optim``.

A run and its twin begin at the same weights and see the same batches. When both are done their final parameters and the
digests of their losses are held against each other, and the verdict joins the run's record as an event ``twin``.

The folder of a comparison:

- ``config.json``, ``environment.json``: what is compared, and where it was begun
- ``cells/``: for every run a record, ``<optimizer>-<schedule>-seed<seed>-<library>.jsonl``, and its checkpoint until it
  has ended and was compared with its twin
- what :mod:`optizoo.lab.report` makes of it: ``results.jsonl``, pictures, ``report.html``

A comparison that was interrupted goes on where it stopped when it is started again: finished runs are read, the one
that was under way is resumed. It goes on with the number of threads that it was begun with, because how a sum is split
over threads decides how it is rounded.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import data, limits, report
from optizoo.lab.config import (
    CompareConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    digest,
    load_compare,
    to_dict,
)
from optizoo.lab.data import Dataset
from optizoo.lab.folder import locked, write_json
from optizoo.lab.records import Record, Recorder, environment
from optizoo.lab.report import Row
from optizoo.lab.train import Trained, resolve_device, train
from optizoo.testing import has_torch_twin

__all__ = ["Cell", "CompareError", "CompareResult", "cells", "compare", "largest_difference"]

ENVIRONMENT = "environment.json"


class CompareError(Exception):
    """A comparison cannot begin or go on; the message names the folder or file and tells the remedy."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        config: The run.
        stem: Name of its files, without the ending.
    """

    config: RunConfig
    stem: str

    def record_path(self, folder: Path) -> Path:
        """Return where the record lies, in the folder of the comparison."""
        return folder / report.CELLS / f"{self.stem}.jsonl"

    def checkpoint_path(self, folder: Path) -> Path:
        """Return where the checkpoint lies, as long as it is needed."""
        return folder / report.CELLS / f"{self.stem}.checkpoint.pt"


@dataclass(frozen=True)
class CompareResult:
    """What a comparison came to.

    Attributes:
        table: The rows as plain text.
        folder: Where everything lies.
        rows: One for each optimizer and schedule, the best first.
        records: The record of every run.
    """

    table: str
    folder: Path
    rows: list[Row]
    records: list[Record]


def compare(
    config: CompareConfig, out: str | Path | None = None, *, progress: bool = True, fresh: bool = False
) -> CompareResult:
    """Run a comparison, or what is left of it, and write its report.

    A run that diverges is recorded as such, and the comparison goes on.

    Args:
        config: What to compare.
        out: The folder; by default ``runs/<name>-<digest of the config>``.
        progress: Show progress bars, on a terminal.
        fresh: Delete the runs of an earlier comparison in the folder, whatever its config, and start over.

    Raises:
        CompareError: The folder holds another comparison or other files, was begun with other data, or is in use.
        ConfigError: A run cannot be built.
        CheckpointError: A checkpoint of an earlier, interrupted call cannot be used.
        DataError: The data are missing or broken.
        RecordError: A record of an earlier, interrupted call is corrupt.
    """
    folder = Path("runs") / f"{config.name}-{digest(config)}" if out is None else Path(out)
    device = resolve_device(config.train.device)
    dataset_options = asdict(config.data)
    # What is written can be handed on: it does not tell where the data lie, and goes on where they lie elsewhere.
    config = replace(config, data=replace(config.data, root=None, cache=None))
    pairs = list(_pairs(config))
    dataset = data.load(**dataset_options).to(device)
    # All that is wrong shows before there is a folder.
    limits.check_run(config, images=len(dataset.train), classes=len(dataset.classes), device=device)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _prepare(folder, config, fresh=fresh)
        total = sum(len(pair) for pair in pairs)
        bar = tqdm(total=total, desc=config.name, unit="run", disable=None if progress else True)
        with _threads_of(folder), bar:
            for pair in pairs:
                _run_pair(folder, pair, dataset, bar, progress=progress)
        with checkpoints.naming(folder):
            report.write(folder)
    config, records = report.read(folder)
    rows = report.summarize(config, records)
    return CompareResult(report.format_table(rows), folder, rows, records)


def cells(config: CompareConfig) -> list[Cell]:
    """Return all runs of a comparison, in the order in which they are run: every run is followed by its twin.

    Raises:
        CompareError: Two labels cannot be told apart in file names.

    >>> config = CompareConfig(optimizers=(OptimizerConfig("adam"),), seeds=(0, 1))
    >>> for cell in cells(config):
    ...     print(cell.stem)
    adam-constant-seed0-optizoo
    adam-constant-seed0-torch
    adam-constant-seed1-optizoo
    adam-constant-seed1-torch
    """
    return [cell for pair in _pairs(config) for cell in pair]


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float | None:
    """Return the largest absolute difference between two sets of tensors, or ``None`` if it is not finite.

    Elements that are NaN in both, or the same infinity, do not differ.

    >>> largest_difference({"weight": torch.tensor([1.0, torch.nan])}, {"weight": torch.tensor([1.5, torch.nan])})
    0.5
    """
    largest = 0.0
    for name, tensor in first.items():
        other = second[name]
        same = (tensor == other) | (tensor.isnan() & other.isnan())
        difference = torch.where(same, 0.0, (tensor - other).abs().double())
        if not difference.isfinite().all():
            return None
        largest = max(largest, difference.max().item())
    return largest


def _pairs(config: CompareConfig) -> Iterator[tuple[Cell, ...]]:
    """Yield each run with its twin, or alone where it has none."""
    seen: dict[str, Cell] = {}
    for schedule in config.schedules:
        for optimizer in config.optimizers:
            has_twin = config.twins and has_torch_twin(optimizer.name, **optimizer.options)
            libraries = report.LIBRARIES if has_twin else report.LIBRARIES[:1]
            for seed in config.seeds:
                pair = tuple(
                    _cell(config, replace(optimizer, library=library), schedule, seed) for library in libraries
                )
                for cell in pair:
                    # Some file systems take upper and lower case for the same.
                    if seen.setdefault(cell.stem.lower(), cell) is not cell:
                        raise CompareError(
                            f"optimizer {optimizer.label!r} with schedule {schedule.label!r} would have the file name "
                            f"{cell.stem!r} of another run: give one of them another label"
                        )
                yield pair


def _cell(config: CompareConfig, optimizer: OptimizerConfig, schedule: ScheduleConfig, seed: int) -> Cell:
    run = RunConfig(
        name=config.name,
        seed=seed,
        data=config.data,
        model=config.model,
        optimizer=optimizer,
        schedule=schedule,
        train=config.train,
    )
    name = f"{optimizer.label}-{schedule.label}-seed{seed}-{optimizer.library}"
    stem = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)
    if stem != name:  # other characters in the same places are another name
        stem += f"-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return Cell(run, stem)


def _prepare(folder: Path, config: CompareConfig, *, fresh: bool) -> None:
    """Make the folder ready: new, as an earlier call with the same config left it, or emptied of an earlier one."""
    path = folder / report.CONFIG
    ours = path.exists()
    if not ours and any(folder.iterdir()):
        raise CompareError(f"{folder} holds files but no comparison: give a new folder, or an empty one, with --out")
    if ours and fresh:
        shutil.rmtree(folder / report.CELLS, ignore_errors=True)
        for made in (folder / report.REPORT, folder / report.RESULTS, *folder.glob("*.png")):
            made.unlink(missing_ok=True)
    elif ours:
        earlier = load_compare(path)
        if digest(earlier) != digest(config):
            raise CompareError(
                f"{folder} holds a comparison with another config ({path}): "
                "give another folder with --out, or start over with --fresh"
            )
    (folder / report.CELLS).mkdir(parents=True, exist_ok=True)
    if fresh or not ours:
        write_json(path, to_dict(config))
    if fresh or not (folder / ENVIRONMENT).exists():
        write_json(folder / ENVIRONMENT, environment(resolve_device(config.train.device)))


@contextmanager
def _threads_of(folder: Path) -> Iterator[None]:
    """Use as many threads as the comparison was begun with."""
    before, path = torch.get_num_threads(), folder / ENVIRONMENT
    try:
        threads = int(json.loads(path.read_text(encoding="utf-8"))["threads"])
    except (ValueError, KeyError, TypeError) as error:
        raise CompareError(f"{path} is damaged ({error}): delete it, or start over with --fresh") from None
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_pair(folder: Path, pair: tuple[Cell, ...], dataset: Dataset, bar: tqdm, *, progress: bool) -> None:
    """Run what is missing of a pair, hold the two against each other, and delete their checkpoints.

    A run that waits for its twin keeps its last checkpoint: if the comparison is interrupted there, resuming the run
    gives its parameters back at once.
    """
    if not _is_done(folder, pair, dataset):
        runs = []
        for cell in pair:
            bar.set_postfix_str(cell.stem)
            record, checkpoint = cell.record_path(folder), cell.checkpoint_path(folder)
            runs.append(
                train(cell.config, dataset, record=record, checkpoint=checkpoint, resume=True, progress=progress)
            )
            bar.update()
        if len(runs) == 2:
            Recorder(pair[0].record_path(folder), resume=True).add(_verdict(*runs))
    else:
        bar.update(len(pair))
    for cell in pair:
        checkpoints.remove(cell.checkpoint_path(folder))


def _is_done(folder: Path, pair: tuple[Cell, ...], dataset: Dataset) -> bool:
    """Return whether all of a pair has been run and compared, after a check that it saw the same data."""
    records = []
    for cell in pair:
        path = cell.record_path(folder)
        if not path.exists() or b"\n" not in path.read_bytes():  # nothing yet, or cut off in its first line
            return False
        record = Record.read(path)
        if record.dataset["digest"] != dataset.digest:
            raise CompareError(
                f"{path} was made with other data ({record.dataset['name']}, {record.dataset['source']}): "
                "point OPTIZOO_DATA, or data.root, to these, or start over with --fresh"
            )
        records.append(record)
    if any(record.result is None for record in records):
        return False
    return len(pair) == 1 or report.twin_verdict(records[0]) is not None


def _verdict(ours: Trained, twin: Trained) -> dict[str, object]:
    assert ours.record.result is not None
    assert twin.record.result is not None
    return {
        "event": "twin",
        "max_param_difference": largest_difference(ours.model.state_dict(), twin.model.state_dict()),
        "losses_identical": ours.record.result["loss_digest"] == twin.record.result["loss_digest"],
    }
