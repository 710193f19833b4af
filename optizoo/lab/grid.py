"""The grid of a comparison: its runs, the files of each, and which of them are the same run under another label."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optizoo.lab import report
from optizoo.lab.config import CompareConfig, OptimizerConfig, RunConfig, ScheduleConfig, digest
from optizoo.testing import has_torch_twin

__all__ = ["Cell", "CompareError", "cells", "pairs", "same_runs"]


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
    return [cell for pair in pairs(config) for cell in pair]


def pairs(config: CompareConfig) -> Iterator[tuple[Cell, ...]]:
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


def same_runs(earlier: Sequence[Cell], later: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """Return the cells of ``earlier`` that are also in ``later``, each beside what it is there: labels may differ."""
    known = {cell.stem for cell in earlier}
    free: dict[str, list[Cell]] = defaultdict(list)
    for cell in later:
        free[_identity(cell)].append(cell)
    found = []
    for cell in earlier:
        same = free[_identity(cell)]
        own = [each for each in same if each.stem == cell.stem] or [each for each in same if each.stem not in known]
        if own:
            same.remove(own[0])
            found.append((cell, own[0]))
    return found


def _identity(cell: Cell) -> str:
    """Return what two cells share if they are one run: all of the config but the labels."""
    optimizer, schedule = cell.config.optimizer, cell.config.schedule
    return digest(
        replace(
            cell.config,
            optimizer=replace(optimizer, label=optimizer.name),
            schedule=replace(schedule, label=schedule.name),
        )
    )
