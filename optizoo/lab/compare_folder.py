"""The folder of a comparison: begun, gone on with, grown, and begun anew beside what is there.

A comparison grows by seeds, optimizers, schedules and labels: what is finished of it is kept. One that is begun anew is
made in the folder ``.new`` inside, and replaces the old one when it is whole.
"""

import json
import sys
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import report
from optizoo.lab.config import CompareConfig, ConfigError, compare_from_dict, digest, load_compare, to_dict
from optizoo.lab.files import write_json
from optizoo.lab.folder import MARK, NEW, FolderError, Kind, check, claim, clear, promote
from optizoo.lab.grid import Cell, CompareError, cells, same_runs
from optizoo.lab.records import Record, RecordError, environment, has_start, is_finished, reconfigure
from optizoo.lab.train import resolve_device

__all__ = ["ENVIRONMENT", "check_comparison", "finish", "is_written_out", "prepare"]

ENVIRONMENT = "environment.json"
KEYS = ("name", "seeds", "twins", "data", "model", "train", "optimizers", "schedules")
# What a comparison must share with one whose runs it takes over.
MACHINE = ("optizoo", "torch", "platform", "cpu", "device")


def _recognised(folder: Path) -> bool:
    """Return whether config, environment and all records of a folder are those of a comparison."""
    try:
        for path in filter(has_start, (folder / report.CELLS).glob("*.jsonl")):
            Record.read(path)
        return (folder / report.CELLS).is_dir() and is_written_out(folder)
    except RecordError:
        return False


def is_written_out(folder: Path) -> bool:
    """Return whether a folder has config and environment as a comparison writes them, with all their keys."""
    try:
        about = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        table = json.loads((folder / report.CONFIG).read_text(encoding="utf-8"))
        compare_from_dict(table)
        return {"optizoo", "torch", "threads"} <= set(about) and set(KEYS) <= set(table)
    except (ConfigError, OSError, ValueError, TypeError):
        return False


COMPARISON = Kind("comparison", _recognised)


def check_comparison(folder: Path) -> None:
    """Raise where a folder holds something else than a comparison.

    Raises:
        CompareError: The message says what, and names the remedy.
    """
    try:
        check(folder, COMPARISON)
    except FolderError as error:
        raise CompareError(str(error)) from None


def prepare(folder: Path, config: CompareConfig, data: str, *, fresh: bool, default: bool) -> Path:
    """Make the folder ready and return where the runs go: new, as an earlier call left it, grown, or beside it.

    Args:
        folder: The folder, which this process has locked.
        config: What to compare.
        data: Digest of the data.
        fresh: Begin anew.
        default: Whether the folder is named after the config: one of fewer runs then lies beside it.

    Raises:
        CompareError: The folder holds another comparison, or something else.
    """
    check_comparison(folder)
    claim(folder, COMPARISON)
    new = folder / NEW
    if (new / report.REPORT).exists():  # whole, and not quite in its place
        finish(folder)
    begun = (folder / report.CONFIG).exists()
    place = folder
    if fresh:
        clear(new, _names_in(new))
        place = new if begun else folder
    elif (new / report.CONFIG).exists() and digest(load_compare(new / report.CONFIG)) == digest(config):
        place = new
    elif begun:
        _grow(folder, config)
    (place / report.CELLS).mkdir(parents=True, exist_ok=True)
    if not (place / report.CONFIG).exists():
        write_json(place / report.CONFIG, to_dict(config))
    if not (place / ENVIRONMENT).exists():
        here = environment(resolve_device(config.train.device))
        if default and not fresh:
            here = _take_over(folder, config, data, here)
        write_json(place / ENVIRONMENT, here)
    return place


def finish(folder: Path) -> None:
    """Let a whole comparison that was begun anew take the place of the old one.

    What only the old one had is deleted.
    """
    promote(folder, _names_in(folder / NEW), stale=_names_in(folder))


def _names_in(place: Path) -> list[str]:
    """Return the names of the files of the comparison that lies there, in the order in which they replace others."""
    names = [*report.PICTURES, report.RESULTS, ENVIRONMENT, report.CONFIG, report.REPORT]
    try:
        config = load_compare(place / report.CONFIG)
    except ConfigError:  # not there, or damaged
        return names
    for cell in cells(config):
        saved = cell.checkpoint_path(place)
        paths = cell.record_path(place), saved, checkpoints.previous(saved)
        names[:0] = [str(path.relative_to(place)) for path in paths]
    return names


def _grow(folder: Path, config: CompareConfig) -> None:
    """Let the comparison in a folder be one of this config, of which all its runs must be a part."""
    path = folder / report.CONFIG
    earlier = load_compare(path)
    if digest(earlier) == digest(config):
        return
    before = cells(earlier)
    runs = same_runs(before, cells(config))
    if len(runs) < len(before):
        raise CompareError(
            f"{folder} holds a comparison with another config ({path}): "
            "give another folder with --out, or start over with --fresh"
        )
    for cell, now in runs:
        record = cell.record_path(folder)
        if cell.stem != now.stem:
            if is_finished(record):
                reconfigure(record, to_dict(now.config), now.record_path(folder))
            record.unlink(missing_ok=True)
            checkpoints.remove(cell.checkpoint_path(folder))
    write_json(path, to_dict(config))


def _take_over(folder: Path, config: CompareConfig, data: str, here: dict[str, Any]) -> dict[str, Any]:
    """Copy finished runs from the comparison of this name that has most of them, and return its environment."""
    best: Sequence[tuple[Path, Cell]] = []
    for sibling in sorted(folder.parent.glob(f"{escape(config.name)}-*/{MARK}")):
        try:
            check(sibling.parent, COMPARISON)
            there = json.loads((sibling.parent / ENVIRONMENT).read_text(encoding="utf-8"))
            earlier = cells(load_compare(sibling.parent / report.CONFIG))
            runs = [(cell.record_path(sibling.parent), now) for cell, now in same_runs(earlier, cells(config))]
            runs = [(path, now) for path, now in runs if is_finished(path) and _data_of(path) == data]
        except (FolderError, ConfigError, CompareError, RecordError, OSError, ValueError):
            continue
        if len(runs) > len(best) and all(there.get(name) == here[name] for name in MACHINE):
            best, here = runs, {**there}
    for path, now in best:
        reconfigure(path, to_dict(now.config), now.record_path(folder))
    if best:
        print(f"{len(best)} finished runs are taken from {best[0][0].parents[1]}", file=sys.stderr)
    return here


def _data_of(path: Path) -> str:
    return Record.read(path).dataset["digest"]
