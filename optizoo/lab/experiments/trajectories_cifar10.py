"""Trajectories on the real loss: all optimizers on one plane of the weights, and the optimum.

The loss of a linear softmax model with a penalty is convex: its minimum is unique, and L-BFGS and Newton's method find
it in float64. All optimizers begin at the same weights, see the same batches, and have the rate of one grid that ends
lowest. The map is the plane through the optimum that is closest to all their weights; the loss is computed on it.

    f(θ) = mean cross-entropy(θ) + λ/2 |θ|², over all images
    plane: θ* + x d₁ + y d₂, with d₁, d₂ the first principal directions of all paths less θ*
    gap: f(θ) - f(θ*)

The lecture: momentum, RMSprop and Adam get to the minimum sooner than plain SGD.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from optizoo.lab import landscape, models, plots
from optizoo.lab.experiments.trajectories import LECTURE, makers
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.plots import Line
from optizoo.lab.running import DATA, descend, images, minibatches
from optizoo.lab.second_order import lbfgs, newton_cg, of_model

NEEDS_DATA = True


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(2000, "number of images, of which the loss is the mean", at_least=2, at_most=IMAGES)
    batch_size: int = option(100, "images in a batch", at_least=1)
    steps: int = option(400, "updates of a run", at_least=1, at_most=100_000)
    points: int = option(30, "weights of a path that are kept, at most", at_least=2, at_most=1000)
    lr_from: int = option(-5, "power of ten at which the grid of rates begins", at_least=-12, below="lr_to")
    lr_to: int = option(0, "power of ten at which it ends", at_least=-12, at_most=6)
    per_decade: int = option(2, "rates in a power of ten", at_least=1, at_most=20)
    l2: float = option(0.1, "penalty: half of it times the squared norm of all parameters", at_least=1e-6)
    grid: int = option(25, "values of the loss along each side of the map", at_least=2, at_most=200)
    seed: int = option(0, "of the weights at the start and of the batches", at_least=0, at_most=SEEDS)


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield the optimum, what each optimizer's rates end at and its best path, and the loss on the plane."""
    train = images(options.data, options.images)[0]
    start = models.linear(seed=options.seed)
    objective, params = of_model(start, train.x.double(), train.y, l2=options.l2)
    near = lbfgs(objective, params, steps=60, tolerance=1e-3)
    optimum = newton_cg(objective, near.params)
    lowest = optimum.steps[-1]
    yield {
        "kind": "optimum", "loss": lowest.loss, "gradient_norm": lowest.gradient_norm, "images": len(train),
        "l2": options.l2, "params": len(params), "first": near.steps[0].loss - lowest.loss,
    }  # fmt: skip
    single, _ = of_model(start, train.x, train.y, l2=options.l2)

    def run(name: str, lr: float, kept: set[int]) -> tuple[list[Tensor], Tensor]:
        model = models.linear(seed=options.seed)
        batches = minibatches(train, min(options.batch_size, len(train)), seed=options.seed)
        optimizer = makers()[name](model.parameters(), lr=lr)

        def loss() -> Tensor:
            x, y = next(batches)
            flat = torch.cat([param.flatten() for param in model.parameters()])
            return nn.functional.cross_entropy(model(x), y) + options.l2 / 2 * flat.square().sum()

        def weights() -> Tensor:
            return parameters_to_vector(model.parameters()).detach().clone()

        path = [weights() for step, _ in enumerate(descend(optimizer, loss, options.steps)) if step in kept]
        return path, weights()

    lrs = np.logspace(options.lr_from, options.lr_to, (options.lr_to - options.lr_from) * options.per_decade + 1)
    kept = np.unique(np.geomspace(1, options.steps + 1, options.points).round().astype(int) - 1).tolist()
    paths: dict[str, list[Tensor]] = {}
    for name in track(list(makers()), "optimizers"):
        found: dict[float, Any] = {lr: run(name, lr, {*kept}) for lr in lrs.tolist()}
        ends = {lr: single(last).item() - lowest.loss for lr, (_, last) in found.items()}
        best = min(ends, key=lambda lr: ends[lr] if np.isfinite(ends[lr]) else float("inf"))
        paths[name] = [*found[best][0], found[best][1]][: len(kept)]
        gaps = [objective(each.double()).item() - lowest.loss for each in paths[name]]
        yield {
            "kind": "path", "optimizer": name, "lr": best, "lrs": [*ends], "steps": kept, "gaps": gaps,
            "ends": [end if np.isfinite(end) else None for end in ends.values()],
        }  # fmt: skip
    flat = landscape.pca_plane([torch.stack(path) for path in paths.values()], centre=optimum.params.float())
    feet = {name: feet.tolist() for name, feet in zip(paths, flat.coordinates, strict=True)}
    every = torch.cat(flat.coordinates)
    low, high = every.quantile(0.02, dim=0).clamp(max=0), every.quantile(0.98, dim=0).clamp(min=0)  # the optimum is 0
    room = (high - low) * 0.15
    edges = zip((low - room).tolist(), (high + room).tolist(), strict=True)
    x, y = (np.linspace(*ends, options.grid).tolist() for ends in edges)

    def metric(model: nn.Module) -> Tensor:
        return single(parameters_to_vector(model.parameters()))

    values = [
        landscape.plane(start, metric, flat.origin, flat.directions, x, [each])[0] for each in track(y, "the map")
    ]
    yield {"kind": "plane", "x": x, "y": y, "z": values, "explained": flat.explained.tolist(), "feet": feet}


def page(rows: Sequence[Row]) -> Page:
    """Show the paths on the plane, the gap to the optimum, and what every rate ends at."""
    optimum, plane, runs = rows[0], rows[-1], [row for row in rows if row["kind"] == "path"]
    ends = {row["optimizer"]: float("inf") if row["gaps"][-1] is None else row["gaps"][-1] for row in runs}
    won = [name for name in LECTURE if ends[name] < ends["sgd"]]
    order = sorted(ends, key=lambda name: ends[name])
    steps, lrs, edge = runs[0]["steps"][-1], runs[0]["lrs"], [r for r in runs if r["lr"] in (r["lrs"][0], r["lrs"][-1])]
    share = sum(plane["explained"])
    lost = ", ".join(name for name in LECTURE if name not in won)
    paths = [Line(row["optimizer"], *np.transpose(plane["feet"][row["optimizer"]]).tolist()) for row in runs]
    table = [[r["optimizer"], r["lr"], r["gaps"][-1], *plane["feet"][r["optimizer"]][-1]] for r in runs]
    axes = [
        f"direction {index + 1} ({100 * each:.0f} % of the squares)" for index, each in enumerate(plane["explained"])
    ]

    heights = [[None if value is None else value - optimum["loss"] for value in line] for line in plane["z"]]

    def draw(theme):
        return plots.contours(
            plane["x"], plane["y"], heights, paths=paths, points={"optimum": (0.0, 0.0)}, xlabel=axes[0],
            ylabel=axes[1], unit="f - f* (nats)", log=True, theme=theme,
        )  # fmt: skip

    curves = {"xscale": "log", "yscale": "log", "height": 3.6}
    return Page(
        equations=(
            r"f(\theta) = \mathrm{mean\ cross\ entropy}(\theta) + \frac{\lambda}{2}\,|\theta|^2",
            r"\mathrm{plane:}\quad \theta^* + x\,d_1 + y\,d_2",
            r"\mathrm{gap:}\quad f(\theta) - f(\theta^*)",
        ),
        seen=(
            f"The optimum of {optimum['params']} weights on {optimum['images']} images has the loss "
            f"{optimum['loss']:.6f} and a gradient norm of {optimum['gradient_norm']:.1e}; the start is "
            f"{optimum['first']:.3g} above it.",
            f"After {steps} steps {order[0]} is nearest with a gap of {ends[order[0]]:.2g}, {order[-1]} farthest with "
            f"{ends[order[-1]]:.2g}; SGD has {ends['sgd']:.2g} and is number {order.index('sgd') + 1} of {len(order)}"
            f"{f'; not lower than SGD: {lost}' if lost else ''}. {len(edge)} of {len(runs)} have their best "
            "rate at an end of the grid.",
            f"The plane holds {100 * share:.0f} % of the squared distances of the paths from the optimum; "
            "the rest is not seen on it.",
        ),
        headline=Headline(
            number=f"{len(won)} of {len(LECTURE)}",
            what="of momentum, RMSprop and Adam end nearer to the known optimum of the CIFAR-10 loss than SGD, "
            f"after {steps} steps",
            claim="Momentum, RMSprop and Adam get to the minimum sooner than plain SGD.",
            held=len(won) == len(LECTURE),
        ),
        pictures=(
            Picture(
                "plane",
                "The paths on one plane of the weights",
                "Contours of the true loss on the plane; paths are projected on it, from the hollow marker to the full "
                "one. Contours are spaced evenly in the logarithm of the height above the lowest.",
                f"Map of the loss with {len(runs)} paths from one start to near the optimum at (0, 0), marked by a "
                f"star. Nearest is {order[0]}, farthest {order[-1]}.",
                draw,
                Table(["optimizer", "learning rate", "gap at the end", "last x", "last y"], table),
                lambda theme: plots.growing(draw(theme), paths),
            ),
            line_picture(
                "gaps",
                "The gap to the optimum",
                "The loss on all images less that of the optimum, at the best rate of each.",
                f"The gap against the step, both logarithmic, from {optimum['first']:.3g}; at the end: "
                + ", ".join(f"{name} {ends[name]:.2g}" for name in order),
                [Line(row["optimizer"], [step + 1 for step in row["steps"]], row["gaps"]) for row in runs],
                xlabel="step + 1",
                ylabel="f - f* (nats)",
                **curves,
            ),
            line_picture(
                "rates",
                "What every rate ends at",
                f"The grid from which the best is taken, after {steps} steps; runs that diverged are gaps.",
                f"The last gap against the learning rate, {lrs[0]:g} to {lrs[-1]:g}, a line an optimizer.",
                [Line(row["optimizer"], row["lrs"], row["ends"]) for row in runs],
                xlabel="learning rate",
                ylabel="f - f* at the end (nats)",
                ylim=(min(ends.values()) / 2, 100 * max(optimum["first"], min(ends.values()))),
                **curves,
            ),
        ),
    )
