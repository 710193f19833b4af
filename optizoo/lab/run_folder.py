"""The folder of one run: begun, gone on with, begun anew beside what is there, and trained longer.

It holds ``config.json``, ``record.jsonl`` and ``checkpoint.pt`` with the one before it. A run that is begun anew is
made in the folder ``.new`` inside, and replaces the old one when it has ended well.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import train as training
from optizoo.lab.checkpoint import CheckpointError
from optizoo.lab.config import ConfigError, RunConfig, digest, load_run, run_from_dict, to_dict
from optizoo.lab.data import Dataset
from optizoo.lab.files import write_json
from optizoo.lab.folder import NEW, FolderError, Kind, check, claim, clear, locked, promote
from optizoo.lab.records import Record, RecordError, is_half_written, reconfigure
from optizoo.lab.train import Trained

__all__ = ["CHECKPOINT", "RECORD", "check_run", "train_in"]

CONFIG, RECORD, CHECKPOINT = "config.json", "record.jsonl", "checkpoint.pt"
KEYS = ("name", "seed", "data", "model", "optimizer", "schedule", "train")
# In the order in which they replace others: the record comes last.
FILES = (f"{CHECKPOINT}.previous", CHECKPOINT, CONFIG, RECORD)


def _recognised(folder: Path) -> bool:
    """Return whether record, config and checkpoint of a folder are those of one run, which may just have begun."""
    try:
        if is_half_written(folder / RECORD):
            config = load_run(folder / CONFIG)
            if not set(KEYS) <= set(json.loads((folder / CONFIG).read_text(encoding="utf-8"))):
                return False
        else:
            config = run_from_dict(Record.read(folder / RECORD).config)
        if (folder / CONFIG).exists() and digest(load_run(folder / CONFIG)) != digest(config):
            return False
        saved = folder / CHECKPOINT
        return not checkpoints.exists(saved) or isinstance(checkpoints.load(saved).get("digest"), str)
    except (RecordError, ConfigError, CheckpointError, ValueError):
        return False


RUN = Kind("run", _recognised)


def check_run(folder: Path, *, resume: bool, fresh: bool) -> None:
    """Raise where a run in this folder would have to be begun anew, or gone on with, and neither is asked for.

    Raises:
        FolderError: The folder holds a run, or something else, of ours or of somebody's.
    """
    check(folder, RUN)
    if (folder / RECORD).exists() and not (resume or fresh):
        raise FolderError(
            f"{folder} holds a run: go on with it (--resume), start over (--fresh), or give another --out"
        )


def train_in(
    folder: Path, config: RunConfig, dataset: Dataset, *, resume: bool = False, fresh: bool = False, progress: bool
) -> tuple[Trained, Path]:
    """Train in a folder, which is made where there is none; return what came of it and where it lies.

    Args:
        folder: The folder of the run.
        config: The run.
        dataset: What to train on.
        resume: Go on with the run that is there: one of this config, or one of fewer epochs.
        fresh: Begin anew. What is there is replaced when the new run has ended, and stays if it diverges.
        progress: Show a progress bar, if stderr is a terminal.

    Raises:
        FolderError: The folder holds another run, or something else, or another process works in it.
        CheckpointError: The checkpoint to go on from is unreadable.
        RecordError: The record to go on with is corrupt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        check_run(folder, resume=resume, fresh=fresh)
        claim(folder, RUN)
        new = folder / NEW
        if _has_ended_well(new):
            promote(folder, FILES)
        if resume:
            place = _going_on(folder, config, len(dataset.train))
        else:
            clear(new, FILES)
            place = new if (folder / RECORD).exists() or checkpoints.exists(folder / CHECKPOINT) else folder
        place.mkdir(exist_ok=True)
        write_json(place / CONFIG, to_dict(config))
        trained = training.train(
            config,
            dataset,
            record=place / RECORD,
            checkpoint=place / CHECKPOINT,
            resume=resume,
            progress=progress,
        )
        if place == new and trained.status != "diverged":
            promote(folder, FILES, stale=[name for name in FILES if not (new / name).exists()])
            place = folder
    return trained, place


def _has_ended_well(place: Path) -> bool:
    try:
        result = Record.read(place / RECORD).result
    except RecordError:
        return False
    return result is not None and result["status"] != "diverged"


def _going_on(folder: Path, config: RunConfig, images: int) -> Path:
    """Return where the run to go on with lies, made ready; a new place where there is only a record to be kept."""
    new = folder / NEW
    if (new / CONFIG).exists() and digest(load_run(new / CONFIG)) == digest(config):
        place = new
    else:
        place, written = folder, folder / CONFIG
        if written.exists() and digest(earlier := load_run(written)) != digest(config):
            _lengthen(folder, earlier, config, images)
            place = new
    if checkpoints.exists(place / CHECKPOINT):
        return place
    print(f"no checkpoint in {place}: beginning the run", file=sys.stderr)
    return new if place == folder and _has_ended_well(folder) else place


def _lengthen(folder: Path, earlier: RunConfig, config: RunConfig, images: int) -> None:
    """Let a run that was to be shorter go on as one of this config, in the new place: it stays until that has ended.

    Raises:
        FolderError: The configs differ in more than the epochs, or the run would have been another from the start.
    """
    written, epochs = folder / CONFIG, config.train.epochs
    longer = replace(earlier, train=replace(earlier.train, epochs=epochs))
    if epochs <= earlier.train.epochs or digest(longer) != digest(config):
        raise FolderError(f"{folder} holds a run with another config ({written}): restore it, or give another --out")
    before, after = (each.schedule.build(each.train.total_steps(images)) for each in (earlier, config))
    if before != after:
        raise FolderError(
            f"{folder} holds a run of {earlier.train.epochs} epochs, and schedule {config.schedule.name!r} spans them "
            f"all: over {epochs} epochs its rates would have been others from the start; give another --out"
        )
    saved, new = folder / CHECKPOINT, folder / NEW
    clear(new, FILES)
    new.mkdir(exist_ok=True)
    if checkpoints.exists(saved):
        state = checkpoints.load(saved)
        ended = state.get("status") == "finished" and config.train.total_steps(images) > state["step"]
        state |= {"digest": digest(config), "status": None if ended else state.get("status")}
        checkpoints.save(new / CHECKPOINT, state)
        reconfigure(folder / RECORD, to_dict(config), new / RECORD)
