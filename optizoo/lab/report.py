"""Reports: the table, the pictures and the page of a comparison, made from its records and from nothing else.

The folder of a comparison holds ``config.json`` and, for every finished run, a record in ``cells/``. :func:`write`
makes the rest of it, and can do so again at any time:

- ``results.jsonl``: the rows of the table, one JSON object a line; see :class:`Row`
- ``training_loss.png``, ``validation_accuracy.png``, ``test_accuracy.png``, and ``schedules.png`` if there are several
- ``report.html``: all of it on one page that needs no other file, no network and no script
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypedDict

from matplotlib.figure import Figure

from optizoo.lab import files, pictures
from optizoo.lab.config import CompareConfig, load_compare, to_dict
from optizoo.lab.pictures import Curve, Dots
from optizoo.lab.records import START, Record
from optizoo.lab.statistics import Standing, standings, verdict
from optizoo.lab.templates import inlined, render
from optizoo.tables import text_table
from optizoo.testing import has_torch_twin

__all__ = ["Row", "RunSummary", "TwinSummary", "format_table", "read", "summarize", "twin_verdict", "write"]

CONFIG = "config.json"
CELLS = "cells"
RESULTS = "results.jsonl"
REPORT = "report.html"
PICTURES = tuple(f"{name}.png" for name in ("training_loss", "validation_accuracy", "test_accuracy", "schedules"))
NONE = "–"
PROOF_STEPS = 100  # of a loop that runs beside a faster backend
LIBRARIES = ("optizoo", "torch")


class RunSummary(TypedDict):
    """What the runs of one optimizer under one schedule came to, over seeds. Runs that diverged are only counted.

    Attributes:
        finished: Number of runs that ended with finite losses.
        diverged: Number of runs that did not.
        test_accuracies: One for each finished run, from 0 to 1, in the order of the seeds.
        test_accuracy_mean: Their mean; ``None`` without a finished run, as the other means.
        test_accuracy_std: Their sample standard deviation (n - 1); ``None`` for fewer than two runs.
        final_loss_mean: Mean of the last epoch's mean training loss.
        seconds_mean: Mean training time in seconds, evaluation left out.
    """

    finished: int
    diverged: int
    test_accuracies: list[float]
    test_accuracy_mean: float | None
    test_accuracy_std: float | None
    final_loss_mean: float | None
    seconds_mean: float | None


class TwinSummary(RunSummary):
    """The same of the twins in ``torch.optim``, and how far the two are apart.

    Attributes:
        pairs: Number of runs that were compared with their twin.
        losses_identical: Number of these whose losses were the same at every step, bit for bit.
        max_param_difference: Largest absolute difference of a parameter at the end, over all pairs; ``None`` where
            there is no pair, or where a difference is not finite.
        proofs: Number of pairs whose loops were run beside them.
        proofs_identical: Number of these whose loops had the same losses and the same parameters, bit for bit.
    """

    pairs: int
    losses_identical: int
    max_param_difference: float | None
    proofs: int
    proofs_identical: int


class Row(RunSummary):
    """One row of the table.

    Attributes:
        optimizer: Label of the optimizer.
        schedule: Label of the schedule.
        behind: How far its test accuracy is behind the best, paired by seed: mean and both ends of the 95 % interval;
            ``None`` for the best, and for fewer than two pairs.
        groups: Letters; rows that share one cannot be told apart. See :func:`optizoo.lab.statistics.standings`.
        twin: The twins; ``None`` where there are none.
    """

    optimizer: str
    schedule: str
    behind: list[float] | None
    groups: str
    twin: TwinSummary | None


def read(folder: str | Path) -> tuple[CompareConfig, list[Record]]:
    """Read the config of a comparison and the records of its finished runs.

    Raises:
        ConfigError: ``folder`` holds no comparison.
        RecordError: A record is corrupt.
    """
    folder = Path(folder)
    config = load_compare(folder / CONFIG)
    paths = [path for path in sorted((folder / CELLS).glob("*.jsonl")) if path.read_bytes()[:100].startswith(START)]
    records = [Record.read(path) for path in paths]
    return config, [record for record in records if record.result is not None]


def twin_verdict(record: Record) -> dict[str, Any] | None:
    """Return what a comparison added to a record when it held the run against its twin, if it did.

    It has ``losses_identical`` and ``max_param_difference``, which is ``None`` where a difference is not finite.
    """
    return next((event for event in reversed(record.others) if event["event"] == "twin"), None)


def summarize(config: CompareConfig, records: Sequence[Record]) -> list[Row]:
    """Return a row for each optimizer and schedule, the best mean test accuracy first, those without a result last.

    Args:
        config: The comparison.
        records: Finished runs, in any order; runs that are still missing are left out of the means.
    """
    groups = _grouped(records)
    stand = {each.label: each for each in _standings(config, records)}
    rows: list[Row] = []
    for optimizer in config.optimizers:
        for schedule in config.schedules:
            standing = stand[_name(config, optimizer.label, schedule.label)]
            ours, twins = (groups.get((optimizer.label, schedule.label, library), []) for library in LIBRARIES)
            twin: TwinSummary | None = None
            if config.twins and has_torch_twin(optimizer.name, **optimizer.options):
                verdicts = [found for record in ours if (found := twin_verdict(record)) is not None]
                differences = [each["max_param_difference"] for each in verdicts]
                twin = {
                    **_summary(twins),
                    "pairs": len(verdicts),
                    "losses_identical": sum(each["losses_identical"] for each in verdicts),
                    "max_param_difference": max(differences) if differences and None not in differences else None,
                    "proofs": sum("loops_identical" in each for each in verdicts),
                    "proofs_identical": sum(each.get("loops_identical", False) for each in verdicts),
                }
            rows.append(
                {
                    "optimizer": optimizer.label,
                    "schedule": schedule.label,
                    **_summary(ours),
                    "behind": None if standing.behind is None else [*astuple(standing.behind)],
                    "groups": standing.groups,
                    "twin": twin,
                }
            )
    return sorted(rows, key=lambda row: 1.0 if row["test_accuracy_mean"] is None else -row["test_accuracy_mean"])


def _standings(config: CompareConfig, records: Sequence[Record]) -> list[Standing]:
    """Return where each optimizer, under each schedule, stands in test accuracy."""
    values, lost = {}, {}
    groups = _grouped(records)
    for optimizer, schedule in product(config.optimizers, config.schedules):
        name = _name(config, optimizer.label, schedule.label)
        runs = groups.get((optimizer.label, schedule.label, LIBRARIES[0]), [])
        results = {run.config["seed"]: run.result for run in runs if run.result is not None and not _diverged(run)}
        accuracies = {seed: result["test_accuracy"] for seed, result in results.items()}
        values[name] = {seed: each for seed, each in accuracies.items() if each is not None}
        lost[name] = sum(map(_diverged, runs))
    return standings(values, lost)


def _name(config: CompareConfig, optimizer: str, schedule: str) -> str:
    return f"{optimizer} with {schedule}" if len(config.schedules) > 1 else optimizer


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in plain text. A column that says nothing, such as a single schedule, is left out."""
    columns = _columns(rows)
    lines = [[column.title for column in columns], *([column.text(row) for column in columns] for row in rows)]
    return text_table(lines, right=[index for index, column in enumerate(columns) if not column.is_name])


def write(folder: str | Path) -> Path:
    """Make table, pictures and page from the records in ``folder``, and return the path of the page.

    Runs that are not finished are left out, and the page says how many.

    Raises:
        ConfigError: ``folder`` holds no comparison.
        RecordError: A record is corrupt.
    """
    folder = Path(folder)
    config, records = read(folder)
    rows = summarize(config, records)
    drawn = _pictures(config, records, rows)
    files.write(folder / RESULTS, "".join(json.dumps(row) + "\n" for row in rows))
    for picture in drawn:
        files.write(folder / f"{picture.name}.png", picture.light)
    files.write(folder / REPORT, _page(config, records, rows, drawn))
    return folder / REPORT


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """A column of the table; ``text`` gives the cell of a row. Names stand to the left, numbers to the right."""

    title: str
    text: Callable[[Row], str]
    is_name: bool = False


def _columns(rows: Sequence[Row]) -> list[_Column]:
    columns = [_Column("optimizer", lambda row: row["optimizer"], is_name=True)]
    if len({row["schedule"] for row in rows}) > 1:
        columns.append(_Column("schedule", lambda row: row["schedule"], is_name=True))
    columns += [
        _Column("test accuracy (%)", _accuracy),
        *([_Column("group", lambda row: row["groups"] or NONE, is_name=True)] if _several(rows) else []),
        _Column("final loss", lambda row: _number(row["final_loss_mean"], ".4f")),
        _Column("seconds", lambda row: _number(row["seconds_mean"], ".1f")),
    ]
    if any(row["twin"] for row in rows):
        columns += [
            _Column("torch accuracy (%)", lambda row: _of_twin(row, _accuracy, "no twin")),
            _Column("torch seconds", lambda row: _of_twin(row, lambda twin: _number(twin["seconds_mean"], ".1f"))),
            _Column("largest difference", lambda row: _of_twin(row, _difference)),
            _Column("losses identical", lambda row: _of_twin(row, _identical)),
        ]
    if any(row["twin"] and row["twin"]["proofs"] for row in rows):
        columns.append(_Column("loops identical", lambda row: _of_twin(row, _proven)))
    return columns


def _accuracy(runs: RunSummary) -> str:
    """Write mean ± standard deviation (number of runs), and how many runs diverged.

    >>> _accuracy(_summarized([0.40, 0.42], diverged=1))
    '41.00 ± 1.41 (2), 1 diverged'
    """
    mean, std = runs["test_accuracy_mean"], runs["test_accuracy_std"]
    parts = []
    if mean is not None:
        spread = "" if std is None else f" ± {100 * std:.2f}"
        parts.append(f"{100 * mean:.2f}{spread} ({runs['finished']})")
    if runs["diverged"]:
        parts.append("diverged" if mean is None else f"{runs['diverged']} diverged")
    return ", ".join(parts) or NONE


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form if abs(value) < 1e6 else ".4g")


def _of_twin(row: Row, text: Callable[[TwinSummary], str], without: str = NONE) -> str:
    return without if row["twin"] is None else text(row["twin"])


def _difference(twin: TwinSummary) -> str:
    difference = twin["max_param_difference"]
    if difference is None:
        return "not finite" if twin["pairs"] else NONE
    return "0" if difference == 0 else f"{difference:.1e}"


def _several(rows: Sequence[Row]) -> bool:
    """Return whether there is anything to tell apart."""
    return sum(len(row["test_accuracies"]) > 1 for row in rows) > 1


def _proven(twin: TwinSummary) -> str:
    return _of_pairs(twin["proofs"], twin["proofs_identical"])


def _identical(twin: TwinSummary) -> str:
    return _of_pairs(twin["pairs"], twin["losses_identical"])


def _of_pairs(pairs: int, identical: int) -> str:
    if not pairs:
        return NONE
    return "yes" if identical == pairs else "no" if identical == 0 else f"{identical} of {pairs}"


def _grouped(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Return the records by optimizer, schedule and library, in the order of the seeds."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: record.config["seed"]):
        optimizer = record.config["optimizer"]
        key = optimizer["label"], record.config["schedule"]["label"], optimizer["library"]
        groups.setdefault(key, []).append(record)
    return groups


def _diverged(record: Record) -> bool:
    return record.result is not None and record.result["status"] == "diverged"


def _summary(records: Sequence[Record]) -> RunSummary:
    results = [record.result for record in records if record.result is not None and not _diverged(record)]
    return _summarized(
        [result["test_accuracy"] for result in results],
        losses=[result["final_loss"] for result in results],
        seconds=[result["seconds"] for result in results],
        diverged=sum(map(_diverged, records)),
    )


def _summarized(
    accuracies: Sequence[float], *, losses: Sequence[float] = (), seconds: Sequence[float] = (), diverged: int = 0
) -> RunSummary:
    return {
        "finished": len(accuracies),
        "diverged": diverged,
        "test_accuracies": list(accuracies),
        "test_accuracy_mean": fmean(accuracies) if accuracies else None,
        "test_accuracy_std": stdev(accuracies) if len(accuracies) > 1 else None,
        "final_loss_mean": fmean(losses) if losses else None,
        "seconds_mean": fmean(seconds) if seconds else None,
    }


# The pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """A picture of the report, as PNG in the colours of both themes.

    Attributes:
        name: Its file, without the ending.
        caption: What it shows, as one or two sentences.
        light: For light paper; this one also becomes the file.
        dark: For dark paper.
    """

    name: str
    caption: str
    light: bytes
    dark: bytes


def _pictures(config: CompareConfig, records: Sequence[Record], rows: Sequence[Row]) -> list[_Picture]:
    """Draw what there is to draw: nothing as long as no run is finished."""
    if not records:
        return []
    styles = pictures.styles(optimizer.label for optimizer in config.optimizers)

    def picture(name: str, caption: str, draw: Callable[..., Figure], drawn: Any, **options: Any) -> _Picture:
        light, dark = (pictures.png(draw(drawn, theme=theme, **options)) for theme in (pictures.LIGHT, pictures.DARK))
        return _Picture(name, caption, light, dark)

    drawn = [
        picture(
            "test_accuracy",
            "Test accuracy at the end of training, best mean first. One dot is one seed.",
            pictures.accuracies,
            _dots(config, rows),
            styles=styles,
        )
    ]
    if losses := _curves(config, records, "train_loss"):
        caption = "Mean training loss of each epoch. Lines are means over seeds."
        options = {"styles": styles, "ylabel": "training loss (nats)"}
        drawn.append(picture("training_loss", caption, pictures.curves, losses, **options))
    if validation := _curves(config, records, "validation_accuracy"):
        caption = "Accuracy on the validation images. Lines are means over seeds."
        options = {"styles": styles, "ylabel": "validation accuracy (%)", "percent": True}
        drawn.append(picture("validation_accuracy", caption, pictures.curves, validation, **options))
    if len(config.schedules) > 1:
        steps = config.train.total_steps(records[0].dataset["train"])
        caption = "The schedules: what the learning rate of each optimizer is multiplied by."
        built = {schedule.label: schedule.build(steps) for schedule in config.schedules}
        factors = {label: [_factor(schedule, step) for step in range(steps)] for label, schedule in built.items()}
        drawn.append(picture("schedules", caption, pictures.schedules, factors))
    return drawn


def _factor(schedule: Callable[[int], float], step: int) -> float:
    try:
        return schedule(step)
    except OverflowError:  # a schedule may grow without end
        return math.nan


def _dots(config: CompareConfig, rows: Sequence[Row]) -> list[Dots]:
    several = len(config.schedules) > 1
    return [
        Dots(
            row["optimizer"],
            f"{row['optimizer']}, {row['schedule']}" if several else row["optimizer"],
            row["test_accuracies"],
            row["twin"]["test_accuracies"] if row["twin"] else (),
        )
        for row in rows
    ]


def _curves(config: CompareConfig, records: Sequence[Record], key: str) -> list[Curve]:
    """Return a curve of ``key`` for each group of runs that recorded it, in the order of the config."""
    groups = _grouped(records)
    lines = []
    for schedule, optimizer, library in product(config.schedules, config.optimizers, LIBRARIES):
        runs = groups.get((optimizer.label, schedule.label, library), [])
        seeds = [{epoch["epoch"]: epoch[key] for epoch in run.epochs if epoch.get(key) is not None} for run in runs]
        if x := sorted(set().union(*seeds)):
            values = [_until_missing(seed, x) for seed in seeds]
            lines.append(Curve(optimizer.label, schedule.label, x, values, twin=library == "torch"))
    return lines


def _until_missing(values: dict[int, float], x: Sequence[int]) -> list[float]:
    """Return the values at ``x`` up to the first that is not there: a run that stopped early ends there."""
    kept = []
    for each in x:
        if each not in values:
            break
        kept.append(values[each])
    return kept


# The page -------------------------------------------------------------------------------------------------------------


def _page(config: CompareConfig, records: Sequence[Record], rows: Sequence[Row], drawn: Sequence[_Picture]) -> str:
    table = to_dict(config)
    columns = _columns(rows)
    styles = pictures.styles(optimizer.label for optimizer in config.optimizers)
    runs = sum((2 if row["twin"] else 1) * len(config.seeds) for row in rows)
    environments = {}
    for record in records:
        # Runs on the same machine differ in nothing but the date.
        what = {key: value for key, value in record.environment.items() if key != "date"}
        environments.setdefault(json.dumps(what, sort_keys=True), record.environment)
    return render(
        "report.html",
        config=config,
        config_json=json.dumps(table, indent=2),
        columns=[{"title": column.title, "is_name": column.is_name} for column in columns],
        rows=[
            {"colour": styles[row["optimizer"]].colour, "cells": [column.text(row) for column in columns]}
            for row in rows
        ],
        findings=_findings(config, records, rows),
        pictures=[
            {"caption": picture.caption, "light": inlined(picture.light), "dark": inlined(picture.dark)}
            for picture in drawn
        ],
        finished=len(records),
        proof_steps=PROOF_STEPS,
        runs=runs,
        optimizers=table["optimizers"],
        schedules=table["schedules"],
        environments=list(environments.values()),
        dataset=records[0].dataset if records else None,
        steps=config.train.total_steps(records[0].dataset["train"]) if records else None,
    )


def _findings(config: CompareConfig, records: Sequence[Record], rows: Sequence[Row]) -> list[str]:
    """Return what the table says, in sentences."""
    findings = []
    if any(row["test_accuracies"] for row in rows):
        findings.append(verdict(_standings(config, records)))
    twins = [row["twin"] for row in rows if row["twin"] is not None and row["twin"]["pairs"]]
    if twins:
        pairs, identical = sum(twin["pairs"] for twin in twins), sum(twin["losses_identical"] for twin in twins)
        all_of = f"All {pairs}" if identical == pairs else f"{identical} of {pairs}"
        findings.append(f"{all_of} runs have, at every step, bit for bit the loss of their torch.optim twin.")
        proofs, proven = sum(twin["proofs"] for twin in twins), sum(twin["proofs_identical"] for twin in twins)
        if proofs:
            all_of = f"All {proofs}" if proven == proofs else f"{proven} of {proofs}"
            findings.append(f"{all_of} loops that ran beside them have bit for bit the steps of torch.optim's loop.")
    diverged = [row["optimizer"] for row in rows if row["diverged"]]
    if diverged:
        findings.append(f"Diverged at least once: {', '.join(dict.fromkeys(diverged))}.")
    return findings
