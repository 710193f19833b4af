"""Conditioning: a valley that is steep one way and flat the other.

On a quadratic whose curvatures are L and μ, a step of gradient descent multiplies the steep coordinate by 1 - αL and
the flat one by 1 - αμ. The rate must be below 2/L, or the steep one grows; between 1/L and 2/L it changes its sign at
every step, a zig-zag; and the flat one then needs about κ = L/μ steps. Momentum and Nesterov's form need about √κ.
RMSprop and Adam divide every coordinate by the size of its own gradients, so that steep and flat look alike to them, if
the valley lies along an axis; turned by 45°, it does not. Gradient descent, momentum and Nesterov have the best
constants that theory knows, RMSprop and Adam the best rate of a grid. All count the steps until the distance has
shrunk to a thousandth.

    f(x, y) = (L x² + μ y²) / 2, with κ = L/μ
    sgd: α = 2/(L + μ), a step shrinks by (κ - 1)/(κ + 1)
    momentum: α = 4/(√L + √μ)², ρ = r², with r = (√κ - 1)/(√κ + 1) the shrinking
    nesterov: α = 4/(3L + μ), ρ = (√(3κ + 1) - 2)/(√(3κ + 1) + 2), shrinking by 1 - 2/√(3κ + 1)

The lecture: where the condition number is large, gradient descent is slow along the flat direction and jitters along
the steep one; momentum helps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Any

import torch
from torch import Tensor

import optizoo
from optizoo.lab import plots
from optizoo.lab.options import Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Track, line_picture, line_table
from optizoo.lab.plots import Line, Mark

NEEDS_DATA = False
ADAPTIVE = ("rmsprop", "adam")
START = torch.tensor([1.0, 0.7], dtype=torch.float64)  # unequal, lest a step of one length hits the minimum
TURN = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / sqrt(2)


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    conditions: tuple[float, ...] = option(
        (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0), "condition numbers", at_least=1
    )
    shrink: float = option(1e-3, "part of the distance at which a run ends", at_least=0, below=1, nonzero=True)
    max_steps: int = option(4000, "updates after which a run ends anyway", at_least=1, at_most=100_000)
    lrs: tuple[float, ...] = option(
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "rates of RMSprop and Adam", at_least=0, nonzero=True
    )
    products: tuple[float, ...] = option(
        (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9, 1.95, 1.99, 2.01, 2.05, 2.1, 2.2, 2.3),
        "rates times L, for the edge of divergence",
        at_least=0,
        nonzero=True,
    )
    path_condition: float = option(20.0, "condition number of the paths that are drawn", at_least=1)
    path_steps: int = option(40, "updates of the paths, and of the runs for the edge", at_least=1, at_most=10_000)


def tuned(name: str, condition: float) -> tuple[dict[str, float], float | None]:
    """Return the best constants for curvatures ``condition`` and 1, and by what a step shrinks in the limit.

    Source: Lessard, Recht and Packard 2016, https://doi.org/10.1137/15M1009597, table 1.
    """
    root, far = sqrt(condition), sqrt(3 * condition + 1)
    if name == "sgd":
        return {"lr": 2 / (condition + 1)}, (condition - 1) / (condition + 1)
    if name == "momentum":
        rate = (root - 1) / (root + 1)
        return {"lr": 4 / (root + 1) ** 2, "momentum": rate**2}, rate
    if name == "nesterov":
        return {"lr": 4 / (3 * condition + 1), "momentum": (far - 2) / (far + 2)}, 1 - 2 / far
    return {}, None


def run(
    name: str, settings: Sequence[Mapping[str, float]], conditions: Sequence[float], steps: int, **how: Any
) -> Tensor:
    """Return the points (steps + 1, conditions, 2) of an optimizer on valleys of these conditions.

    Args:
        name: Of the optimizer.
        settings: Its options, for each of the conditions.
        conditions: The curvatures along the first axis; along the second it is 1.
        steps: Updates.
        **how: ``turned``, to lay the valleys at 45° to the axes; ``until``, a distance at which all may end.
    """
    turn = TURN if how.get("turned") else torch.eye(2, dtype=torch.float64)
    points = [torch.nn.Parameter(turn @ START.clone()) for _ in conditions]
    hessians = [turn @ torch.diag(torch.tensor([each, 1.0], dtype=torch.float64)) @ turn.T for each in conditions]
    kind = name if name in ADAPTIVE else "sgd"
    groups = [{"params": [point], **given} for point, given in zip(points, settings, strict=True)]
    if name == "nesterov":
        groups = [{**group, "nesterov": group["momentum"] > 0} for group in groups]
    optimizer = optizoo.create(kind, groups, lr=0.1)
    history, reached = [torch.stack([point.detach().clone() for point in points])], torch.zeros(len(points)).bool()
    for _ in range(steps):
        for point, hessian in zip(points, hessians, strict=True):
            point.grad = hessian @ point.detach()
        optimizer.step()
        history.append(torch.stack([point.detach().clone() for point in points]))
        reached |= history[-1].norm(dim=1) <= how.get("until", -inf)
        if reached.all():
            break
    return torch.stack(history) @ turn


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield distances at the edge of divergence, paths, and the steps of every optimizer at every condition."""
    conditions, steps = options.conditions, options.path_steps
    for product in track(options.products, "rates"):
        end = run("sgd", [{"lr": product / options.path_condition}], [options.path_condition], steps)[-1, 0]
        yield {"kind": "edge", "product": product, "steps": steps, "condition": options.path_condition,
               "steep": abs(end[0].item())}  # fmt: skip
    best, _ = tuned("momentum", options.path_condition)
    ways = [("sgd", {"lr": product / options.path_condition}, f"α = {product:g}/L") for product in (0.5, 1.9, 2.02)]
    for name, settings, label in (*ways, ("momentum", best, "momentum")):
        points = run(name, [settings], [options.path_condition], steps)[:, 0]
        yield {"kind": "path", "label": label, "steep": points[:, 0].tolist(), "flat": points[:, 1].tolist(),
               "condition": options.path_condition}  # fmt: skip
    goal = options.shrink * START.norm().item()
    how = {"until": goal, "steps": options.max_steps, "conditions": conditions}
    lying = [(name, False) for name in ("sgd", "momentum", "nesterov", *ADAPTIVE)]
    for name, turned in track([*lying, *((name, True) for name in ADAPTIVE)], "optimizers"):
        grid = [[{"lr": lr}] * len(conditions) for lr in options.lrs]
        if name not in ADAPTIVE:
            grid = [[tuned(name, condition)[0] for condition in conditions]]
        needed = [_first(run(name, settings, turned=turned, **how), goal) for settings in track(grid, name)]
        for index, condition in enumerate(conditions):
            steps, settings = min((each[index], place) for place, each in enumerate(needed))
            shrinking = tuned(name, condition)[1]
            theory = (
                shrinking if shrinking is None else max(1.0, log(options.shrink) / log(shrinking or options.shrink))
            )
            yield {"kind": "steps", "optimizer": name, "turned": turned, "condition": condition, "predicted": theory,
                   "steps": None if steps == inf else steps, "lr": grid[settings][index]["lr"],
                   "shrink": options.shrink, "max_steps": options.max_steps}  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the edge of divergence, paths, and the steps that every optimizer needs against the condition number."""
    edges, paths, counts = ([row for row in rows if row["kind"] == kind] for kind in ("edge", "path", "steps"))
    steps = edges[0]["steps"]
    products = [row["product"] for row in edges]
    measured = Line("measured", products, [row["steep"] for row in edges])
    fine = [products[0] + (products[-1] - products[0]) * part / 400 for part in range(401)]
    predicted = Line(
        "predicted, |1 - αL| to the power of the steps", fine, [abs(1 - p) ** steps for p in fine], dashed=True
    )
    grows = [row["product"] for row in edges if row["steep"] > 1]
    shrinks = [row["product"] for row in edges if row["steep"] < 1]
    at_two = bool(grows and shrinks) and max(shrinks) < 2 < min(grows)
    edge = f"between {max(shrinks):g}/L and {min(grows):g}/L" if grows and shrinks else "not within the rates tried"
    flips = {
        row["label"]: sum(a * b < 0 for a, b in zip(row["steep"], row["steep"][1:], strict=False)) for row in paths
    }
    lying = [row for row in counts if not row["turned"]]
    needed = {(row["optimizer"], row["turned"], row["condition"]): row for row in counts}
    worst = max(row["condition"] for row in counts)
    top = {name: needed[name, False, worst] for name in dict.fromkeys(row["optimizer"] for row in lying)}
    lines = []
    for row in counts:
        panel = "turned by 45°" if row["turned"] else "along the axes"
        if not any((line.label, line.panel) == (row["optimizer"], panel) for line in lines):
            of = [each for each in counts if (each["optimizer"], each["turned"]) == (row["optimizer"], row["turned"])]
            lines.append(
                Line(row["optimizer"], [each["condition"] for each in of], [each["steps"] for each in of], panel=panel)
            )
    theories = [
        Line(
            f"{name}, theory", [each["condition"] for each in lying if each["optimizer"] == name],
            [each["predicted"] for each in lying if each["optimizer"] == name], panel="along the axes", dashed=True,
        )
        for name, row in top.items() if row["predicted"]
    ]  # fmt: skip
    said = ", ".join(f"{name} {_count(row)}" + _theory(row) for name, row in top.items())
    turned = ", ".join(f"{name} {_count(needed[name, True, worst])}" for name in ADAPTIVE)
    sgd, momentum = top["sgd"], top["momentum"]
    slower = _steps(sgd) > _steps(momentum)
    condition = edges[0]["condition"]
    xs, ys = [index / 50 for index in range(-60, 61)], [index / 50 for index in range(-15, 46)]
    heights = [[(condition * x * x + y * y) / 2 for x in xs] for y in ys]
    drawn = [Line(row["label"], row["steep"], row["flat"]) for row in paths[:2]]  # the others cross them too often
    coordinates = [
        Line(row["label"], range(len(row["steep"])), row["steep"], panel="steep coordinate") for row in paths
    ]
    coordinates += [Line(row["label"], range(len(row["flat"])), row["flat"], panel="flat coordinate") for row in paths]
    signs = ", ".join(f"{label} {count}" for label, count in flips.items())
    return Page(
        equations=(
            r"f(x, y) = (L x^2 + \mu y^2) / 2, \quad \kappa = L / \mu",
            r"\mathrm{sgd:}\quad \alpha = \dfrac{2}{L + \mu}, \quad r = \dfrac{\kappa - 1}{\kappa + 1}",
            r"\mathrm{momentum:}\quad \alpha = \dfrac{4}{(\sqrt{L} + \sqrt{\mu})^2}, \quad \rho = r^2",
            r"r = \dfrac{\sqrt{\kappa} - 1}{\sqrt{\kappa} + 1}",
            r"\mathrm{nesterov:}\quad \alpha = \dfrac{4}{3L + \mu}, \quad r = 1 - \dfrac{2}{\sqrt{3\kappa + 1}}",
        ),
        seen=(
            f"The steep coordinate begins to grow {edge}, {'as' if at_two else 'other than'} predicted. In "
            f"{len(paths[0]['steep']) - 1} steps it changes its sign so often: {signs}.",
            f"At condition {worst:g}, shrinking the distance to {sgd['shrink']:g} of it takes, in steps, {said}. "
            "Theory counts by the rate in the limit.",
            f"Turned by 45°, it is {turned} steps.",
        ),
        headline=Headline(
            number=f"{_count(sgd)} : {_count(momentum)}",
            what=f"steps of gradient descent and of momentum at condition {worst:g}, both with their best constants",
            claim="Gradient descent is slow and jitters where the condition number is large; momentum helps.",
            held=slower if worst > 1 else None,
        ),
        pictures=(
            line_picture(
                "edge",
                "The edge of divergence",
                f"The size of the steep coordinate, at first 1, after t = {steps} steps of gradient descent.",
                f"A valley-shaped line over α L, logarithmic; it crosses 1 {edge}. Dashed, the prediction.",
                [measured, predicted],
                xlabel="learning rate × L",
                ylabel="steep coordinate at the end",
                yscale="log",
                marks=[Mark(2, "2/L", "x")],
                ylim=(1e-12, 1e5),
            ),
            Picture(
                "paths",
                "Paths in the valley",
                f"Condition number {condition:g}; hollow where they begin, full where they end.",
                f"Contours of the valley, with paths for {' and '.join(line.label for line in drawn)}. Changes of sign "
                f"across the valley: {signs}.",
                lambda theme: plots.contours(
                    xs,
                    ys,
                    heights,
                    paths=drawn,
                    points={"minimum": (0.0, 0.0)},
                    xlabel="steep coordinate x",
                    ylabel="flat coordinate y",
                    unit="f",
                    log=True,
                    theme=theme,
                ),
                line_table(coordinates, "step"),
            ),
            line_picture(
                "coordinates",
                "The same paths, one coordinate each",
                "The steep coordinate decides which rates are possible, and the flat one how long it takes.",
                f"Two panels of a coordinate against the step. Changes of sign of the steep one: {signs}.",
                coordinates,
                xlabel="step",
                ylabel="coordinate",
            ),
            line_picture(
                "steps",
                "Steps needed against the condition number",
                f"The first step at which the distance is {sgd['shrink']:g} of what it was, if a rate gets there "
                f"within {sgd['max_steps']} steps. Dashed: theory's rates.",
                f"Logarithmic axes. At condition {worst:g}: {said}; turned by 45°, {turned}.",
                [*lines, *theories],
                xlabel="condition number κ",
                ylabel="steps",
                xscale="log",
                yscale="log",
            ),
        ),
    )


def _steps(row: Row) -> float:
    return inf if row["steps"] is None else row["steps"]


def _count(row: Row) -> str:
    return f"more than {row['max_steps']}" if row["steps"] is None else str(row["steps"])


def _theory(row: Row) -> str:
    return f" ({row['predicted']:.0f} in theory)" if row["predicted"] else ""


def _first(points: Tensor, goal: float) -> list[float]:
    """Return for each valley the first step at which the distance is at most the goal."""
    inside = points.norm(dim=2) <= goal
    return [column.nonzero()[0].item() if column.any() else inf for column in inside.T]
