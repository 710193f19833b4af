"""Trajectories: all optimizers on four surfaces, each with the best rate of one grid.

Pictures of optimizers on toy surfaces often choose a rate for each picture. Here all have one rule: the same
logarithmic grid of learning rates, of which the one counts that ends lowest. All other options are defaults, and weight
decay is zero, without which AdamW is Adam. The saddle ends in two valleys; the start is almost on the line between.

    Rosenbrock: f = (1 - x)² + 100 (y - x²)²
    Beale: f = (1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²
    valley: f = (x² + 100 y²) / 2; saddle: f = x²/2 - y²/2 + y⁴/4

The lecture: momentum, RMSprop and Adam get to the minimum sooner than plain gradient descent.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

import optizoo
from optizoo.lab import plots
from optizoo.lab.options import Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.plots import Line
from optizoo.lab.running import descend

NEEDS_DATA = False
LECTURE = ("momentum", "rmsprop", "adam")
FLOOR = 1e-16  # gaps below are drawn here


@dataclass(frozen=True)
class Surface:
    """A function of x and y, where paths start, its minima, and what is drawn of it: left, right, bottom, top."""

    height: Callable[..., Tensor]
    start: tuple[float, float]
    minima: Sequence[tuple[float, float]]
    box: tuple[float, float, float, float]


def _beale(x, y):
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


SURFACES = {
    "rosenbrock": Surface(lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.2, 1.0), [(1, 1)], (-2, 2, -1, 3)),
    "beale": Surface(_beale, (1.0, 1.5), [(3, 0.5)], (-0.5, 4.5, -1.5, 2.5)),
    "valley": Surface(lambda x, y: (x**2 + 100 * y**2) / 2, (-2.0, 0.5), [(0, 0)], (-2.5, 1.5, -0.8, 0.8)),
    "saddle": Surface(
        lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, (-1.5, 1e-3), [(0, 1), (0, -1)], (-2.0, 1.2, -1.6, 1.6)
    ),
}


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    steps: int = option(300, "number of updates", at_least=1, at_most=10_000)
    lr_from: int = option(-4, "power of ten at which the grid of rates begins", at_least=-12, below="lr_to")
    lr_to: int = option(1, "power of ten at which it ends", at_least=-12, at_most=6)
    per_decade: int = option(4, "rates in a power of ten", at_least=1, at_most=20)


SHOWN = (*("sgd", "momentum", "lion", "rprop", "adagrad", "adadelta", "rmsprop", "adam", "adamax", "nadam", "radam"),)
"""Optimizers whose paths differ to the eye; of a family one is enough."""


def makers() -> dict[str, Callable[..., Optimizer]]:
    """Return what makes each optimizer from params and lr: defaults, no weight decay, and Nesterov's momentum."""
    decays = {"weight_decay": 0.0}
    known: dict[str, Callable[..., Optimizer]] = {
        name: partial(optizoo.create, name, **({} if name == "rprop" else decays)) for name in SHOWN
    }
    return known | {"nesterov": partial(optizoo.create, "momentum", nesterov=True, **decays)}


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each optimizer and surface: what every rate ends at, and the path of the best."""
    count = (options.lr_to - options.lr_from) * options.per_decade + 1
    lrs = np.logspace(options.lr_from, options.lr_to, count).tolist()
    starts = torch.tensor([surface.start for surface in SURFACES.values()], dtype=torch.float64)

    def heights(points: Tensor) -> Tensor:
        columns = zip(SURFACES.values(), points.unbind(-2), strict=True)
        return torch.stack([surface.height(*at.unbind(-1)) for surface, at in columns], -1)

    lowest = torch.tensor([float(surface.height(*surface.minima[0])) for surface in SURFACES.values()])
    for name, make in track(list(makers().items()), "optimizers"):
        # Rules work element by element: one run has a group for each rate, whose parameter walks all surfaces.
        params = [torch.nn.Parameter(starts.clone()) for _ in lrs]
        optimizer = make([{"params": [param], "lr": lr} for param, lr in zip(params, lrs, strict=True)], lr=1.0)
        walk = descend(optimizer, lambda: heights(torch.stack([*params])).sum(), options.steps)  # noqa: B023
        path = [torch.stack([*params]).detach() for _ in walk]
        points = torch.stack([*path, torch.stack([*params]).detach()])  # (steps + 1, rates, surfaces, 2)
        gaps = (heights(points) - lowest).clamp(min=FLOOR)
        for index, surface in enumerate(SURFACES):
            ends = gaps[-1, :, index].nan_to_num(math.inf, posinf=math.inf).tolist()
            best = min(range(count), key=lambda rate: ends[rate])
            yield {
                "surface": surface, "optimizer": name, "lrs": lrs, "best": best,
                "ends": [end if end < 1e30 else None for end in ends],
                "gaps": [float(f"{gap:.4g}") for gap in gaps[:, best, index].tolist()],
                "path": [[float(f"{at:.5g}") for at in point] for point in points[:, best, index].tolist()],
            }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the paths on each surface, their distance from the minimum, and what every rate ends at."""
    lasts = {(row["surface"], row["optimizer"]): row["ends"][row["best"]] for row in rows}
    ends = {pair: math.inf if last is None else last for pair, last in lasts.items()}
    surfaces = list(dict.fromkeys(row["surface"] for row in rows))
    pairs = [(surface, name) for surface in surfaces for name in LECTURE]
    # Those that are level at the floor are told apart by when they came there.
    arrivals = {(r["surface"], r["optimizer"]): r["gaps"].index(FLOOR) if FLOOR in r["gaps"] else 0 for r in rows}
    won = [p for p in pairs if (ends[p], arrivals[p]) < (ends[p[0], "sgd"], arrivals[p[0], "sgd"])]
    lost = ", ".join(f"{name} on {surface}" for surface, name in pairs if (surface, name) not in won)
    first = {s: min(end for (surface, _), end in ends.items() if surface == s) for s in surfaces}
    best = {
        s: ", ".join(name for (surface, name), end in ends.items() if (surface, end) == (s, first[s])) for s in first
    }
    edge = sum(row["best"] in (0, len(row["lrs"]) - 1) for row in rows)
    steps, lrs = len(rows[0]["gaps"]) - 1, rows[0]["lrs"]
    nearest = "; ".join(f"{surface}: {best[surface]} ({end:.1e})" for surface, end in first.items())
    gaps = [Line(row["optimizer"], range(steps + 1), row["gaps"], panel=row["surface"]) for row in rows]
    rates = [Line(row["optimizer"], row["lrs"], row["ends"], panel=row["surface"]) for row in rows]
    curves = {"columns": 2, "height": 2.6, "yscale": "log"}
    return Page(
        equations=(
            r"\mathrm{Rosenbrock:}\quad f = (1 - x)^2 + 100\,(y - x^2)^2",
            r"\mathrm{Beale:}\quad f = (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2",
            r"\mathrm{valley:}\quad f = (x^2 + 100\,y^2)/2",
            r"\mathrm{saddle:}\quad f = x^2/2 - y^2/2 + y^4/4",
        ),
        seen=(
            f"After {steps} steps at the best of {len(lrs)} rates, momentum, RMSprop and Adam are lower than SGD in "
            f"{len(won)} of {len(pairs)} cases, or at {FLOOR:g} before it{f'; not {lost}' if lost else ''}.",
            f"The lowest on each surface: {nearest}; what is below {FLOOR:g} counts as that.",
            f"The best rate is at an end of the grid, from {lrs[0]:g} to {lrs[-1]:g}, in {edge} of {len(rows)} runs.",
        ),
        headline=Headline(
            number=f"{len(won)} of {len(pairs)}",
            what=f"cases of momentum, RMSprop or Adam on a surface that end lower than SGD after {steps} steps, or at "
            f"{FLOOR:g} before it",
            claim="Momentum, RMSprop and Adam get to the minimum sooner than plain gradient descent.",
            held=len(won) == len(pairs),
        ),
        pictures=(
            *(_map(surface, [row for row in rows if row["surface"] == surface]) for surface in surfaces),
            line_picture(
                "gaps",
                "The height above the minimum",
                "The runs of the maps, each at its best rate.",
                f"A panel a surface, of the height above the minimum against the step. Lowest at the end: {nearest}.",
                gaps,
                xlabel="step",
                ylabel="f - f*",
                **curves,
            ),
            line_picture(
                "rates",
                "What every rate ends at",
                f"The grid from which the best is taken, after {steps} steps; runs that diverged are gaps.",
                f"A panel a surface, of the last height above the minimum against the learning rate, {lrs[0]:g} to "
                f"{lrs[-1]:g}.",
                rates,
                xlabel="learning rate",
                ylabel="f - f* at the end",
                xscale="log",
                ylim=(FLOOR / 3, 1e4),
                **curves,
            ),
        ),
    )


def _map(name: str, rows: Sequence[Row]) -> Picture:
    """Return the map of a surface with all paths, which grow in the animation."""
    surface = SURFACES[name]
    left, right, bottom, top = surface.box
    x, y = np.linspace(left, right, 160), np.linspace(bottom, top, 160)
    z = surface.height(*np.meshgrid(x, y))
    walks = {row["optimizer"]: [point for point in row["path"] if None not in point] for row in rows}
    paths = [Line(name, [at[0] for at in walk], [at[1] for at in walk]) for name, walk in walks.items()]
    ends = [
        [row["optimizer"], row["lrs"][row["best"]], *walks[row["optimizer"]][-1], row["ends"][row["best"]]]
        for row in rows
    ]
    points = {"minimum" + " " * index: each for index, each in enumerate(surface.minima)}  # names differ
    options = {"points": points, "xlabel": "x", "ylabel": "y", "unit": "f", "log": True}

    def draw(theme, paths=paths):
        return plots.contours(x.tolist(), y.tolist(), z.tolist(), paths=paths, theme=theme, **options)

    return Picture(
        name,
        f"The paths: {name}",
        "From the hollow marker to the full one; the star is the minimum. What leaves the box is not drawn.",
        f"Map of the surface with {len(rows)} paths from {surface.start}; each ends at: "
        + "; ".join(f"{optimizer} ({px:.3g}, {py:.3g})" for optimizer, _, px, py, _ in ends),
        draw,
        Table(["optimizer", "learning rate", "last x", "last y", "f - f* at the end"], ends),
        lambda theme: plots.growing(draw(theme), paths),
    )
