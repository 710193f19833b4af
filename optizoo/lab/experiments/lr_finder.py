"""The range test: one short run suggests a learning rate.

The rate grows by the same factor in every step until the loss diverges. The test suggests the smaller of two rates:
where the smoothed loss fell fastest, and a tenth of where it was lowest. To see what that is worth, each optimizer is
trained at the suggestion and at every rate of a grid of one to each decade, from the same weights on the same batches.

    sweep: α_t = low · (high / low)^(t / (T-1))
    suggestion: min(α of the steepest fall, α of the minimum / 10)

The lecture: a learning rate can be too low, good, high, or too high. The range test is Smith's (2017).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite

import torch
from matplotlib.figure import Figure
from torch import nn

import optizoo
from optizoo.lab import find_lr, models, plots
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.pictures import Theme
from optizoo.lab.plots import Line
from optizoo.lab.running import DATA, batch_loss, descend, images, minibatches

NEEDS_DATA = True


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(5_000, "number of images to train on", at_least=1, at_most=IMAGES)
    batch_size: int = option(128, "images in a batch", at_least=1, at_most="images")
    hidden: int = option(64, "hidden units of the two-layer model", at_least=1, at_most=10_000)
    optimizers: tuple[str, ...] = option(
        ("sgd", "momentum", "rmsprop", "adam"), "optimizers", choices=optizoo.list_optimizers()
    )
    low: float = option(1e-6, "learning rate at which the sweep begins", at_least=0)
    high: float = option(10.0, "learning rate at which it ends", at_least=0)
    sweep: int = option(100, "steps of the sweep", at_least=20, at_most=10_000)
    steps: int = option(200, "updates of a run of training", at_least=1, at_most=100_000)
    grid: tuple[float, ...] = option(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), "learning rates of the grid", at_least=0, nonzero=True
    )
    close: float = option(
        0.02, "how far from the grid's best accuracy is as good, as a fraction of all images", at_least=0, at_most=1
    )
    seed: int = option(0, "seed of weights and batches", at_least=0, at_most=SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def trained(name: str, which: str, lr: float) -> float | None:
        """Return the accuracy on the validation images, or nothing where the loss was not finite."""
        model, optimizer = start(name, which, lr)
        for loss in descend(optimizer, batch_loss(model, batches()), options.steps):
            if not isfinite(loss):
                return None
        with torch.no_grad():
            scores = model(validation.x)
        return (scores.argmax(1) == validation.y).float().mean().item() if scores.isfinite().all() else None

    for name, which in track(list(product(shape, options.optimizers)), "models and optimizers"):
        found = find_lr(
            *start(name, which, options.low), nn.CrossEntropyLoss(), batches(),
            low=options.low, high=options.high, steps=options.sweep,
        )  # fmt: skip
        yield {
            "model": name, "optimizer": which, "lrs": found.lrs, "smoothed": found.smoothed, "remark": found.remark,
            "suggestion": found.suggestion, "steepest": found.steepest, "tenth": found.tenth,
            "accuracy": trained(name, which, found.suggestion) if found.suggestion else None,
            "grid": [{"lr": lr, "accuracy": trained(name, which, lr)} for lr in options.grid],
            "steps": options.steps, "close": options.close,
        }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the sweeps, and what their suggestions are worth."""
    close, steps, decisive, told, ahead = rows[0]["close"], rows[0]["steps"], [], [], []
    for row in rows:
        grid = {run["lr"]: run["accuracy"] or 0.0 for run in row["grid"]}
        best = max(grid, key=lambda lr: grid[lr])
        decisive.append(grid[best] - max(grid[min(grid)], grid[max(grid)]) > close)
        ahead.append((row["accuracy"] or 0.0) - grid[best])
        what = f"lr {row['suggestion']:.2g}" if row["suggestion"] else f"no suggestion ({row['remark']})"
        reached = f"{100 * row['accuracy']:.1f} %" if row["accuracy"] is not None else "nothing"
        told.append(f"{_name(row)}: {what}, {reached}; lr {best:g}, {100 * grid[best]:.1f} %")
    good, last = sum(each >= -close for each in ahead), ahead.index(min(ahead))
    lrs = [run["lr"] for run in rows[0]["grid"]]
    columns = [*(f"{lr:g}" for lr in lrs), "suggested"]
    cells = [[*(run["accuracy"] for run in row["grid"]), row["accuracy"]] for row in rows]
    highest = 1.2 * max(row["smoothed"][0] for row in rows)
    sweeps = [
        Line(
            row["optimizer"],
            row["lrs"],
            [loss if loss is not None and loss <= highest else None for loss in row["smoothed"]],
            panel=row["model"].replace("_", "-"),
        )
        for row in rows
    ]

    def table(theme: Theme) -> Figure:
        return plots.heatmap(
            cells, columns=columns, rows=[_name(row) for row in rows], xlabel="learning rate", ylabel="",
            unit="validation accuracy", form=lambda value: f"{100 * value:.1f} %", theme=theme,
        )  # fmt: skip

    return Page(
        equations=(
            r"\alpha_t = \mathrm{low} \cdot (\mathrm{high}/\mathrm{low})^{t/(T-1)}",
            r"\alpha = \min(\alpha_{\mathrm{steepest}},\; \alpha_{\mathrm{lowest}} / 10)",
        ),
        seen=(
            f"After {steps} steps, {good} of {len(rows)} suggestions are within {100 * close:g} points of the best of "
            f"{len(lrs)} rates that were tried one by one, or above it. Each took a sweep of at most "
            f"{max(len(row['lrs']) for row in rows)} steps, where the grid took {steps * len(lrs)}.",
            f"The weakest is {100 * abs(ahead[last]):.1f} points {'below' if ahead[last] < 0 else 'above'} the best of "
            f"the grid, which is named second: {told[last]}.",
            f"For {sum(decisive)} of {len(rows)} pairs both ends of the grid are worse than its best by more than "
            f"{100 * close:g} points.",
        ),
        headline=Headline(
            number=f"{good} of {len(rows)}",
            what=f"suggestions of the range test within {100 * close:g} points of the best of a grid, or above",
            claim="A learning rate can be too low and too high; a good one lies between.",
            held=all(decisive),
        ),
        pictures=(
            line_picture(
                "sweeps",
                "The loss while the rate grows",
                f"Smoothed loss of the batches; above {highest:.3g} it is not drawn.",
                "Panels of the loss against the learning rate, one a model. The suggestions: "
                f"{', '.join(f'{_name(row)} {_spoken(row)}' for row in rows)}.",
                sweeps,
                xlabel="learning rate",
                ylabel="loss (nats)",
                xscale="log",
            ),
            Picture(
                "accuracy",
                "Training at the suggestion, and over the grid",
                f"Accuracy on the validation images after {steps} steps; a dash where the loss was not finite.",
                f"A table of accuracies, a row for each model and optimizer. {' · '.join(told)}.",
                table,
                Table(
                    ["model, optimizer", *columns, "suggested lr", "steepest", "tenth of the minimum"],
                    [
                        [_name(row), *line, *(row[key] for key in ("suggestion", "steepest", "tenth"))]
                        for row, line in zip(rows, cells, strict=True)
                    ],
                ),
            ),
        ),
    )


def _name(row: Row) -> str:
    return f"{row['model'].replace('_', '-')}, {row['optimizer']}"


def _spoken(row: Row) -> str:
    return f"{row['suggestion']:.2g}" if row["suggestion"] else "none"
