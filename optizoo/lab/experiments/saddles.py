"""Saddles: places without a slope that are no minimum.

At a saddle the gradient is zero, and some directions lead down. From a point exactly on the line that leads up to it,
gradient descent walks to the saddle and stays: the gradient has no part across the line, and so no optimizer that
multiplies gradients coordinate by coordinate makes one. Any noise is multiplied by 1 + α|μ| at every step, and breaks
the deadlock in a number of steps that goes like the logarithm of the noise. The monkey saddle has no curvature either,
the plateau hardly a slope, and out of a local minimum no small noise leads.

    saddle: x²/2 - y²/2 + y⁴/4; monkey saddle: x³ - 3xy² + (x² + y²)²
    plateau: 1 - exp(-(x² + y²)/2); local minimum: y⁴/4 - y²/2 + 0.15y + x²/2
    beside the line: y ← (1 + α) y, so that t = log(0.1/σ) / log(1 + α) steps lead from σ to 0.1

The lecture: at saddle points gradient descent gets stuck, and they are common in high dimension; the noise of
minibatches and momentum help.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import log

import torch
from torch import Tensor

import optizoo
from optizoo.lab import plots
from optizoo.lab.options import SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.plots import Line
from optizoo.lab.running import rounded

NEEDS_DATA = False
OPTIMIZERS = {"sgd": 0.05, "momentum": 0.05, "nesterov": 0.05, "rmsprop": 0.01, "adam": 0.01}  # with learning rates


@dataclass(frozen=True)
class Surface:
    """A function of (x, y), where runs begin, and below which height they have escaped."""

    height: Callable[[Tensor, Tensor], Tensor]
    start: tuple[float, float]
    escaped: float


SURFACES = {
    "saddle": Surface(lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, (1.0, 0.0), -0.2),
    "monkey saddle": Surface(lambda x, y: x**3 - 3 * x * y**2 + (x**2 + y**2) ** 2, (0.5, 0.0), -0.05),
    "plateau": Surface(lambda x, y: 1 - torch.exp(-(x**2 + y**2) / 2), (4.0, 0.0), 0.5),
    "local minimum": Surface(lambda x, y: y**4 / 4 - y**2 / 2 + 0.15 * y + x**2 / 2, (0.5, 1.2), -0.35),
}


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    steps: int = option(1000, "number of updates", at_least=1, at_most=100_000)
    noise: float = option(1e-3, "standard deviation of the noise in each part of the gradient", at_least=0)
    seed: int = option(0, "seed of the noise", at_least=0, at_most=SEEDS)
    offsets: tuple[float, ...] = option((1e-2, 1e-4, 1e-6, 1e-8), "starts beside the saddle's line", at_least=0)


def run(
    name: str, surface: Surface, start: tuple[float, float], steps: int, noise: float, seed: int
) -> list[list[float]]:
    """Return [x, y, f] before each update and at last."""
    point = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    options = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}.get(name, {})
    kind = name if name in ("rmsprop", "adam") else "sgd"
    optimizer = optizoo.create(kind, [point], lr=OPTIMIZERS[name], **options)
    generator, history = torch.Generator().manual_seed(seed), []
    for step in range(steps + 1):
        optimizer.zero_grad()
        height = surface.height(point[0], point[1])
        history.append([*point.tolist(), height.item()])
        if step < steps:
            height.backward()
            assert point.grad is not None
            if noise:
                point.grad += noise * torch.randn(2, dtype=torch.float64, generator=generator)
            optimizer.step()
    return history


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield the run of every optimizer on every surface with and without noise, then starts beside the line."""
    cases = list(product(SURFACES.items(), (0.0, options.noise), OPTIMIZERS))
    for (name, surface), noise, optimizer in track(cases, "runs"):
        path = run(optimizer, surface, surface.start, options.steps, noise, options.seed)
        step = next((t for t, (_, _, height) in enumerate(path) if height < surface.escaped), None)
        yield {
            "kind": "run", "surface": name, "noise": noise, "optimizer": optimizer, "escaped": step,
            "level": surface.escaped, "heights": rounded(height for _, _, height in path), "end": path[-1][:2],
            "start": surface.start,
            **({"x": rounded(x for x, _, _ in path), "y": rounded(y for _, y, _ in path)} if name == "saddle" else {}),
        }  # fmt: skip
    for offset in track(options.offsets, "beside the line"):
        path = run("sgd", SURFACES["saddle"], (0.0, offset), options.steps, 0.0, options.seed)
        rate = OPTIMIZERS["sgd"]
        yield {"kind": "offset", "offset": offset, "lr": rate, "steps": options.steps,
               "needed": next((t for t, (_, y, _) in enumerate(path) if abs(y) >= 0.1), None),
               "predicted": max(0.0, log(0.1 / offset) / log(1 + rate)) if offset else None}  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show which optimizer escapes when, the heights, the paths at the saddle, and starts beside the line."""
    runs, offsets = ([row for row in rows if row["kind"] == kind] for kind in ("run", "offset"))
    noise = max(row["noise"] for row in runs)
    surfaces, names = list(dict.fromkeys(row["surface"] for row in runs)), list(OPTIMIZERS)
    found = {(row["surface"], row["noise"] > 0, row["optimizer"]): row for row in runs}
    steps = len(runs[0]["heights"]) - 1
    ways = (False, True) if noise else (False,)
    escapes = {(surface, way): [name for name in names if found[surface, way, name]["escaped"] is not None]
               for surface in surfaces for way in ways}  # fmt: skip
    on_line = [found["saddle", False, name] for name in names]
    stuck = [row["optimizer"] for row in on_line if row["escaped"] is None]
    exact = all(y == 0 for row in on_line for y in row["y"])
    counts = [[found[surface, way, name]["escaped"] for name in names] for surface in surfaces for way in ways]
    labels = [f"{surface}, {'noise' if way else 'none'}" for surface in surfaces for way in ways]
    said = "; ".join(
        f"{surface} {len(escapes[surface, False])} without noise"
        + (f" and {len(escapes[surface, True])} with" if noise else "")
        for surface in surfaces
    )
    with_noise = escapes["saddle", bool(noise)]
    heights = [Line(name, range(steps + 1), found[surface, bool(noise), name]["heights"], panel=surface)
               for surface in surfaces for name in names]  # fmt: skip
    at_saddle = {name: found["saddle", bool(noise), name] for name in names}
    paths = [Line(name, row["x"], row["y"]) for name, row in at_saddle.items()]
    xs, ys = [index / 25 for index in range(-20, 31)], [index / 25 for index in range(-35, 36)]
    surface = SURFACES["saddle"]
    grid = [[surface.height(torch.tensor(x), torch.tensor(y)).item() for x in xs] for y in ys]
    reached = [row for row in offsets if row["needed"] is not None and row["predicted"] is not None]
    error = max((abs(row["needed"] - row["predicted"]) for row in reached), default=None)
    beside = [
        Line("measured", [row["offset"] for row in reached], [row["needed"] for row in reached]),
        Line("predicted", [row["offset"] for row in reached], [row["predicted"] for row in reached], dashed=True),
    ]
    law = (
        f"From {reached[-1]['offset']:g} beside the line gradient descent leaves after {reached[-1]['needed']} steps, "
        f"and no start is more than {error:.1f} steps off the prediction."
        if error is not None
        else "No start beside the line leaves it within the run."
    )
    held = len(with_noise) > len(names) - len(stuck) if noise else None
    return Page(
        equations=(
            r"\mathrm{saddle:}\quad x^2/2 - y^2/2 + y^4/4",
            r"\mathrm{monkey\ saddle:}\quad x^3 - 3 x y^2 + (x^2 + y^2)^2",
            r"\mathrm{plateau:}\quad 1 - e^{-(x^2 + y^2)/2}",
            r"\mathrm{local\ minimum:}\quad y^4/4 - y^2/2 + 0.15\, y + x^2/2",
            r"y \leftarrow (1 + \alpha)\, y, \quad t = \log(0.1 / \sigma) \,/\, \log(1 + \alpha)",
        ),
        seen=(
            f"Exactly on the line that leads to the saddle, {len(stuck)} of {len(names)} optimizers are stuck after "
            f"{steps} steps, and y is {'exactly 0' if exact else 'not 0'} at every step; with noise of {noise:g} in "
            f"the gradient {len(with_noise)} escape.",
            f"So many of {len(names)} optimizers escape: {said}. {law}",
        ),
        headline=Headline(
            number=f"{len(stuck)} of {len(names)}",
            what=f"optimizers stay at the saddle when they begin exactly on its line, and "
            f"{len(names) - len(with_noise)} with noise of {noise:g} in the gradient",
            claim="Gradient descent gets stuck at saddle points; the noise of minibatches helps.",
            held=held and "sgd" in stuck if held is not None else None,
        ),
        pictures=(
            Picture(
                "escapes",
                "The step at which a run is below the place where it could be stuck",
                f"Of {steps} steps; a dash where it never is. Learning rates: "
                + ", ".join(f"{name} {rate:g}" for name, rate in OPTIMIZERS.items())
                + ".",
                f"A table of steps: rows are surfaces with and without noise, columns optimizers. {said}.",
                lambda theme: plots.heatmap(
                    counts,
                    columns=[f"{index % 2 * chr(10)}{name}" for index, name in enumerate(names)],  # lest they touch
                    rows=labels,
                    xlabel="optimizer",
                    ylabel="surface, noise",
                    unit="step of the escape",
                    form="{:.0f}".format,
                    theme=theme,
                ),
                Table(["surface, noise", *names], [[label, *row] for label, row in zip(labels, counts, strict=True)]),
            ),
            line_picture(
                "heights",
                "The height with noise in the gradient" if noise else "The height",
                "All begin at the same point of a surface, and see the same noise.",
                f"Four panels of f against the step. Escapes: {said}.",
                heights,
                xlabel="step",
                ylabel="height f",
                xscale="symlog",
                height=2.3,
            ),
            Picture(
                "paths",
                "Paths at the saddle, with noise" if noise else "Paths at the saddle",
                "From the start on the line y = 0 towards the saddle, and where noise decides, to one of two minima.",
                f"Contours with the paths; {len(with_noise)} of {len(names)} leave the line.",
                lambda theme: plots.contours(
                    xs,
                    ys,
                    grid,
                    paths=paths,
                    points={"saddle": (0.0, 0.0)},
                    xlabel="x",
                    ylabel="y",
                    unit="f",
                    theme=theme,
                ),
                Table(
                    ["optimizer", "x at the end", "y at the end"],
                    [[name, *row["end"]] for name, row in at_saddle.items()],
                ),
            ),
            *(
                [
                    line_picture(
                        "offsets",
                        "Steps to leave the saddle from beside its line",
                        "Gradient descent without noise, until |y| is 0.1: each step multiplies y by 1 + α.",
                        f"Steps against the distance from the line, logarithmic: from {reached[0]['needed']} to "
                        f"{reached[-1]['needed']}, along the dashed prediction.",
                        beside,
                        xlabel="distance from the line at the start",
                        ylabel="steps",
                        xscale="log",
                    )
                ]
                if reached
                else []
            ),
        ),
    )
