"""The learning rate: too low, good, high, too high, and how wide the good range of each optimizer is.

One rate after the other is tried on a small two-layer network, on images of 16 x 16 pixels. Then every optimizer gets
the same grid of rates, the same seeds and the same number of updates, and is judged by its accuracy at the end: the
lr-sensitivity curve of Schneider et al. (DeepOBS, 2019). Its best rate is chosen on validation images.

    θ ← θ - α ∇L(θ)

The lecture: a rate that is too low learns slowly, a high one falls fast and stalls at a higher loss, one that is too
high diverges; Adam is a good default.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import optizoo
from optizoo.lab import models
from optizoo.lab.page import Headline, Page, Row, Track, line_picture, option
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import DATA, fit, images, measure

NEEDS_DATA = True
FAMILIES = {
    "gradient": ("sgd", "momentum", "nesterov"),
    "sign of the gradient": ("lion", "rprop"),
    "second moment": ("adagrad", "adadelta", "rmsprop"),
    "both moments": ("adam", "adamw", "adamax", "nadam", "radam"),
}
GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
CHANCE = 0.1
FOUR = ("too low", "good", "high", "too high")


@dataclass(frozen=True)
class Options:
    """The options."""

    data: str = DATA
    images: int = option(5000, "number of images to train on", at_least=1)
    batch_size: int = option(128, "images in a batch", at_least=1)
    steps: int = option(150, "updates of a run", at_least=10)
    hidden: int = option(64, "hidden units", at_least=1)
    lrs: tuple[float, ...] = option(GRID, "learning rates that every optimizer is tried with", at_least=0)
    multiples: tuple[float, float, float, float] = option(
        (0.01, 1.0, 10.0, 1000.0), "too low, good, high, too high: multiples of the best rate of SGD", at_least=0
    )
    seeds: tuple[int, ...] = option((0, 1), "seeds of weights and batches", at_least=0)


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each run of the grid, then for each run of the four rates."""
    train, validation, test = images(options.data, options.images, side=16)

    def run(name: str, lr: float, seed: int) -> Row:
        model = models.create("two_layer", seed=seed, hidden=options.hidden, inputs=train.x.shape[1])
        kind, more = ("momentum", {"nesterov": True}) if name == "nesterov" else (name, {})
        optimizer = optizoo.create(kind, model.parameters(), lr=lr, **more)
        losses = fit(model, optimizer, train, steps=options.steps, batch_size=options.batch_size, seed=seed)
        diverged = len(losses) < options.steps
        scores = [None if diverged else measure(model, split)[1] for split in (validation, test)]
        return {
            "optimizer": name, "lr": lr, "seed": seed, "losses": losses, "diverged": diverged,
            "validation": scores[0], "test": scores[1],
        }  # fmt: skip

    grid = []
    names = [name for family in FAMILIES.values() for name in family]
    for name, lr, seed in track(list(product(names, options.lrs, options.seeds)), "runs"):
        row = {"kind": "grid"} | run(name, lr, seed)
        grid.append(row)
        yield {key: value for key, value in row.items() if key != "losses"}
    good = _best(grid, "sgd")
    for seed, (name, factor) in product(options.seeds, zip(FOUR, options.multiples, strict=True)):
        yield {"kind": "four", "name": name, "steps": options.steps} | run("sgd", good * factor, seed)
