"""The second derivative: few steps, and a matrix that no large model can hold.

Newton's method divides the gradient by the curvature, and needs no learning rate. Here it minimises, in float64 and on
all images at once, the cross-entropy of a linear model over shrunken images and of a small network, beside Gauss-Newton
and methods that need products with the Hessian or only gradients. For the linear model over full images there is no
Hessian any more. First-order methods get the best rate of a grid. The Hessian of growing models is made and weighed,
and the line drawn on to models of today.

    Newton: θ ← θ - t (H + μI)⁻¹ g, with μ = c |g|, and t from a line search
    Gauss-Newton: θ ← θ - (JᵀSJ + μI)⁻¹ g, with S the curvature of the loss in the scores
    the Hessian H of n parameters has n² numbers, and n³/3 multiplications solve it

The lecture: the second derivative needs few steps and no rate, but n² numbers are too many for deep learning.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import log10

import numpy as np
import torch

import optizoo
from optizoo.lab import models
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Row, Track, line_picture
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import DATA, images
from optizoo.lab.second_order import first_order, gauss_newton, hessian, lbfgs, newton, newton_cg, of_model
from optizoo.zoo import optimizer_class

NEEDS_DATA = True
METHODS = {"newton": newton, "gauss_newton": gauss_newton, "newton_cg": newton_cg, "lbfgs": lbfgs}
LARGE = {"linear, 32×32": 30_730, "two-layer, 512": 1_578_506, "GPT-2": 124_439_808}
DENSE = [name for name in optizoo.list_optimizers() if not optimizer_class(name).least_dimensions]  # take any vector
CARD = 80e9  # bytes of a large accelerator


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(
        1000, "number of images, of which every step sees all; half of them at full width", at_least=2, at_most=IMAGES
    )
    side: int = option(8, "width of the shrunken images", choices=(2, 4, 8, 16))
    hidden: int = option(
        10, "hidden units of the network, which sees images of half that width", at_least=1, at_most=100
    )
    l2: float = option(1e-2, "penalty: half of it times the squared norm of all parameters", at_least=0)
    steps: int = option(20, "steps of Newton and Gauss-Newton, at most", at_least=1, at_most=100_000)
    first_steps: int = option(150, "steps of the others, at most", at_least=1, at_most=100_000)
    lrs: tuple[float, ...] = option(
        (1e-3, 1e-2, 1e-1), "learning rates of first-order methods", at_least=0, nonzero=True
    )
    optimizers: tuple[str, ...] = option(("sgd", "momentum", "adam"), "first-order methods", choices=DENSE)
    seed: int = option(0, "of the weights at the start", at_least=0, at_most=SEEDS)


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each model and method with its steps, and one for each Hessian that is weighed."""
    small, half = options.side, options.side // 2
    problems = {
        f"linear, {small}×{small}": (small, "linear", {}, True),
        f"two-layer, {half}×{half}": (half, "two_layer", {"hidden": options.hidden}, True),
        "linear, 32×32": (32, "linear", {}, False),
    }
    for name, (side, model, sizes, exact) in track(list(problems.items()), "models"):
        train = images(options.data, options.images, side=side, dtype=torch.float64)[0]
        train = train if exact else train.first(options.images // 2)  # for time
        network = models.create(model, seed=options.seed, inputs=train.x.shape[1], **sizes)
        objective, start = of_model(network, train.x, train.y, l2=options.l2)
        about = {"kind": "run", "model": name, "params": len(start), "images": len(train), "l2": options.l2}
        for method in track([*METHODS] if exact else ["newton_cg", "lbfgs"], "methods"):
            steps = options.steps if method in ("newton", "gauss_newton") else options.first_steps
            trace = METHODS[method](objective, start, steps=steps)
            yield about | {"method": method, "lr": None, "status": trace.status, "steps": trace.steps}
        for method, lr in track(list(product(options.optimizers, options.lrs)), "learning rates"):
            trace = first_order(
                objective,
                start,
                lambda params: optizoo.create(method, params, lr=lr),  # noqa: B023
                steps=options.first_steps,
            )
            yield about | {"method": method, "lr": lr, "status": trace.status, "steps": trace.steps}
    for side in [side for side in (1, 2, 4, 8, 16) if side <= options.side]:
        train = images(options.data, options.images, side=side, dtype=torch.float64)[0].first(100)
        objective, start = of_model(models.linear(inputs=train.x.shape[1], seed=options.seed), train.x, train.y, l2=1.0)
        began = time.perf_counter()
        matrix = hessian(objective, start)
        made = time.perf_counter()
        torch.linalg.cholesky(matrix)
        seconds = {"made": made - began, "solved": time.perf_counter() - made}
        yield {"kind": "hessian", "params": len(start), "bytes": matrix.untyped_storage().nbytes(), "seconds": seconds}


def page(rows: Sequence[Row]) -> Page:
    """Show gradient norms against steps and seconds, and the weight of the Hessian."""
    runs = _best([row for row in rows if row["kind"] == "run"])
    names = list(dict.fromkeys(row["model"] for row in runs))
    panel = {row["model"]: f"{row['model']}: {row['params']} parameters" for row in runs}
    last = {(row["model"], row["method"]): row["steps"][-1] for row in runs}
    exact = last[names[0], "newton"]
    firsts = [row for row in runs if row["model"] == names[0] and row["lr"] is not None]
    nearest = min(firsts, key=lambda row: row["steps"][-1][2] or float("inf"))
    weighed = [row for row in rows if row["kind"] == "hessian"]
    n, weights = [row["params"] for row in weighed], [row["bytes"] for row in weighed]
    power, offset = np.polyfit(np.log10(n), np.log10(weights), 1)
    predicted = {name: float(10 ** (offset + power * log10(size))) for name, size in LARGE.items()}
    gpt2 = _size(predicted["GPT-2"])
    lines = {axis: [Line(r["method"], *_curve(r, axis), panel=panel[r["model"]]) for r in runs] for axis in (0, 3)}
    target, full = 1e-3, [row for row in runs if row["model"] == names[-1]]
    reached = {row["method"]: _first(row, target) for row in full}
    times = ", ".join(f"{method} {step[3]:.2g} s" for method, step in reached.items() if step)
    never = ", ".join(method for method, step in reached.items() if not step)
    ends = "; ".join(f"{m} {last[names[0], m][2]:.1e}" for m in dict.fromkeys(r["method"] for r in runs))
    return Page(
        equations=(
            r"\mathrm{Newton:}\quad \theta \leftarrow \theta - t\,(H + \mu I)^{-1} g, \quad \mu = c\,|g|",
            r"\mathrm{Gauss\ and\ Newton:}\quad \theta \leftarrow \theta - (J^T S J + \mu I)^{-1} g",
        ),
        seen=(
            f"On the linear model of {runs[0]['params']} parameters and {runs[0]['images']} images, Newton's gradient "
            f"norm is {exact[2]:.1e} after {exact[0]} steps; the best of the first-order methods, "
            f"{nearest['method']} at lr {nearest['lr']:g}, has {nearest['steps'][-1][2]:.1e} after "
            f"{nearest['steps'][-1][0]}. On the network, whose ReLUs have kinks, Newton's is "
            f"{last[names[1], 'newton'][2]:.1e} after {last[names[1], 'newton'][0]}.",
            f"On {full[0]['images']} full images a gradient norm of {target:g} is reached after: {times or 'no method'}"
            f"{f'; not within the steps by {never}' if never else ''}.",
            f"The bytes of the Hessian grow as the parameters to the power {power:.2f}, measured up to {n[-1]} "
            f"parameters ({_size(weights[-1])}, made in {weighed[-1]['seconds']['made']:.2g} s on 100 images and "
            f"factored in {weighed[-1]['seconds']['solved']:.2g} s): {_size(predicted['linear, 32×32'])} for the "
            f"linear model, {gpt2} for GPT-2, as much as {predicted['GPT-2'] / CARD:.2g} accelerators of 80 GB hold.",
        ),
        headline=Headline(
            number=gpt2,
            what="Hessian of GPT-2's 124 million parameters, drawn on from those that were made; on the small linear "
            f"model Newton needs {exact[0]} steps for a gradient norm of {exact[2]:.1e}",
            claim="The second derivative needs few steps and no rate, but n² numbers are too many for deep learning.",
            held=exact[2] <= 1e-8 and exact[0] < nearest["steps"][-1][0] and predicted["GPT-2"] > CARD,
        ),
        pictures=(
            line_picture(
                "steps",
                "The gradient against steps",
                "Each first-order method has the rate of the grid at which its last loss is lowest.",
                f"Panels of the gradient norm against the step, both logarithmic. In the first it ends at: {ends}.",
                lines[0],
                xlabel="step",
                ylabel="gradient norm",
                xscale="log",
                yscale="log",
                columns=1,
                height=2.4,
            ),
            line_picture(
                "seconds",
                "The gradient against seconds",
                "The same runs. A step of Newton makes and factors a matrix; the others see only vectors.",
                f"Panels of the gradient norm against time, both logarithmic. On full images {target:g} is reached "
                f"after: {times or 'no method'}.",
                lines[3],
                xlabel="time (s)",
                ylabel="gradient norm",
                xscale="log",
                yscale="log",
                columns=1,
                height=2.4,
            ),
            line_picture(
                "memory",
                "The weight of the Hessian",
                "Matrices of linear models over images of growing width were made; the line is drawn on through them.",
                f"Bytes against parameters, both logarithmic: a line of slope {power:.2f} to {gpt2} for GPT-2; "
                "the limit of an accelerator of 80 GB is crossed before it.",
                [
                    Line("made and weighed", n, weights),
                    Line("drawn on", [n[-1], *LARGE.values()], [weights[-1], *predicted.values()], dashed=True),
                ],
                xlabel="parameters",
                ylabel="Hessian in float64 (bytes)",
                xscale="log",
                yscale="log",
                marks=[Mark(CARD, "an accelerator of 80 GB"), *(Mark(LARGE[m], m, axis="x") for m in LARGE)],
            ),
        ),
    )


def _best(runs: Sequence[Row]) -> list[Row]:
    """Return for each model and method the run whose last loss is lowest."""
    kept: dict[tuple[str, str], Row] = {}
    for run in sorted(runs, key=lambda run: run["steps"][-1][1] if run["steps"][-1][1] is not None else float("inf")):
        kept.setdefault((run["model"], run["method"]), run)
    return [kept[key] for key in dict.fromkeys((run["model"], run["method"]) for run in runs)]


def _curve(run: Row, axis: int) -> tuple[list[float], list[float | None]]:
    steps = run["steps"][1:]  # a logarithm knows no step 0
    return [step[axis] for step in steps], [step[2] for step in steps]


def _first(run: Row, norm: float) -> list[float] | None:
    return next((step for step in run["steps"] if step[2] is not None and step[2] <= norm), None)


def _size(count: float) -> str:
    """Write bytes: 7_554_663_200 is 7.55 GB."""
    power = min(int(log10(max(count, 1)) // 3), 6)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"
