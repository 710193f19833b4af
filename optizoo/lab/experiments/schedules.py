"""Schedules: step, cosine, linear, inverse square root and constant, with warm-up and without.

A high rate gets down fast and then jumps about the minimum; a schedule ends with a low one. A warm-up climbs from 0,
before the first steps at the full rate can throw the weights far away. All runs have the same base rate α, of AdamW on
a small two-layer network and images of 16 x 16 pixels, so that nothing but the schedule differs. T is the number of
updates, T₀ a tenth of it.

    step: α / 10 after each third of T
    cosine: α (1 + cos(πt/T)) / 2
    linear: α (1 - t/T)
    inverse square root: α / √(1 + t/T₀)
    warm-up: αt/W for the first W updates, then the schedule

The lecture: a rate that decays ends better than a constant one, and a warm-up keeps the first losses from exploding.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import optizoo
from optizoo.lab import plots
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.plots import Bar, Line
from optizoo.lab.running import DATA, accuracies, curve, rounded, shrunk, train_all
from optizoo.lab.train import Trained

NEEDS_DATA = True
WARMUPS = ("no warm-up", "warm-up")
POINTS = 40  # of a loss curve, each the mean of the batches since the last


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(5000, "number of images to train on", at_least=1, at_most=IMAGES)
    batch_size: int = option(128, "images in a batch", at_least=1, at_most="images")
    steps: int = option(400, "updates of a run", at_least=10, at_most=100_000)
    warmup_steps: int = option(40, "updates of the warm-up", at_least=1, below="steps")
    hidden: int = option(64, "hidden units", at_least=1, at_most=10_000)
    optimizer: str = option("adamw", "the optimizer", choices=optizoo.list_optimizers())
    lr: float = option(0.01, "base learning rate", at_least=0, nonzero=True)
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of weights and batches", at_least=0, at_most=SEEDS)


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each schedule, with and without warm-up, and each seed."""
    source = shrunk(options.data, options.images)
    steps = options.steps
    kinds = {"constant": {}, "step": {"period": steps / 3}, "cosine": {}, "linear": {}}
    kinds["inverse_sqrt"] = {"timescale": steps / 10}
    runs = list(product(kinds, WARMUPS, options.seeds))
    configs = [
        curve(
            "two_layer",
            options.optimizer,
            options.lr,
            seed=seed,
            schedule=name,
            warmup_steps=options.warmup_steps if warmup == "warm-up" else 0,
            schedule_options=kinds[name],
            model_options={"hidden": options.hidden},
            epochs=math.ceil(steps / math.ceil(len(source.train) / options.batch_size)),
            max_steps=steps,
            batch_size=options.batch_size,
        )
        for name, warmup, seed in runs
    ]

    def row(index: int, run: Trained) -> Row:
        name, warmup, seed = runs[index]
        schedule, losses = configs[index].schedule.build(steps), run.losses.tolist()
        return {
            "schedule": name.replace("inverse_sqrt", "inverse square root"), "warmup": warmup, "seed": seed,
            "rates": [options.lr * schedule(step) for step in range(steps)],
            "losses": rounded(losses) + [None] * (steps - len(losses)), "early": max(losses[: options.warmup_steps]),
            "early_steps": options.warmup_steps, "optimizer": options.optimizer, "lr": options.lr,
            "test": accuracies(run)["test"],
        }  # fmt: skip

    yield from train_all(configs, source, row, track, "runs")


def page(rows: Sequence[Row]) -> Page:
    """Show rates, losses and accuracies of every schedule, with warm-up and without."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["schedule"], row["warmup"]), []).append(row)
    names, steps, first = list(dict.fromkeys(name for name, _ in runs)), len(rows[0]["rates"]), rows[0]
    tests = {key: [row["test"] or 0 for row in group] for key, group in runs.items()}
    means = {key: fmean(values) for key, values in tests.items()}
    early = {warmup: max(row["early"] for row in rows if row["warmup"] == warmup) for warmup in WARMUPS}
    start = fmean(row["losses"][0] for row in rows)
    decaying = [name for name in names if name != "constant"]
    flat = {warmup: tests["constant", warmup] for warmup in WARMUPS}
    better = [
        name
        for name in decaying
        if all(a > b for warmup in WARMUPS for a, b in zip(tests[name, warmup], flat[warmup], strict=True))
    ]
    best = max(decaying, key=lambda name: means[name, WARMUPS[0]])
    gain = 100 * (means[best, WARMUPS[0]] - fmean(flat[WARMUPS[0]]))
    gains = {name: 100 * (means[name, WARMUPS[1]] - means[name, WARMUPS[0]]) for name in names}
    width = max(1, steps // POINTS)
    x = [start + (width - 1) / 2 for start in range(0, steps - width + 1, width)]
    rates, losses = [], []
    for (name, warmup), group in runs.items():
        smooth = [[_mean(row["losses"], step, width) for step in range(0, steps - width + 1, width)] for row in group]
        losses.append(Line.over_seeds(warmup, x, smooth, panel=name))
        rates.append(Line(warmup, range(steps), group[0]["rates"], panel=name))
    bars = [Bar(" with ".join((name, w)), means[name, w], min(tests[name, w]), max(tests[name, w])) for name, w in runs]
    bars = [Bar(bar.label.replace(" with no warm-up", ""), bar.value, bar.low, bar.high) for bar in bars]
    said = ", ".join(f"{bar.label} {100 * (bar.value or 0):.1f} %" for bar in bars)
    seeds = len(tests["constant", WARMUPS[0]])
    return Page(
        equations=(
            r"\mathrm{cosine:}\ \alpha\,(1 + \cos(\pi t / T))\,/\,2 \qquad \mathrm{linear:}\ \alpha\,(1 - t/T)",
            r"\mathrm{inverse\ square\ root:}\ \alpha\,/\,\sqrt{1 + t/T_0} \qquad "
            r"\mathrm{step:}\ \alpha\,/\,10\ \mathrm{after\ each\ third}",
            r"\mathrm{warm{-}up:}\ \alpha\, t / W\ \mathrm{for}\ t < W,\ \mathrm{then\ the\ schedule}",
        ),
        seen=(
            f"At the base rate {first['lr']:g} of {first['optimizer']} the constant rate ends at "
            f"{100 * fmean(flat[WARMUPS[0]]):.1f} % of the test images, and the best decay, {best}, at "
            f"{100 * means[best, WARMUPS[0]]:.1f} %; {len(better)} of {len(decaying)} decays beat the constant rate "
            f"with all {seeds} seeds, with warm-up and without.",
            f"The loss begins at {start:.2f}; in the first {first['early_steps']} updates it climbs up to "
            f"{early[WARMUPS[0]]:.2f} without warm-up and to {early[WARMUPS[1]]:.2f} with it. What the warm-up adds to "
            f"the test accuracy at the end: {', '.join(f'{name} {gains[name]:+.1f}' for name in names)} points.",
        ),
        headline=Headline(
            number=f"{gain:+.1f} points",
            what=f"test accuracy of the best decay, {best}, over that of a constant rate, without warm-up; "
            f"{len(better)} of {len(decaying)} decays beat it with every seed",
            claim="A learning rate that decays ends better than a constant one.",
            held=len(better) == len(decaying),
        ),
        pictures=(
            line_picture(
                "rates",
                "The learning rate",
                "The five schedules, with warm-up and without.",
                f"Five panels of the learning rate against the step, each with two lines, which {first['early_steps']} "
                "steps of warm-up part.",
                rates,
                xlabel="step",
                ylabel="learning rate",
                height=1.7,
            ),
            line_picture(
                "losses",
                "The training loss under it",
                f"In the same places. Means of {width} batches over {seeds} seeds; bands from lowest to highest.",
                f"Five panels of the training loss against the step. Test accuracies at the end: {said}.",
                losses,
                xlabel="step",
                ylabel="loss (nats)",
                height=1.7,
            ),
            Picture(
                "accuracies",
                "Test accuracy at the end",
                f"Means over {seeds} seeds; whiskers from the lowest to the highest.",
                f"Ten bars: {said}.",
                lambda theme: plots.bars(bars, xlabel="test accuracy (%)", percent=True, theme=theme),
                Table(["schedule", "mean", "lowest", "highest"], [[b.label, b.value, b.low, b.high] for b in bars]),
            ),
        ),
    )


def _mean(losses: Sequence[float | None], start: int, width: int) -> float | None:
    values = losses[start : start + width]
    return None if None in values else fmean(values)  # type: ignore[arg-type]
