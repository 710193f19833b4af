"""A worker of a sweep: it pulls trials from the storage until all are done, and then writes the report.

A sweep has two parts. In the first, every point of every optimizer is trained from the tuning seeds; what counts is the
mean validation accuracy at the end, and a run that diverged makes it the worst. These runs have no test images. In the
second, the best point of each optimizer is trained from new seeds, and the test images are looked at once, at the end.

Trials go in fixed batches, each to one worker, where the runs of a seed train side by side: they begin with the same
number for their weights and see the same batches. Who trains a batch makes no difference to its results, as long as the
workers have the same number of threads and the same kind of processor.
"""

import json
import math
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

from sqlalchemy import URL

from optizoo.lab import data, limits
from optizoo.lab.checkpoint import Interruption
from optizoo.lab.config import ConfigError, RunConfig, ScheduleConfig, digest
from optizoo.lab.data import Dataset, Split
from optizoo.lab.files import write
from optizoo.lab.records import TRIALS
from optizoo.lab.sweep import report
from optizoo.lab.sweep.analysis import Trial, best_points, summarize, tuning_value
from optizoo.lab.sweep.config import OptimizerSpace, SweepConfig
from optizoo.lab.sweep.spaces import Point, suggest
from optizoo.lab.sweep.storage import HEARTBEAT, Batch, Claim, Key, Storage, embedded, pull, reach
from optizoo.lab.train import Trained, resolve_device, train, train_runs

__all__ = ["SweepResult", "sweep", "work"]

TIMED_STEPS = 25


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        table: The leaderboard and what it says, as plain text.
        folder: Where everything lies.
        trials: A :class:`~optizoo.lab.rows.Trial` for each run.
    """

    table: str
    folder: Path
    trials: list[Trial]


def sweep(
    config: SweepConfig,
    out: str | Path | None = None,
    *,
    storage: str | None = None,
    progress: bool = True,
    heartbeat: int = HEARTBEAT,
) -> SweepResult:
    """Run a sweep, or what is left of it, beside all other workers that do; then write the report.

    Args:
        config: What to tune and compare.
        out: The folder; by default ``runs/<name>-<digest of the config>``.
        storage: URL of the database that the workers share, such as ``postgresql://user@host/database``; by default a
            file in the folder.
        progress: Show a progress bar, on a terminal.
        heartbeat: Seconds between two signs of life; after three times as long in silence a worker has died.

    Raises:
        ConfigError: A run cannot be built.
        DataError: The data are missing or broken.
        FolderError: The folder holds something else.
        StorageError: The storage cannot be reached, or holds a sweep of other data.
    """
    folder = Path("runs") / f"{config.name}-{digest(config)}" if out is None else Path(out)
    report.check(folder, report.SWEEP)  # what is not ours, or not there, shows before the data are read
    if storage is not None:
        reach(storage)[0].dispose()
    dataset = data.load(**asdict(config.data)).to(device := resolve_device(config.train.device))
    limits.check_run(config, images=len(dataset.train), classes=len(dataset.classes), device=device)
    _check_schedules(config, len(dataset.train))
    report.prepare(folder, config)
    trials = work(config, dataset, storage or embedded(folder), progress=progress, heartbeat=heartbeat)
    write(folder / TRIALS, "".join(json.dumps({"event": "trial", **trial}) + "\n" for trial in trials))
    report.write(folder)
    return SweepResult(report.format_text(summarize(config, trials)), folder, trials)


def work(
    config: SweepConfig, dataset: Dataset, url: str | URL, *, progress: bool = True, heartbeat: int = HEARTBEAT
) -> list[Trial]:
    """Pull trials from a storage until all are done, by whomever, and return them; see :func:`sweep`."""
    name = f"{config.name}-{digest(config)}"
    about = {"data": dataset.digest}
    with Interruption() as interruption, closing(Storage(url, name, about, heartbeat)) as shared:
        worker = _Worker(config, shared, dataset, interruption, progress=progress)
        worker.tune()
        worker.rerun()
        results = shared.results()
    return [run for key in worker.order() for run in results[key]["runs"]]


class _Worker:
    """One of the processes that work on a sweep."""

    def __init__(
        self, config: SweepConfig, storage: Storage, dataset: Dataset, interruption: Interruption, *, progress: bool
    ) -> None:
        self.config, self.storage, self.dataset = config, storage, dataset
        # Who tunes has no test images to look at.
        self.blind = replace(dataset, test=Split(dataset.test.images[:0], dataset.test.labels[:0]))
        self.points = {each.label: config.points(each) for each in config.optimizers if config.sampler == "quasi"}
        self._pull = partial(pull, storage, interruption=interruption, progress=progress)
        labels = [each.label for each in config.optimizers]
        tuned = [f"tuning/{label}/{index}" for index in range(config.budget) for label in labels]
        size = config.population if config.sampler == "quasi" else 1
        count = math.ceil(len(tuned) / size)  # of batches that are as large as each other
        ends = [len(tuned) * index // count for index in range(count + 1)]
        self.tuning = [tuned[start:end] for start, end in pairwise(ends)]
        self.reruns = [[f"rerun/{label}/{seed}" for label in labels] for seed in config.new_seeds]

    def order(self) -> list[Key]:
        """Return the keys of all trials, in an order that does not depend on who ran them."""
        return [key for batch in [*self.tuning, *self.reruns] for key in batch]

    def tune(self) -> None:
        """Train points until all of them are done, by whomever."""
        self._pull(self.tuning, self._tune, "tuning")

    def rerun(self) -> None:
        """Train the best points from new seeds until all of them are done, by whomever."""
        runs = [run for result in self.storage.results("tuning/").values() for run in result["runs"]]
        best = best_points(self.config, runs)

        def rerun(batch: Batch, claims: Sequence[Claim]) -> None:
            wanted = [(self.config.optimizer(label), *best[label], seed) for label, seed in map(_parts, batch)]
            configs = [self.config.run(optimizer, point, seed=seed) for optimizer, _, point, seed in wanted]
            for claim, run, trained in self._trained(batch, claims, configs, self.dataset):
                optimizer, index, point, seed = wanted[run]
                row = _row("rerun", optimizer.label, index, seed, point, trained)
                if seed == self.config.new_seeds[0]:
                    row["step_seconds"] = _step_seconds(configs[run], self.blind)
                accuracy = row["result"]["test_accuracy"]
                self._tell(claim, optimizer, point, -math.inf if accuracy is None else accuracy, [row])

        self._pull(self.reruns, rerun, "new seeds")

    def _tune(self, batch: Batch, claims: Sequence[Claim]) -> None:
        places = [*map(_parts, batch)]
        optimizers = [self.config.optimizer(label) for label, _ in places]
        points = [self._point(each, index, claims) for each, (_, index) in zip(optimizers, places, strict=True)]
        runs: dict[int, list[Trial]] = {}
        held = {}
        for seed in self.config.tuning_seeds:
            configs = [self.config.run(*each, seed=seed) for each in zip(optimizers, points, strict=True)]
            for claim, run, trained in self._trained(batch, claims, configs, self.blind):
                label, index = places[run]
                runs.setdefault(run, []).append(_row("tuning", label, index, seed, points[run], trained))
                held[run] = claim
        for run, rows in runs.items():
            self._tell(held[run], optimizers[run], points[run], tuning_value(rows), rows)

    def _point(self, optimizer: OptimizerSpace, index: int, claims: Sequence[Claim]) -> Point:
        """Return the point of a trial: known from the start, or drawn from what the trials before have shown."""
        if optimizer.label in self.points:
            return self.points[optimizer.label][index]
        own = f"tuning/{optimizer.label}/"
        tried = [
            (result["runs"][0]["point"], tuning_value(result["runs"])) for result in self.storage.results(own).values()
        ]
        tried += [(noted["point"], -math.inf) for noted in self.storage.running(own).values() if "point" in noted]
        point = suggest(self.config.spaces(optimizer), tried, seed=self.config.seed + index)
        self.storage.note(claims[0], "point", point)
        return point

    def _trained(
        self, batch: Batch, claims: Sequence[Claim], configs: Sequence[RunConfig], dataset: Dataset
    ) -> Iterator[tuple[Claim, int, Trained]]:
        """Train a whole batch, and yield what is claimed of it, with its place in the batch."""
        by_key = {claim.key: claim for claim in claims}
        for run, trained in enumerate(_train_all(configs, dataset)):
            if batch[run] in by_key:
                yield by_key[batch[run]], run, trained

    def _tell(self, claim: Claim, optimizer: OptimizerSpace, point: Point, value: float, rows: Sequence[Trial]) -> None:
        # Of the same name, options of two optimizers are two parameters.
        spaces = {f"{optimizer.label}.{name}": space for name, space in self.config.spaces(optimizer).items()}
        named = {f"{optimizer.label}.{name}": each for name, each in point.items()}
        worker = f"{platform.node()}:{os.getpid()}"
        self.storage.tell(claim, value, {"runs": [*rows], "worker": worker}, named, spaces)


def _train_all(configs: Sequence[RunConfig], dataset: Dataset) -> list[Trained]:
    return [trained for _, trained in sorted(train_runs(configs, dataset), key=itemgetter(0))]


def _parts(key: Key) -> tuple[str, int]:
    _, label, number = key.split("/")
    return label, int(number)


def _row(phase: str, label: str, index: int, seed: int, point: Point, trained: Trained) -> Trial:
    record = trained.record
    assert record.result is not None
    return {
        "phase": phase,
        "optimizer": label,
        "index": index,
        "seed": seed,
        "point": json.loads(json.dumps(point)),
        "digests": record.digests,
        "environment": record.environment,
        "dataset": record.dataset,
        "epochs": record.epochs,
        "result": {key: value for key, value in record.result.items() if key not in ("losses", "steps_losses_every")},
    }


def _step_seconds(config: RunConfig, dataset: Dataset) -> float:
    """Return the time of an update of a run that has the machine to itself, as far as it has: the less of two."""
    short = replace(config.train, max_steps=TIMED_STEPS, epochs=TIMED_STEPS, tolerance=None, evaluate_every=TIMED_STEPS)
    unseen = replace(dataset, validation=dataset.test)
    alone = replace(config, train=short, schedule=ScheduleConfig())  # a warm-up may be longer
    times = []
    for _ in range(2):  # the first may have to build a kernel
        result = train(alone, unseen, progress=False).record.result
        assert result is not None
        times.append(result["seconds"] / max(1, result["steps"]))
    return min(times)


def _check_schedules(config: SweepConfig, images: int) -> None:
    """Raise before the first run if a schedule does not fit the length of the runs."""
    for optimizer in config.optimizers:
        spaces = config.spaces(optimizer)
        for end in (0.0, 1.0):
            schedule = (optimizer.schedule or config.schedule).at({name: each.at(end) for name, each in spaces.items()})
            try:
                schedule.build(config.train.total_steps(images))
            except ConfigError as error:
                raise error.inside("schedule") from None
