"""The learning rate: too low, good, high, too high, and how wide the good range is.

One rate after the other is tried on a small two-layer network, on images of 16 x 16 pixels. Then every optimizer gets
the same grid of rates, the same seeds and the same number of updates, and is judged by its accuracy at the end: the
lr-sensitivity curve of Schneider et al. (DeepOBS, 2019). Its best rate is chosen on validation images.

    θ ← θ - α ∇L(θ)

The lecture: a rate that is too low learns slowly, a high one falls fast and stalls at a higher loss, one that is too
high diverges; Adam is a good default.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from optizoo.lab.config import RunConfig
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Row, Track, line_picture
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import DATA, accuracies, curve, shrunk, train_all
from optizoo.lab.train import Trained

NEEDS_DATA = True
FAMILIES = {
    "gradient": ("sgd", "momentum", "nesterov", "asgd"),
    "sign of the gradient": ("signum", "lion", "rprop"),
    "second moment": ("adagrad", "adadelta", "rmsprop", "adafactor"),
    "both moments": ("adam", "adamw", "adabelief", "yogi", "adamax", "qhadam", "nadam", "radam"),
    "beyond both moments": ("adopt", "adan", "ademamix"),
    "without a schedule": ("schedulefreesgd", "schedulefreeadamw", "prodigy"),
    "matrices": ("muon", "normuon"),
    "norms and means": ("lars", "cautiousadamw", "stableadamw", "lamb"),
}
GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
CHANCE = 0.1
NEAR = 0.02  # accuracy below the best that still counts as good
FOUR = ("too low", "good", "high", "too high")


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(5000, "number of images to train on", at_least=1, at_most=IMAGES)
    batch_size: int = option(128, "images in a batch", at_least=1, at_most="images")
    steps: int = option(150, "updates of a run", at_least=10, at_most=100_000)
    hidden: int = option(64, "hidden units", at_least=1, at_most=10_000)
    lrs: tuple[float, ...] = option(GRID, "learning rates that every optimizer is tried with", at_least=0, nonzero=True)
    multiples: tuple[float, ...] = option(
        (0.01, 1.0, 4.0, 10.0), "too low, good, high, too high: multiples of SGD's best rate", at_least=0, nonzero=True
    )
    seeds: tuple[int, ...] = option((0, 1), "seeds of weights and batches", at_least=0, at_most=SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.multiples) != len(FOUR):
            raise ExperimentError(f"multiples = {self.multiples}; it must be four numbers: {', '.join(FOUR)}")


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each run of the grid, then for each run of the four rates."""
    source = shrunk(options.data, options.images)
    epochs = math.ceil(options.steps / math.ceil(len(source.train) / options.batch_size))

    def rows(runs: Sequence[tuple[str, float, int]], what: str) -> list[Row]:
        def config(name: str, lr: float, seed: int) -> RunConfig:
            kind, more = ("momentum", {"nesterov": True}) if name == "nesterov" else (name, {})
            return curve(
                "two_layer",
                kind,
                lr,
                more,
                seed=seed,
                model_options={"hidden": options.hidden},
                epochs=epochs,
                max_steps=options.steps,
                batch_size=options.batch_size,
            )

        def row(index: int, run: Trained) -> Row:
            name, lr, seed = runs[index]
            ran = {"losses": run.losses.tolist(), "diverged": run.status == "diverged"}
            return {"optimizer": name, "lr": lr, "seed": seed, **ran, **accuracies(run)}

        return train_all([config(*run) for run in runs], source, row, track, what)

    names = [name for family in FAMILIES.values() for name in family]
    grid = [{"kind": "grid"} | row for row in rows(list(product(names, options.lrs, options.seeds)), "grid")]
    for row in grid:
        yield {key: value for key, value in row.items() if key != "losses"}
    good = _best(grid, "sgd")
    four = list(product(options.seeds, zip(FOUR, options.multiples, strict=True)))
    runs = rows([("sgd", good * factor, seed) for seed, (_, factor) in four], "four rates")
    for (_, (name, _)), row in zip(four, runs, strict=True):
        yield {"kind": "four", "name": name, "steps": options.steps} | row


def page(rows: Sequence[Row]) -> Page:
    """Show the loss at four rates of SGD, and the accuracy of every optimizer at every rate."""
    grid, four = ([row for row in rows if row["kind"] == kind] for kind in ("grid", "four"))
    names, lrs, seeds = (list(dict.fromkeys(row[key] for row in grid)) for key in ("optimizer", "lr", "seed"))
    best = {name: _best(grid, name) for name in names}
    tests = {name: {lr: _mean(grid, name, lr, "test") for lr in lrs} for name in names}
    at_best = {name: tests[name][best[name]] for name in names}
    good = {name: [lr for lr in lrs if tests[name][lr] >= at_best[name] - NEAR] for name in names}
    widths = {name: max(good[name]) / min(good[name]) for name in names}
    steps, start = four[0]["steps"], fmean(row["losses"][0] for row in four)
    curves, ends = [], {}
    for name in FOUR:
        runs = [row for row in four if row["name"] == name]
        padded = [row["losses"] + [None] * (steps - len(row["losses"])) for row in runs]
        curves.append(Line.over_seeds(f"{name}: {runs[0]['lr']:g}", range(steps), padded))
        diverged = any(row["diverged"] for row in runs)
        ends[name] = math.inf if diverged else fmean(fmean(row["losses"][-steps // 10 :]) for row in runs)
    rates = {row["name"]: row["lr"] for row in four}
    said = {name: f"ends at {end:.3g}" if end < math.inf else "diverges" for name, end in ends.items()}
    accuracies = [
        Line.over_seeds(
            name,
            lrs,
            [[row["test"] for row in grid if (row["optimizer"], row["seed"]) == (name, seed)] for seed in seeds],
            panel=family,
        )
        for family, members in FAMILIES.items()
        for name in members
        if name in names  # older records have fewer
    ]
    first, last, wide, narrow = (
        choose(names, key=numbers.__getitem__) for numbers in (at_best, widths) for choose in (max, min)
    )
    summary = ", ".join(f"{name} {100 * at_best[name]:.1f} % at {best[name]:g}" for name in names)
    return Page(
        equations=(r"\theta \leftarrow \theta - \alpha \nabla L(\theta)",),
        seen=(
            f"SGD's loss begins at {start:.2f}. A rate that is too low ({rates['too low']:g}) {said['too low']}, the "
            f"good one ({rates['good']:g}, best on validation) {said['good']}, a high one ({rates['high']:g}) "
            f"{said['high']}, and one that is too high ({rates['too high']:g}) {said['too high']}.",
            f"With {len(lrs)} rates for each optimizer, the mean test accuracies at the best rates, over "
            f"{len(seeds)} seed{'s' * (len(seeds) != 1)}, lie between {100 * at_best[last]:.1f} % ({last}) and "
            f"{100 * at_best[first]:.1f} % ({first}), and these rates between {min(best.values()):g} and "
            f"{max(best.values()):g}.",
            f"The rates that cost up to {100 * NEAR:g} points span a factor of {widths[wide]:.3g} for {wide}, the "
            f"most, of {widths[narrow]:.3g} for {narrow}, the least, and of {widths['adam']:.3g} for adam.",
        ),
        headline=Headline(
            number=f"{ends['good']:.2f} nats" if ends["good"] < math.inf else "diverged",
            what=f"training loss at SGD's good rate {rates['good']:g}; "
            + "; ".join(f"at {rates[name]:g} it {said[name]}" for name in FOUR if name != "good"),
            claim="Too low a rate learns slowly, a high one ends at a higher loss, one that is too high diverges.",
            held=None
            if ends["good"] == math.inf
            else ends["good"] < min(ends["too low"], ends["high"]) < math.inf and ends["too high"] > start,
        ),
        pictures=(
            line_picture(
                "four",
                "SGD at four learning rates",
                "Loss of each batch: mean over seeds, from the lowest to the highest as a band. A line ends where a "
                "run left the finite numbers; what is far above the start is cut off.",
                f"The training loss against the step, a line for each rate: {'; '.join(map(' '.join, said.items()))}.",
                curves,
                xlabel="step",
                ylabel="loss of the batch (nats)",
                ylim=(0.0, 2 * start),
            ),
            line_picture(
                "sensitivity",
                "Accuracy at the end against the learning rate",
                f"All optimizers: the same {len(lrs)} rates, {len(seeds)} seeds and {steps} updates; bands from the "
                "lowest to the highest seed. Where a run diverged there is no point.",
                f"Four panels of the test accuracy against the rate, logarithmic. Best accuracies: {summary}.",
                accuracies,
                xlabel="learning rate",
                ylabel="test accuracy (%)",
                xscale="log",
                percent=True,
                marks=[Mark(CHANCE, "chance")],
            ),
        ),
    )


def _mean(grid: Sequence[Row], name: str, lr: float, split: str) -> float:
    """Return the mean accuracy over seeds; 0 if one diverged."""
    scores = [row[split] for row in grid if (row["optimizer"], row["lr"]) == (name, lr)]
    return 0.0 if None in scores else fmean(scores)


def _best(grid: Sequence[Row], name: str) -> float:
    """Return the rate with the best validation accuracy."""
    return max(dict.fromkeys(row["lr"] for row in grid), key=lambda lr: _mean(grid, name, lr, "validation"))
