"""Comparisons: a grid of optimizers, schedules and seeds on one model, each run beside its twin in ``torch.optim``.

A run and its twin begin at the same weights and see the same batches. When both are done their final parameters and the
digests of their losses are held against each other, and the verdict joins the run's record as an event ``twin``.

The folder of a comparison:

- ``config.json``, ``environment.json``: what is compared, and where it was begun
- ``cells/``: for every run a record, ``<optimizer>-<schedule>-seed<seed>-<library>.jsonl``, and its checkpoint until it
  has ended and was compared with its twin
- what :mod:`optizoo.lab.report` makes of it: ``results.jsonl``, pictures, ``report.html``

A comparison that was interrupted goes on where it stopped when it is started again: finished runs are read, the one
that was under way is resumed. With more seeds, optimizers or schedules, or under other labels, it grows: finished runs
are kept, and taken over from the default folder of a smaller one. It goes on with the number of threads that it was
begun with, because how a sum is split over threads decides how it is rounded.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import data, limits, report
from optizoo.lab.compare_folder import ENVIRONMENT, check_comparison, finish, prepare
from optizoo.lab.config import (
    CompareConfig,
    digest,
)
from optizoo.lab.data import Dataset, Split
from optizoo.lab.folder import locked
from optizoo.lab.grid import Cell, CompareError, cells, pairs
from optizoo.lab.records import Record, Recorder, has_start, is_finished
from optizoo.lab.report import Row
from optizoo.lab.train import Trained, resolve_device, train

__all__ = ["Cell", "CompareError", "CompareResult", "cells", "compare", "largest_difference"]


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
    config: CompareConfig,
    out: str | Path | None = None,
    *,
    progress: bool = True,
    fresh: bool = False,
    storage: str | None = None,
    heartbeat: int | None = None,
) -> CompareResult:
    """Run a comparison, or what is left of it, and write its report.

    A run that diverges is recorded as such, and the comparison goes on.

    Args:
        config: What to compare.
        out: The folder; by default ``runs/<name>-<digest of the config>``.
        progress: Show progress bars, on a terminal.
        fresh: Start over. The earlier comparison in the folder, whatever its config, is replaced when this one is done.
        storage: URL of a database; whoever compares the same by it, in a folder of their own, shares the runs.
        heartbeat: Seconds between two signs of life of those who share; by default ten.

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
    runs = list(pairs(config))
    check_comparison(folder)  # what is not ours, or not there, shows before the data are read
    if storage is not None:
        from optizoo.lab.sweep.storage import reach

        reach(storage)[0].dispose()
    dataset = data.load(**dataset_options).to(device)
    # All that is wrong shows before there is a folder.
    limits.check_run(config, images=len(dataset.train), classes=len(dataset.classes), device=device)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        place = prepare(folder, config, dataset.digest, fresh=fresh, default=out is None)
        total = sum(len(pair) for pair in runs)
        bar = tqdm(total=total, desc=config.name, unit="run", disable=None if progress else True)
        with _threads_of(place), bar:
            run = partial(_run_pair, place, dataset=dataset, bar=bar, progress=progress)
            if storage is None:
                for pair in runs:
                    run(pair)
            else:
                from optizoo.lab.sweep import comparing
                from optizoo.lab.sweep import storage as storages

                beat = heartbeat or storages.HEARTBEAT
                about = {"url": storage, "data": dataset.digest, "heartbeat": beat}
                comparing.run_pairs(config, runs, place, run, progress=False, **about)
        report.write(place)
        if place != folder:
            finish(folder)
    config, records = report.read(folder)
    rows = report.summarize(config, records)
    return CompareResult(report.format_table(rows), folder, rows, records)


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
            if is_finished(record) and not checkpoints.exists(checkpoint):
                record = None  # only its parameters are needed again
            runs.append(
                train(cell.config, dataset, record=record, checkpoint=checkpoint, resume=True, progress=progress)
            )
            bar.update()
        if len(runs) == 2:
            proof = {} if pair[0].config.train.foreach is False else _proof(pair, dataset)
            Recorder(pair[0].record_path(folder), resume=True).add({**_verdict(*runs), **proof})
    else:
        bar.update(len(pair))
    for cell in pair:
        checkpoints.remove(cell.checkpoint_path(folder))


def _is_done(folder: Path, pair: tuple[Cell, ...], dataset: Dataset) -> bool:
    """Return whether all of a pair has been run and compared, after a check that it saw the same data."""
    records = []
    for cell in pair:
        path = cell.record_path(folder)
        if not has_start(path):
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


def _proof(pair: Sequence[Cell], dataset: Dataset) -> dict[str, object]:
    """Run the loops of both libraries for a while, in memory: what they compute is the same, bit for bit."""
    nothing = Split(dataset.test.images[:0], dataset.test.labels[:0])
    unseen = replace(dataset, validation=nothing, test=nothing)
    loops = []
    for cell in pair:
        steps = max(cell.config.schedule.warmup_steps + 1, report.PROOF_STEPS)
        settings = replace(cell.config.train, foreach=False, max_steps=min(steps, cell.config.train.max_steps or steps))
        loops.append(train(replace(cell.config, train=settings), unseen, progress=False))
    found = _verdict(*loops)
    same = bool(found["losses_identical"]) and found["max_param_difference"] == 0.0
    return {"loops_identical": same, "loops_steps": len(loops[0].losses)}


def _verdict(ours: Trained, twin: Trained) -> dict[str, object]:
    assert ours.record.result is not None
    assert twin.record.result is not None
    return {
        "event": "twin",
        "max_param_difference": largest_difference(ours.model.state_dict(), twin.model.state_dict()),
        "losses_identical": ours.record.result["loss_digest"] == twin.record.result["loss_digest"],
    }
