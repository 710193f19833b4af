"""Drawings as SVG that stands in a page, so that it takes the colours of the page's theme."""

import html
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from optizoo import schedules, zoo

Point = tuple[float, float]

CONDITION = 20.0
ANGLE = math.radians(30)
START = (-1.5, 1.0)
STEPS = 60
RATES = [digit * 10.0**power for power in range(-3, 2) for digit in (1, 2, 5)]
"""The rates of which each optimizer gets its best."""

SCHEDULES: dict[str, schedules.Schedule] = {
    "Constant(0.5, total_steps=40)": schedules.Constant(0.5, total_steps=40),
    "Step(30, gamma=0.5)": schedules.Step(30, gamma=0.5),
    "MultiStep((20, 60), gamma=0.3)": schedules.MultiStep((20, 60), gamma=0.3),
    "Exponential(0.97)": schedules.Exponential(0.97),
    "Linear(80, floor=0.1)": schedules.Linear(80, floor=0.1),
    "Cosine(80, floor=0.1)": schedules.Cosine(80, floor=0.1),
    "Polynomial(80, power=2)": schedules.Polynomial(80, power=2),
    "InverseSqrt(10)": schedules.InverseSqrt(10),
    "Warmup(20, then=Cosine(60))": schedules.Warmup(20, then=schedules.Cosine(60)),
}
"""Every kind of schedule, over 100 steps, by its text."""


def svg(title: str, body: Sequence[str], width: int, height: int) -> str:
    """Return a drawing with a title, which is what is read out in its place."""
    text = html.escape(title)
    head = f'<svg class="drawing" role="img" aria-label="{text}" viewBox="0 0 {width} {height}">'
    return "\n".join([head, *body, "</svg>"])


def polyline(points: Sequence[Point], style: str) -> str:
    """Return a line through points."""
    return f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


# Paths of optimizers --------------------------------------------------------------------------------------------------


@lru_cache
def curvature() -> torch.Tensor:
    """Return the Hessian of a turned quadratic valley, ``CONDITION`` times as steep across as along."""
    along, across = (math.cos(ANGLE), math.sin(ANGLE)), (-math.sin(ANGLE), math.cos(ANGLE))
    axes = torch.tensor([along, across], dtype=torch.float64)
    return axes.T @ torch.diag(torch.tensor([1.0, CONDITION], dtype=torch.float64)) @ axes


def height(point: Point) -> float:
    """Return the height of the valley at a point."""
    weights = torch.tensor(point, dtype=torch.float64)
    return (weights @ curvature() @ weights).item() / 2


@lru_cache
def path(name: str) -> tuple[float, list[Point]]:
    """Return the best of :data:`RATES` for an optimizer, and its path: the one that is lowest on average."""
    return min(((rate, walk(name, rate)) for rate in RATES), key=lambda found: mean_height(found[1]))


def walk(name: str, rate: float) -> list[Point]:
    """Return the points of an optimizer's steps down the valley."""
    weights = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64)[:, None])  # a matrix, as Muon wants it
    optimizer = zoo.create(name, [weights], lr=rate, foreach=False)
    points, hessian = [START], curvature()
    for _ in range(STEPS):
        weights.grad = hessian @ weights.detach()
        optimizer.step()
        points.append(tuple(weights.detach().flatten().tolist()))
    return points


def mean_height(points: Sequence[Point]) -> float:
    """Return the mean height of a path; of one that leaves the numbers, infinity."""
    mean = sum(map(height, points)) / len(points)
    return mean if math.isfinite(mean) else math.inf


def draw_path(name: str) -> tuple[str, str]:
    """Return the drawing of an optimizer's path beside that of SGD, and the sentence under it."""
    title = zoo.optimizer_class(name).__name__
    rate, points = path(name)
    sgd_rate, sgd_points = path("sgd")
    scale = 85.0

    def place(point: Point) -> Point:
        x, y = (max(-9.0, min(9.0, value)) for value in point)  # what leaves the picture need not come near it
        return 180 + scale * x, 120 - scale * y

    start = height(START)
    turn = f'transform="translate(180 120) rotate({-math.degrees(ANGLE):g})"'
    body = [
        f'<ellipse class="level" {turn} rx="{scale * math.sqrt(2 * start * share):.1f}" '
        f'ry="{scale * math.sqrt(2 * start * share / CONDITION):.1f}"/>'
        for share in (1.0, 0.5, 0.2, 0.05, 0.005)
    ]
    if name != "sgd":
        body.append(polyline([place(point) for point in sgd_points], "beside"))
    placed = [place(point) for point in points]
    body += [polyline(placed, "path")]
    body += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>' for x, y in placed]
    body += ['<circle class="goal" cx="180" cy="120" r="4"/>']
    said = f"{STEPS} steps of {title} with lr={rate:g} end at the height {height(points[-1]):.1e}"
    if name != "sgd":
        said += f"; SGD with lr={sgd_rate:g}, in grey, at {height(sgd_points[-1]):.1e}"
    return svg(f"Path of {title} down a narrow valley", body, 360, 240), f"{said}."


# Curves of schedules --------------------------------------------------------------------------------------------------


def draw_curve(text: str, schedule: Callable[[int], float], steps: int = 100) -> str:
    """Return the drawing of a schedule: the factor from 0 to 1 against the step."""
    left, top, width, height = 34, 10, 190, 90
    points = [(left + width * step / steps, top + height * (1 - schedule(step))) for step in range(steps + 1)]
    body = [f'<path class="axis" d="M{left} {top}V{top + height}H{left + width}"/>']
    body += [
        f'<text class="label" x="{left - 6}" y="{top + height * (1 - value) + 4:.0f}" '
        f'text-anchor="end">{value:g}</text>'
        for value in (0, 0.5, 1)
    ]
    body += [
        f'<text class="label" x="{left + width * step / steps:.0f}" y="{top + height + 15}" text-anchor="middle">'
        f"{step}</text>"
        for step in (0, steps // 2, steps)
    ]
    return svg(f"Factor of {text} against the step", [*body, polyline(points, "path")], left + width + 16, 120)
