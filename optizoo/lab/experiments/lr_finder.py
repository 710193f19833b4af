"""The range test: one short run suggests a learning rate.

The rate grows by the same factor in every step until the loss diverges. The test suggests the smaller of two rates:
where the smoothed loss fell fastest, and a tenth of where it was lowest. To see what that is worth, each optimizer is
trained at the suggestion and at every rate of a grid of one to each decade, from the same weights on the same batches.

    sweep: α_t = low · (high / low)^(t / (T-1))
    suggestion: min(α of the steepest fall, α of the minimum / 10)

The lecture: the learning rate decides about training; a short sweep finds a good one without a search.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

import optizoo
from optizoo.lab import find_lr, models, plots
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture, option
from optizoo.lab.pictures import Theme
from optizoo.lab.plots import Line
from optizoo.lab.running import DATA, batch_loss, descend, images, minibatches

NEEDS_DATA = True


@dataclass(frozen=True)
class Options:
    """The options."""

    data: str = DATA
    images: int = option(5_000, "number of images to train on", at_least=1)
    batch_size: int = option(128, "images in a batch", at_least=1)
    hidden: int = option(64, "hidden units of the two-layer model", at_least=1)
    optimizers: tuple[str, ...] = option(("sgd", "momentum", "rmsprop", "adam"), "optimizers")
    low: float = option(1e-6, "learning rate at which the sweep begins", at_least=0)
    high: float = option(10.0, "learning rate at which it ends", at_least=0)
    sweep: int = option(100, "steps of the sweep", at_least=20)
    steps: int = option(200, "updates of a run of training", at_least=1)
    grid: tuple[float, ...] = option((1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "learning rates of the grid", at_least=0)
    close: float = option(0.02, "how far from the grid's best accuracy is as good, as a fraction of all images")
    seed: int = option(0, "seed of weights and batches", at_least=0)

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ExperimentError(f"low = {self.low:g}; it must be above 0 and below high, which is {self.high:g}")


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each model and optimizer: the sweep, and accuracies at the suggestion and over the grid."""
    train, validation, _ = images(options.data, options.images)
    shape = {"linear": {}, "two_layer": {"hidden": options.hidden}}

    def start(name: str, optimizer: str, lr: float) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = models.create(name, seed=options.seed, **shape[name])
        return model, optizoo.create(optimizer, model, lr=lr)

    def batches():
        return minibatches(train, options.batch_size, seed=options.seed)

    def trained(name: str, which: str, lr: float) -> tuple[float | None, float | None]:
        """Return loss and accuracy on the validation images, or nothing where the loss was not finite."""
        model, optimizer = start(name, which, lr)
        for loss in descend(optimizer, batch_loss(model, batches()), options.steps):
            if not isfinite(loss):
                return None, None
        with torch.no_grad():
            scores = model(validation.x)
        loss = cross_entropy(scores, validation.y).item()
        return (loss, (scores.argmax(1) == validation.y).float().mean().item()) if isfinite(loss) else (None, None)

    for name, which in track(list(product(shape, options.optimizers)), "models and optimizers"):
        found = find_lr(
            *start(name, which, options.low), nn.CrossEntropyLoss(), batches(),
            low=options.low, high=options.high, steps=options.sweep,
        )  # fmt: skip
        runs = [{"lr": lr, **dict(zip(("loss", "accuracy"), trained(name, which, lr), strict=True))} for lr in options.grid]
        loss, accuracy = trained(name, which, found.suggestion) if found.suggestion else (None, None)
        yield {
            "model": name, "optimizer": which, "lrs": found.lrs, "smoothed": found.smoothed, "remark": found.remark,
            "suggestion": found.suggestion, "steepest": found.steepest, "tenth": found.tenth, "loss": loss,
            "accuracy": accuracy, "grid": runs, "steps": options.steps, "close": options.close,
        }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the sweeps, and what their suggestions are worth."""
    ranked = [_Ranked(row, _best(row)) for row in rows]
    suggested = [each for each in ranked if each.gap is not None]
    good = [each for each in suggested if each.gap is not None and each.gap <= each.row["close"]]
    close, steps, runs = 100 * rows[0]["close"], rows[0]["steps"], len(rows[0]["grid"])
    worst = max(suggested, key=lambda each: each.gap or 0.0, default=None)
    none = [f"{each.name} ({each.row['remark']})" for each in ranked if not each.row["suggestion"]]
    told = "; ".join(
        f"{each.name} {each.row['suggestion']:.2g}, the grid's best {each.best['lr']:g}"
        for each in suggested
        if each.best
    )
    start = max(row["smoothed"][0] for row in rows)
    sweeps = [
        Line(row["optimizer"], row["lrs"], [y if y and y < 1.5 * start else None for y in row["smoothed"]], panel=_title(row))
        for row in rows
    ]
    training = [
        Line(row["optimizer"], [run["lr"] for run in row["grid"]], [run["accuracy"] for run in row["grid"]], panel=_title(row))
        for row in rows
    ]
    stars = [
        Line(f"{row['optimizer']}", [row["suggestion"]], [row["accuracy"]], panel=_title(row))
        for row in rows
        if row["suggestion"]
    ]
    return Page(
        equations=(
            r"\alpha_t = \mathrm{low} \cdot (\mathrm{high}/\mathrm{low})^{t/(T-1)}",
            r"\alpha = \min(\alpha_{\mathrm{steepest}},\; \alpha_{\mathrm{lowest}} / 10)",
        ),
        seen=("",),
        headline=Headline("", "", "", None),
        pictures=(),
    )
