"""The report of a sweep, made from ``config.json`` and ``trials.jsonl`` in its folder and from nothing else.

- ``leaderboard.txt``: the leaderboard, and what it says
- ``report.html``: all of it with pictures and the table of trials, on one page that needs no other file
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from optizoo.lab import files, pictures, plots
from optizoo.lab.config import ConfigError, digest, to_dict
from optizoo.lab.files import write_json
from optizoo.lab.folder import FolderError, Kind, check, claim
from optizoo.lab.pictures import Dots
from optizoo.lab.plots import Line, Mark
from optizoo.lab.records import TRIALS, RecordError
from optizoo.lab.statistics import Standing, verdict
from optizoo.lab.sweep.analysis import NEAR, Summary, Trial, Tuned, summarize
from optizoo.lab.sweep.config import SweepConfig, load_sweep
from optizoo.lab.sweep.spaces import Point
from optizoo.lab.templates import inlined, render
from optizoo.tables import text_table

__all__ = ["CONFIG", "SWEEP", "check", "findings", "format_text", "prepare", "read", "write"]

CONFIG = "config.json"
REPORT = "report.html"
LEADERBOARD = "leaderboard.txt"
NONE = "–"


def _recognised(folder: Path) -> bool:
    """Return whether a folder has the config of a sweep: another worker may be about to mark it."""
    try:
        return bool(load_sweep(folder / CONFIG).optimizers) and "tuning_seeds" in (folder / CONFIG).read_text("utf-8")
    except ConfigError:
        return False


SWEEP = Kind("sweep", _recognised)


def prepare(folder: Path, config: SweepConfig) -> None:
    """Make the folder of a sweep, or go on with it.

    Raises:
        FolderError: It holds something else.
    """
    path = folder / CONFIG
    claim(folder, SWEEP)
    if path.exists() and digest(load_sweep(path)) != digest(config):
        raise FolderError(f"{folder} holds a sweep with another config ({path}): give another folder with --out")
    if not path.exists():
        # What is written can be handed on: it does not tell where the data lie.
        write_json(path, to_dict(replace(config, data=replace(config.data, root=None, cache=None))))


def read(folder: str | Path) -> Summary:
    """Read what the sweep in a folder came to.

    Raises:
        ConfigError: The folder holds no sweep.
        RecordError: Its trials are missing or corrupt.
    """
    folder = Path(folder)
    config = load_sweep(folder / CONFIG)
    try:
        lines = (folder / TRIALS).read_text(encoding="utf-8").splitlines()
        return summarize(config, [json.loads(line) for line in lines])
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder / TRIALS}: cannot be read ({error}); run the sweep again, it goes on") from None


def write(folder: str | Path) -> Path:
    """Write the report of the sweep in a folder, and return the path of its page."""
    folder = Path(folder)
    summary = read(folder)
    files.write(folder / LEADERBOARD, format_text(summary) + "\n")
    files.write(folder / REPORT, _page(summary, _trials(folder)))
    return folder / REPORT


def format_text(summary: Summary) -> str:
    """Return the leaderboard, and what it says, as plain text."""
    rows = [list(HEADER), *(_cells(each, summary.tuned[each.label]) for each in summary.standings)]
    return "\n".join([text_table(rows, right=[1, 2, 4, 5, 6, 7, 8]), "", *findings(summary)])


def findings(summary: Summary) -> list[str]:
    """Return what a sweep says, in sentences."""
    found = [verdict(summary.standings)]
    if summary.target is not None:
        found.append(
            f"Target of the times: {100 * summary.target:.2f} % on the validation images, the median of "
            f"{summary.config.baseline}'s reruns."
        )
    for each in summary.tuned.values():
        found += [
            f"{each.label}: the best {name} = {each.best[name]:g} lies at the {edge} end of its range: widen it."
            for name, edge in each.edges.items()
        ]
    diverged = [f"{each.label} ({each.diverged})" for each in summary.standings if each.diverged]
    if diverged:
        found.append(f"Diverged from new seeds: {', '.join(diverged)}.")
    return found


HEADER = (
    "optimizer",
    "test accuracy (%)",
    "behind the best (points)",
    "group",
    "validation (%)",
    "trials",
    "steps",
    "images",
    "seconds",
    "best point",
)


def _cells(standing: Standing, tuned: Tuned) -> list[str]:
    spread = "" if standing.std is None else f" ± {100 * standing.std:.2f}"
    accuracy = NONE if standing.mean is None else f"{100 * standing.mean:.2f}{spread} ({len(standing.values)})"
    behind = NONE
    if standing.behind is not None:
        low, high = 100 * standing.behind.low, 100 * standing.behind.high
        behind = f"{100 * standing.behind.mean:.2f} [{low:.2f}, {high:.2f}]"
    return [
        standing.label,
        accuracy + (f", {standing.diverged} diverged" if standing.diverged else ""),
        behind,
        standing.groups or NONE,
        NONE if tuned.value is None else f"{100 * tuned.value:.2f}",
        str(tuned.enough),
        _number(tuned.steps, ".0f"),
        _number(tuned.images, ".3g"),
        _number(tuned.seconds, ".2g"),
        _point(tuned.best),
    ]


def _number(value: float | None, form: str) -> str:
    text = NONE if value is None else format(value, form)
    return f"{float(text):.0f}" if "e" in text else text


def _point(point: Point) -> str:
    return ", ".join(
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}" for name, value in point.items()
    )


def _trials(folder: Path) -> list[Trial]:
    return [json.loads(line) for line in (folder / TRIALS).read_text(encoding="utf-8").splitlines()]


def _page(summary: Summary, trials: Sequence[Trial]) -> str:
    config = summary.config
    styles = pictures.styles(each.label for each in config.optimizers)
    environments = {}
    for trial in trials:
        what = {key: value for key, value in trial["environment"].items() if key != "date"}
        environments.setdefault(json.dumps(what, sort_keys=True), trial["environment"])
    table = to_dict(config)
    return render(
        "sweep.html",
        config=config,
        config_json=json.dumps(table, indent=2),
        header=HEADER,
        rows=[
            {"colour": styles[each.label].colour, "cells": _cells(each, summary.tuned[each.label])}
            for each in summary.standings
        ],
        findings=findings(summary),
        summary=summary,
        near=f"{100 * NEAR:g}",
        pictures=[
            {"caption": caption, "light": inlined(light), "dark": inlined(dark)}
            for caption, light, dark in _pictures(summary)
        ],
        trials=[
            {
                "phase": trial["phase"],
                "optimizer": trial["optimizer"],
                "index": trial["index"],
                "seed": trial["seed"],
                "point": _point(trial["point"]),
                "status": trial["result"]["status"],
                "validation": _percent(trial["result"]["validation_accuracy"]),
                "test": _percent(trial["result"]["test_accuracy"]),
            }
            for trial in trials
        ],
        optimizers=table["optimizers"],
        dataset=trials[0].get("dataset") if trials else None,
        environments=list(environments.values()),
    )


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def _pictures(summary: Summary) -> list[tuple[str, bytes, bytes]]:
    """Draw the pictures: a caption, and the PNG for light and for dark paper."""
    config, tuned = summary.config, summary.tuned
    styles = pictures.styles(each.label for each in config.optimizers)
    dots = [
        Dots(each.label, f"{each.label} ({each.groups or NONE})", [*each.values.values()]) for each in summary.standings
    ]
    budgets = [Line(each.label, range(1, len(each.best_of) + 1), each.best_of) for each in tuned.values()]
    rates = [_rates(each) for each in tuned.values() if "lr" in each.best]
    best = max((each.value for each in tuned.values() if each.value is not None), default=0.0)
    marks = [] if summary.target is None else [Mark(summary.target, "target")]
    shared = {"ylabel": "validation accuracy (%)", "percent": True, "given": styles}

    def drawn(theme: pictures.Theme) -> list[tuple[str, Figure]]:
        figures = [
            (
                "Test accuracy from new seeds, best mean first. One dot is one seed; letters are the groups.",
                pictures.accuracies(dots, styles=styles, theme=theme),
            ),
            (
                "What a budget buys: the expected best validation accuracy of so many trials, drawn from those made.",
                plots.lines(budgets, xlabel="trials", marks=marks, ylim=_top(budgets, best), theme=theme, **shared),
            ),
        ]
        if rates:
            caption = (
                "How much the learning rate matters: validation accuracy over the rate, at each the best of three "
                "neighbours where other options were searched too. Gaps are runs that diverged."
            )
            figure = plots.lines(rates, xlabel="learning rate", xscale="log", theme=theme, **shared)
            figures.append((caption, figure))
        return figures

    both = zip(drawn(pictures.LIGHT), drawn(pictures.DARK), strict=True)
    return [(caption, pictures.png(light), pictures.png(dark)) for (caption, light), (_, dark) in both]


def _top(lines: Sequence[Line], best: float) -> tuple[float, float] | None:
    """Return the end of the axis where the differences are: from the lower of the middle curves on."""
    middle = [line.y[len(line.y) // 2] or 0.0 for line in lines]
    low = min((each for each in middle if each > 0), default=0.0)
    return (max(0.0, low - 0.2 * (best - low) - 0.01), best + 0.01) if best > 0 else None


def _rates(tuned: Tuned) -> Line:
    tried = sorted(((point["lr"], value) for point, value in tuned.tried), key=lambda each: each[0])
    values = [value for _, value in tried]
    if len(tuned.best) > 1:
        around = [values[max(0, index - 1) : index + 2] for index in range(len(values))]
        values = [max((each for each in near if each is not None), default=None) for near in around]
    return Line(tuned.label, [rate for rate, _ in tried], values)
