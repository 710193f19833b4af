"""What the trials of a sweep say: standings, budgets, rates, times to a target, and where a space was too small."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from optizoo.lab.statistics import Standing, expected_best, standings
from optizoo.lab.sweep.config import SweepConfig
from optizoo.lab.sweep.spaces import Point

__all__ = ["Summary", "Tuned", "best_points", "summarize", "tuning_value"]

Trial = dict[str, Any]  # optizoo.lab.rows.Trial
NEAR = 0.005  # within half a point of an optimizer's best, a budget is enough


@dataclass(frozen=True)
class Tuned:
    """What is known of one optimizer.

    Attributes:
        label: Of the optimizer.
        best: The point that won.
        index: Its number.
        value: Its mean validation accuracy; ``None`` where every point diverged.
        tried: Every point with its value; ``None`` where it diverged.
        best_of: Expected best validation accuracy of k points, for k = 1 to all. A point that diverged counts as 0.
        enough: The least k whose expected best is within half a point of the best.
        edges: For each range at whose end the best value lies, which end.
        steps: Median number of updates to the target over the new seeds; ``None`` where less than half reach it.
        images: The same in images.
        seconds: The same in seconds of a run that has the machine to itself.
        reached: Number of new seeds that reach the target.
        step_seconds: Median time of an update; ``None`` where it was not measured.
    """

    label: str
    best: Point
    index: int
    value: float | None
    tried: list[tuple[Point, float | None]]
    best_of: list[float]
    enough: int
    edges: dict[str, str]
    steps: float | None
    images: float | None
    seconds: float | None
    reached: int
    step_seconds: float | None


@dataclass(frozen=True)
class Summary:
    """What a sweep came to.

    Attributes:
        config: The sweep.
        standings: Of test accuracies, the best first.
        tuned: What is known of each optimizer, by label.
        target: Validation accuracy that the times are counted to: the median of the baseline's reruns at their end;
            ``None`` where the baseline has none.
        finished: Number of runs that are done.
        runs: Number of runs of the whole sweep.
    """

    config: SweepConfig
    standings: list[Standing]
    tuned: dict[str, Tuned]
    target: float | None
    finished: int
    runs: int


def tuning_value(runs: Sequence[Trial]) -> float:
    """Return what a point is chosen by: its mean validation accuracy at the end, minus infinity if a run diverged."""
    values = [run["result"]["validation_accuracy"] for run in runs]
    return -math.inf if None in values or any(map(_diverged, runs)) else fmean(values)


def best_points(config: SweepConfig, trials: Sequence[Trial]) -> dict[str, tuple[int, Point]]:
    """Return for each optimizer the number of its best point, the first of equals, and the point."""
    found = {}
    for optimizer in config.optimizers:
        groups = _points(trials, optimizer.label)
        index = max(groups, key=lambda index: (tuning_value(groups[index]), -index))
        found[optimizer.label] = (index, groups[index][0]["point"])
    return found


def summarize(config: SweepConfig, trials: Sequence[Trial]) -> Summary:
    """Return what the trials of a finished sweep say, in any order.

    >>> config = SweepConfig(trials=2, reruns=2)
    >>> result = {"status": "finished", "validation_accuracy": 0.5, "test_accuracy": 0.4}
    >>> run = {"optimizer": "sgd", "point": {"lr": 0.1}, "epochs": [], "result": result}
    >>> trials = [{**run, "phase": "tuning", "index": index, "seed": 0} for index in range(2)]
    >>> trials += [{**run, "phase": "rerun", "index": 0, "seed": seed} for seed in (1, 2)]
    >>> [(each.label, each.mean, each.groups) for each in summarize(config, trials).standings]
    [('sgd', 0.4, 'a')]
    """
    reruns = {each.label: _reruns(trials, each.label) for each in config.optimizers}
    sound = {label: [run for run in runs if not _diverged(run)] for label, runs in reruns.items()}
    accuracies = {label: {run["seed"]: run["result"]["test_accuracy"] for run in runs} for label, runs in sound.items()}
    ends = [run["result"]["validation_accuracy"] for run in sound[config.baseline]]
    target = median(ends) if ends else None
    best = best_points(config, [run for run in trials if run["phase"] == "tuning"])
    return Summary(
        config=config,
        standings=standings(accuracies, {label: len(reruns[label]) - len(sound[label]) for label in reruns}),
        tuned={label: _tuned(config, label, trials, *best[label], target) for label in reruns},
        target=target,
        finished=len(trials),
        runs=len(config.optimizers) * (config.budget * len(config.tuning_seeds) + config.reruns),
    )


def _tuned(
    config: SweepConfig, label: str, trials: Sequence[Trial], index: int, best: Point, target: float | None
) -> Tuned:
    groups = _points(trials, label)
    values = {each: tuning_value(runs) for each, runs in sorted(groups.items())}
    finite = [value if math.isfinite(value) else 0.0 for value in values.values()]
    curve = expected_best(finite)
    spaces = config.spaces(config.optimizer(label))
    edges = {name: space.edge(best[name]) for name, space in spaces.items()}
    reruns = _reruns(trials, label)
    times = [run["step_seconds"] for run in reruns if run.get("step_seconds") is not None]
    step_seconds = median(times) if times else None
    first = [epoch for run in reruns if (epoch := _first(run, target)) is not None]
    # A run that does not reach it takes longer than any that does.
    enough = 2 * len(first) > len(reruns)
    missing = [math.inf] * (len(reruns) - len(first))
    steps = median([epoch["step"] for epoch in first] + missing) if enough else None
    per_step = [_images(config, run) for run in reruns]
    images = None if steps is None or not per_step else steps * per_step[0]
    return Tuned(
        label=label,
        best=best,
        index=index,
        value=values[index] if math.isfinite(values[index]) else None,
        tried=[(groups[each][0]["point"], value if math.isfinite(value) else None) for each, value in values.items()],
        best_of=curve,
        enough=next(k for k, value in enumerate(curve, start=1) if value >= curve[-1] - NEAR),
        edges={name: edge for name, edge in edges.items() if edge is not None},
        steps=steps,
        images=images,
        seconds=None if steps is None or step_seconds is None else steps * step_seconds,
        reached=len(first),
        step_seconds=step_seconds,
    )


def _images(config: SweepConfig, run: Trial) -> float:
    """Return the images that an update sees, on the average of an epoch."""
    if not run["epochs"] or "dataset" not in run:
        return float(config.train.batch_size)
    return run["dataset"]["train"] * run["epochs"][0]["epoch"] / max(1, run["epochs"][0]["step"])


def _first(run: Trial, target: float | None) -> Mapping[str, Any] | None:
    """Return the first epoch at whose end the target was reached."""
    if target is None:
        return None
    found = (epoch for epoch in run["epochs"] if (epoch.get("validation_accuracy") or 0.0) >= target)
    return next(found, None)


def _points(trials: Sequence[Trial], label: str) -> dict[int, list[Trial]]:
    groups: dict[int, list[Trial]] = {}
    for run in trials:
        if run["phase"] == "tuning" and run["optimizer"] == label:
            groups.setdefault(run["index"], []).append(run)
    return groups


def _reruns(trials: Sequence[Trial], label: str) -> list[Trial]:
    return [run for run in trials if run["phase"] == "rerun" and run["optimizer"] == label]


def _diverged(run: Trial) -> bool:
    return run["result"]["status"] == "diverged"
