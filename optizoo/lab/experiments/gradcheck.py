"""Is the gradient right? Differences of the loss check it, and show why nobody trains with them.

Backward gives the gradient a in one pass; a centred difference gives one element n of it for two evaluations of the
loss. Their relative error tells a mistake from rounding. The step h must be neither large, as the difference then errs
by h² f'''/6, nor small, as the rounding of the loss is divided by it: the best lies near the cube root of the rounding
unit ε. Checked are the lab's models on images, and a two-layer model in whose ReLU mistakes are planted.

    n = (f(θ + h) - f(θ - h)) / 2h
    relative error = |a - n| / max(|a|, |n|)
    best step: h ≈ ε^(1/3)
    time of a numerical gradient: 2 evaluations for each parameter

The lecture: the numerical gradient is slow and approximate, the analytic one fast and exact but easy to get wrong; so
check the analytic one with the numerical one.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from optizoo.lab import models, plots
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.pictures import Theme
from optizoo.lab.plots import Bar, Line, Mark
from optizoo.lab.running import DATA, images
from optizoo.testing import GradientCheck, check_gradients

NEEDS_DATA = True
DTYPES = {"float32": torch.float32, "float64": torch.float64}
MISTAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of the gradient behind ReLU and what went into it
    "no mistake": lambda grad, x: grad * (x > 0),
    "wrong sign": lambda grad, x: -grad * (x > 0),
    "twice as large": lambda grad, x: 2 * grad * (x > 0),
    "mask forgotten": lambda grad, x: grad,  # noqa: ARG005
    "1 in 1000 too large": lambda grad, x: 1.001 * grad * (x > 0),
    "1 in 100 000 too large": lambda grad, x: 1.00001 * grad * (x > 0),
}
LIMITS = [Mark(1e-7, "fine with kinks", axis="x"), Mark(1e-4, "uneasy", axis="x"), Mark(1e-2, "wrong", axis="x")]


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(64, "number of images in the batch", at_least=2, at_most=IMAGES)
    hidden: int = option(100, "hidden units of the two-layer model", at_least=1, at_most=10_000)
    elements: int = option(50, "elements that are checked of each parameter", at_least=1)
    sizes: tuple[int, ...] = option(
        (1, 8, 64, 512), "hidden units of the models that are timed", at_least=1, at_most=10_000
    )
    epoch: int = option(50_000, "images of the epoch whose time is computed", at_least=1, at_most=10**9)
    repeats: int = option(10, "timings, of which the shortest counts", at_least=1, at_most=10_000)
    seed: int = option(0, "seed of weights and elements", at_least=0, at_most=SEEDS)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mistake: str) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.mistake = mistake
        return x.relu()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return MISTAKES[ctx.mistake](grad, *ctx.saved_tensors), None


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each parameter, each type and step, each mistake, and each size."""
    train = images(options.data, max(1000, options.images))[0].first(options.images)
    batch, entropy = (train.x, train.y), nn.CrossEntropyLoss()
    shape = {"linear": {}, "two_layer": {"hidden": options.hidden}}

    def check(model: nn.Module, loss: Any = entropy, **more: Any) -> GradientCheck:
        return check_gradients(model, loss, batch, elements=options.elements, seed=options.seed, **more)

    for name in track(shape, "models"):
        model = models.create(name, seed=options.seed, **shape[name])
        for param in (found := check(model)).params:
            yield {
                "kind": "check", "name": f"{name}: {param.name}", "error": _error(param.analytic, param.numerical),
                "kinks": param.kinks, "checked": len(param.index), "verdict": param.verdict, "ok": found.ok,
            }  # fmt: skip
        right = torch.cat([param.analytic for param in found.params])
        for dtype, power in track(list(product(DTYPES, range(0, -8, -1))), "steps"):
            found = check(model, step=10.0**power, dtype=DTYPES[dtype])
            error = _error(right, torch.cat([param.numerical for param in found.params]))
            yield {"kind": "step", "model": name, "dtype": dtype, "step": 10.0**power, "error": error}
    model = models.two_layer(options.hidden, seed=options.seed)
    for mistake in track(MISTAKES, "mistakes"):

        def loss(copy: models.TwoLayer, data: tuple[Tensor, Tensor], mistake: str = mistake) -> Tensor:
            hidden: Tensor = _Relu.apply(copy.hidden(data[0]), mistake)  # type: ignore[assignment]
            return entropy(copy.output(hidden), data[1])

        found = check(model, loss)
        worst = max(found.params, key=lambda param: param.error)
        yield {
            "kind": "mistake", "name": mistake, "error": worst.error, "kinks": sum(each.kinks for each in found.params),
            "verdict": worst.verdict, "ok": found.ok,
        }  # fmt: skip
    timed = {"linear": models.linear(seed=options.seed)}
    timed |= {f"two layers, {size} hidden": models.two_layer(size, seed=options.seed) for size in options.sizes}
    for name, model in track(list(timed.items()), "sizes"):
        with torch.no_grad():
            forward = _seconds(lambda: entropy(model(batch[0]), batch[1]), options.repeats)  # noqa: B023
        both = _seconds(lambda: entropy(model(batch[0]), batch[1]).backward(), options.repeats)  # noqa: B023
        n = sum(param.numel() for param in model.parameters())
        yield {
            "kind": "time", "model": name, "parameters": n, "evaluation": forward, "analytic": both,
            "numerical": 2 * n * forward, "batches": -(-options.epoch // options.images), "epoch": options.epoch,
        }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show errors, steps, mistakes and times."""
    kinds = ("check", "step", "mistake", "time")
    checks, steps, mistakes, times = ([row for row in rows if row["kind"] == kind] for kind in kinds)
    planted = [row for row in mistakes if row["name"] != "no mistake"]
    caught, clean = sum(not row["ok"] for row in planted), all(row["ok"] for row in (*checks, mistakes[0]))
    curves = [
        Line(dtype, [row["step"] for row in of], [row["error"] or None for row in of], panel=model.replace("_", "-"))
        for model, dtype in dict.fromkeys((row["model"], row["dtype"]) for row in steps)
        for of in [[row for row in steps if (row["model"], row["dtype"]) == (model, dtype)]]
    ]
    lowest = [min((error, h) for error, h in zip(line.y, line.x, strict=True) if error) for line in curves]
    best = ", ".join(
        f"{h:.0e} in {line.label} ({line.panel}, error {error:.0e})"
        for line, (error, h) in zip(curves, lowest, strict=True)
    )
    verdicts = ", ".join(f"{row['name']}: {row['verdict']}" for row in planted)
    times.sort(key=lambda row: row["parameters"])
    largest, sizes = times[-1], [row["parameters"] for row in times]
    slower = float(f"{largest['numerical'] / largest['analytic']:.2g}")
    numerical, analytic = (_spoken(largest[key] * largest["batches"]) for key in ("numerical", "analytic"))
    worst, kinks = max(row["error"] for row in checks), sum(row["kinks"] for row in checks)
    epochs = [
        Line(label, sizes, [row[key] * row["batches"] for row in times])
        for label, key in (("numerical, computed", "numerical"), ("analytic, measured", "analytic"))
    ]
    return Page(
        equations=(
            r"n_i = \dfrac{f(\theta + h e_i) - f(\theta - h e_i)}{2h}",
            r"\mathrm{error}_i = |a_i - n_i| \,/\, \max(|a_i|, |n_i|)",
            r"h \approx \epsilon^{1/3}",
        ),
        seen=(
            f"The gradients of the right models {'agree' if clean else 'do not all agree'} with differences: the "
            f"median error of a parameter is at most {worst:.0e}; {kinks} of {sum(row['checked'] for row in checks)} "
            f"elements lie on a kink. Of {len(planted)} planted mistakes {caught} were caught ({verdicts}).",
            f"The best of the steps are {best}; ε^(1/3) is "
            f"{' and '.join(f'{torch.finfo(dtype).eps ** (1 / 3):.0e} in {name}' for name, dtype in DTYPES.items())}.",
            f"With {sizes[-1]:,} parameters the numerical gradient takes {slower:,.0f} times as long as backward: an "
            f"epoch of {largest['epoch']:,} images would take {numerical} instead of {analytic}.",
        ),
        headline=Headline(
            number=f"{slower:,.0f} ×",
            what=f"time of the numerical gradient of {sizes[-1]:,} parameters over that of backward; "
            f"{caught} of {len(planted)} planted mistakes were caught with it",
            claim="The numerical gradient is slow; the analytic one is fast and easy to get wrong, so check it.",
            held=slower > 1 and clean and caught == len(planted),
        ),
        pictures=(
            _bars("parameters", "The error of each parameter", "Median of the elements, in float64.", checks),
            line_picture(
                "steps",
                "Neither too large a step nor too small",
                "Median relative error of the difference against backward in float64: to the right it is truncation, "
                "to the left rounding.",
                f"Two panels of the error against the step, both logarithmic. The lowest: {best}.",
                curves,
                xlabel="step h",
                ylabel="relative error",
                xscale="log",
                yscale="log",
            ),
            _bars(
                "mistakes",
                "What the check says of planted mistakes",
                "The largest error that neither rounding nor a kink explains; where there is none, no bar.",
                mistakes,
            ),
            line_picture(
                "time",
                "Why nobody trains with the numerical gradient",
                f"An epoch of {largest['epoch']:,} images: backward, and twice the loss for each parameter.",
                f"Seconds against the number of parameters, both logarithmic: up to {numerical} with the numerical "
                f"gradient, {analytic} with backward.",
                epochs,
                xlabel="parameters",
                ylabel="time of an epoch (s)",
                xscale="log",
                yscale="log",
                marks=[Mark(86_400, "a day"), Mark(365.25 * 86_400, "a year")],
            ),
        ),
    )


def _bars(name: str, title: str, caption: str, rows: Sequence[Row]) -> Picture:
    bars = [Bar(row["name"], row["error"] or None) for row in rows]
    said = ", ".join(f"{row['name']} {row['error']:.1e}" for row in rows)
    alt = f"Bars of the relative error, logarithmic: {said}."
    cells = [[row["name"], row["error"], row["kinks"], row["verdict"]] for row in rows]
    table = Table(["gradient", "relative error", "kinks", "verdict"], cells)

    def draw(theme: Theme) -> Figure:
        return plots.bars(bars, xlabel="relative error", xscale="log", marks=LIMITS, theme=theme)

    return Picture(name, title, caption, alt, draw, table)


def _error(analytic: Tensor, numerical: Tensor) -> float:
    """Return the median of the plain relative errors: neither rounding nor kinks are set apart."""
    size = torch.maximum(analytic.abs(), numerical.abs())
    return torch.where(size > 0, (analytic - numerical).abs() / size, 0.0).median().item()


def _seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first warms up


def _spoken(seconds: float) -> str:
    for unit, size in (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
