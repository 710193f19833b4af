"""What to take: AdamW as it is, AdamW with warm-up and cosine, or SGD with momentum, tuned alike.

Every recipe gets the same number of trials on each model, of one seed, and keeps the one with the best accuracy on
validation images. That runs again from new seeds, and its test accuracies are compared in pairs: runs of one seed begin
at the same weights and see the same batches. The two AdamW recipes spend their trials on the rate; SGD with momentum
spends them on half as many rates, each with and without warm-up and cosine. Images have 16 x 16 pixels.

    difference of two recipes: the mean of aᵢ - bᵢ over seeds i, in its bootstrap interval
    significant: zero is outside it, and the exact paired test agrees

The lecture: AdamW is a good default, often even at a constant rate; SGD with momentum can be better, but needs more
tuning of rate and schedule.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean

from optizoo.lab import plots
from optizoo.lab.config import RunConfig
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track
from optizoo.lab.plots import Bar
from optizoo.lab.running import DATA, accuracies, curve, shrunk, train_all
from optizoo.lab.statistics import Interval, is_significant, paired_bootstrap, sign_flip_test
from optizoo.lab.train import Trained

NEEDS_DATA = True
CONSTANT, COSINE, SGD = RECIPES = ("AdamW, constant rate", "AdamW, warm-up and cosine", "SGD + momentum, tuned")
SHORT = {CONSTANT: "AdamW constant", COSINE: "AdamW cosine", SGD: "SGD"}
ADAMW_LRS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(10_000, "number of images to train on", at_least=1, at_most=IMAGES)
    batch_size: int = option(128, "images in a batch", at_least=1, at_most="images")
    epochs: int = option(8, "passes over the images", at_least=1, at_most=10_000)
    warmup: float = option(0.1, "share of the updates in the warm-up", at_least=0, below=1)
    hidden: int = option(64, "hidden units of two_layer", at_least=1, at_most=10_000)
    weight_decay: float = option(0.01, "decay of AdamW", at_least=0)
    momentum: float = option(0.9, "momentum of SGD", at_least=0, below=1)
    adamw_lrs: tuple[float, ...] = option(ADAMW_LRS, "rates of AdamW", at_least=0, nonzero=True)
    sgd_lrs: tuple[float, ...] = option(
        (0.003, 0.01, 0.03, 0.1), "rates of SGD, each with two schedules", at_least=0, nonzero=True
    )
    tuning_seed: int = option(0, "seed of the trials", at_least=0, at_most=SEEDS)
    seeds: tuple[int, ...] = option((1, 2, 3, 4, 5), "seeds of the runs that are compared", at_least=0, at_most=SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.adamw_lrs) != 2 * len(self.sgd_lrs):
            raise ExperimentError(
                f"sgd_lrs = {self.sgd_lrs}; for an equal budget it must be half as many as adamw_lrs = {self.adamw_lrs}"
            )


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each trial, then for each run of the best trials."""
    source = shrunk(options.data, options.images)
    steps = options.epochs * math.ceil(len(source.train) / options.batch_size)

    def config(model: str, recipe: str, lr: float, schedule: str, seed: int) -> RunConfig:
        return curve(
            model,
            "momentum" if recipe == SGD else "adamw",
            lr,
            {"momentum": options.momentum} if recipe == SGD else {"weight_decay": options.weight_decay},
            seed=seed,
            schedule=schedule,
            warmup_steps=min(round(options.warmup * steps), steps - 1) if schedule == "cosine" else 0,
            model_options={"hidden": options.hidden},
            epochs=options.epochs,
            batch_size=options.batch_size,
        )

    def rows(kind: str, runs: Sequence[tuple[str, str, float, str, int]]) -> list[Row]:
        def row(index: int, run: Trained) -> Row:
            named = zip(("model", "recipe", "lr", "schedule", "seed"), runs[index], strict=True)
            return {"kind": kind, **dict(named), **accuracies(run)}

        return train_all([config(*run) for run in runs], source, row, track, f"{kind}s, {runs[0][0]}")

    trials = {CONSTANT: [(lr, "constant") for lr in options.adamw_lrs]}
    trials |= {COSINE: [(lr, "cosine") for lr in options.adamw_lrs]}
    trials |= {SGD: list(product(options.sgd_lrs, ("constant", "cosine")))}
    for model in ("linear", "two_layer"):
        tuned = rows(
            "trial", [(model, recipe, *trial, options.tuning_seed) for recipe in RECIPES for trial in trials[recipe]]
        )
        yield from tuned
        best = {
            recipe: max((row for row in tuned if row["recipe"] == recipe), key=lambda row: row["validation"] or 0)
            for recipe in RECIPES
        }
        yield from rows(
            "run",
            [
                (model, recipe, best[recipe]["lr"], best[recipe]["schedule"], seed)
                for recipe in RECIPES
                for seed in options.seeds
            ],
        )


def page(rows: Sequence[Row]) -> Page:
    """Show the accuracies of the recipes, and the intervals of their differences."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    runs = {key: [row for row in rows if row["kind"] == "run" and _key(row) == key] for key in product(names, RECIPES)}
    trials = {key: [row for row in rows if row["kind"] == "trial" and _key(row) == key] for key in runs}
    tests = {key: [row["test"] or 0 for row in group] for key, group in runs.items()}
    said, table, gaps = {}, [], {}
    for model in names:
        parts = []
        for one, other in combinations(RECIPES, 2):
            pair = tests[model, one], tests[model, other]
            gap, chance, real = paired_bootstrap(*pair), sign_flip_test(*pair), is_significant(*pair)
            gaps[model, one, other] = gap, real
            table.append([model, f"{SHORT[one]} - {SHORT[other]}", *(100 * x for x in _interval(gap)), chance, real])
            parts.append(
                f"{SHORT[one]} minus {SHORT[other]} {100 * gap.mean:+.2f} points ({100 * gap.low:+.2f} to "
                f"{100 * gap.high:+.2f}; {'significant' if real else 'not significant'})"
            )
        said[model] = ", ".join(parts)
    bars = [Bar(f"{m}: {recipe}", fmean(tests[m, recipe]), *_ends(tests[m, recipe])) for m, recipe in runs]
    picked = "; ".join(
        f"{model}: " + ", ".join(
            f"{recipe} {100 * fmean(tests[model, recipe]):.2f} % (lr {runs[model, recipe][0]['lr']:g}"
            + (f", {runs[model, recipe][0]['schedule']}" if recipe == SGD else "")
            + ")"
            for recipe in RECIPES
        )
        for model in names
    )  # fmt: skip
    seeds, budget = len(next(iter(tests.values()))), len(next(iter(trials.values())))
    default, real = gaps[names[-1], CONSTANT, SGD]
    outperformed = [
        model for model in names if gaps[model, CONSTANT, SGD][1] and gaps[model, CONSTANT, SGD][0].mean < 0
    ]
    spread = "; ".join(
        f"{model}: " + ", ".join(f"{SHORT[each]} {100 * _range(_scores(trials[model, each])):.1f}" for each in RECIPES)
        for model in names
    )
    return Page(
        equations=(
            r"\mathrm{difference:}\quad \overline{d} = \frac{1}{n} \sum_{i=1}^n (a_i - b_i)",
            r"\mathrm{significant:}\quad 0 \notin \mathrm{interval\ of\ 95\,\%},\ \mathrm{and}\ "
            r"p \leq \max(0.05,\ 2^{1-n})",
        ),
        seen=(
            f"With {budget} trials for each recipe, the mean test accuracies over {seeds} seeds are: {picked}.",
            f"Differences, with 95 % intervals of the paired bootstrap: {'; '.join(f'{m}: {said[m]}' for m in names)}. "
            f"The exact test over {seeds} pairs cannot give less than p = {2 ** (1 - seeds):.3g}: "
            "significant takes this, or 0.05 where that is more.",
            f"From a recipe's worst trial to its best, validation accuracy rises by, in points: {spread}.",
        ),
        headline=Headline(
            number=f"{-100 * default.mean:+.2f} points",
            what=f"test accuracy of tuned SGD + momentum over AdamW at a constant rate on {names[-1]}: "
            f"{'significant' if real else 'not significant'} (95 % interval {-100 * default.high:+.2f} to "
            f"{-100 * default.low:+.2f})",
            claim="AdamW at a constant rate is a good default; SGD + momentum, tuned in rate and schedule, can "
            "outperform it.",
            held=bool(outperformed),
        ),
        pictures=(
            Picture(
                "accuracies",
                "Test accuracy of the recipes",
                f"Means over {seeds} seeds, each recipe with the best of its {budget} trials; whiskers from the lowest "
                "to the highest seed.",
                f"Bars of the mean test accuracy, of {budget} trials each: {picked}.",
                lambda theme: plots.bars(bars, xlabel="test accuracy (%)", percent=True, theme=theme),
                Table(["recipe", "mean", "lowest", "highest"], [[b.label, b.value, b.low, b.high] for b in bars]),
            ),
            Picture(
                "differences",
                "Differences in pairs",
                "Mean difference of test accuracy, with the 95 % interval of the paired bootstrap. Where it crosses "
                "zero, the difference is not significant.",
                f"Bars of the differences. {'. '.join(f'{m}: {said[m]}' for m in names)}.",
                lambda theme: plots.bars(
                    [Bar(f"{model}: {pair}", *row[:3]) for model, pair, *row in table],
                    xlabel="difference of test accuracy (points)",
                    theme=theme,
                ),
                Table(["model", "difference", "points", "low", "high", "exact p", "significant"], table),
            ),
        ),
    )


def _key(row: Row) -> tuple[str, str]:
    return row["model"], row["recipe"]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _interval(gap: Interval) -> tuple[float, float, float]:
    return gap.mean, gap.low, gap.high


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _scores(group: Sequence[Row]) -> list[float]:
    return [row["validation"] or 0 for row in group]
