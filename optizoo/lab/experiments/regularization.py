"""Regularization: smaller weights, fewer weights, and what the test images say.

A penalty on the weights is added to the loss, with a strength λ that is chosen on validation images. L2 shrinks large
weights the most, and spreads them. L1 takes the same from all, until they are zero: as a proximal step after each
update, where zeros are exact; as a gradient, weights would jump around zero. The elastic net is both. AdamW's weight
decay shrinks the weights beside the step of Adam. Dropout switches off random hidden units of a network of two layers.
All learn from few and small images, so that there is something to regularize; the linear models from all of them in
every update, as noise in the gradient pushes weights off zero again. Biases are left alone.

    L2: λ Σ w²; L1: λ Σ |w|; elastic net: λ Σ (w² + |w|)
    proximal step: w ← sign(w) max(|w| - αλ, 0)
    weight decay: w ← (1 - αλ) w

The lecture: L2 spreads the weights out, and L1 makes them sparse. For x = (1, 1, 1, 1), the weights w1 = (1, 0, 0, 0)
and w2 = (¼, ¼, ¼, ¼) give the same score; L2 prefers w2.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product, repeat
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import optizoo
from optizoo.lab import models, plots
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.plots import Line
from optizoo.lab.running import DATA, Images, batch_loss, dataset, descend, images, minibatches
from optizoo.schedules import Cosine

NEEDS_DATA = True
SHOWN = ("none", "L2", "L1")  # methods whose templates are drawn
PENALTIES = {"L2": (2, 0), "L1": (0, 1), "elastic net": (2, 1)}  # λ times these are SGD's weight_decay and l1
W1, W2 = (1.0, 0.0, 0.0, 0.0), (0.25, 0.25, 0.25, 0.25)
EXAMPLES = {"equal pixels": (1.0, 1.0, 1.0, 1.0), "a brighter pixel": (1.1, 1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(1000, "number of training images", at_least=1, at_most=IMAGES)
    side: int = option(16, "width and height of the images, to which they are shrunk", choices=(1, 2, 4, 8, 16, 32))
    batch_size: int = option(100, "images in a batch, for dropout", at_least=1)
    steps: int = option(500, "updates of a run, under a cosine schedule", at_least=1, at_most=100_000)
    lambdas: tuple[float, ...] = option(
        (1e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 0.1, 0.3), "strengths of L2, L1 and elastic net", at_least=0
    )
    decays: tuple[float, ...] = option((0.1, 0.3, 1.0, 3.0, 10.0, 30.0), "strengths of AdamW's decay", at_least=0)
    dropouts: tuple[float, ...] = option((0.0, 0.2, 0.4, 0.6, 0.8), "probabilities of dropout", at_least=0, below=1)
    hidden: int = option(128, "hidden units of the two layers", at_least=1, at_most=10_000)
    lr: float = option(
        0.02, "learning rate of SGD with momentum 0.9; Adam has a twentieth of it", at_least=0, nonzero=True
    )
    seed: int = option(0, "seed of weights, batches and dropout", at_least=0, at_most=SEEDS)


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each run, then the weights of each method's best run, and what penalties make of the example."""
    splits = images(options.data, options.images, side=options.side)
    classes = dataset(options.data, options.images).classes
    runs = [("none", 0.0), *((name, strength) for name in PENALTIES for strength in options.lambdas)]
    runs += [("AdamW", strength) for strength in options.decays] + [("dropout", p) for p in options.dropouts]
    best: dict[str, tuple[float, Tensor]] = {}
    for method, strength in track(runs, "runs"):
        model = _trained(method, strength, options, splits[0])
        accuracies = [_accuracy(model, split) for split in splits]
        weight = model.weight.detach() if isinstance(model, nn.Linear) else torch.empty(0)
        zeros = (weight == 0).double().mean().item() if len(weight) else None
        yield {"kind": "run", "method": method, "strength": strength, "zeros": zeros, "train": accuracies[0],
               "validation": accuracies[1], "test": accuracies[2], "images": len(splits[0]),
               "test_images": len(splits[2])}  # fmt: skip
        if len(weight) and accuracies[1] > best.get(method, (-1.0, weight))[0]:
            best[method] = accuracies[1], weight
    for method, (_, weight) in best.items():
        limit = 4 * weight.std().item() or 1.0
        counts, edges = np.histogram(weight.numpy(), bins=41, range=(-limit, limit))
        row = {"kind": "weights", "method": method, "classes": classes, "side": options.side,
               "centres": ((edges[1:] + edges[:-1]) / 2).tolist(), "shares": (counts / weight.numel()).tolist(),
               "std": weight.std().item()}  # fmt: skip
        if method in SHOWN:
            row["templates"] = _encoded(weight)
        yield row
    for (name, pixels), penalty in product(EXAMPLES.items(), ("L2", "L1")):
        decay, l1 = PENALTIES[penalty]
        w = nn.Parameter(torch.tensor([0.7, 0.3, 0.0, 0.0], dtype=torch.float64))
        x = torch.tensor(pixels, dtype=torch.float64)
        optimizer = optizoo.SGD([w], lr=0.4, weight_decay=decay * 1e-2, l1=l1 * 1e-2)
        for _ in descend(optimizer, lambda w=w, x=x: (w @ x - 1) ** 2 / 2, 4000):
            pass
        yield {"kind": "example", "pixels": name, "penalty": penalty, "w": w.tolist()}


def _trained(method: str, strength: float, options: Options, train: Images) -> nn.Module:
    torch.manual_seed(options.seed)  # of dropout
    inputs, batches = train.x.shape[1], repeat((train.x, train.y))
    model: Any = models.create("linear", seed=options.seed, inputs=inputs, init="zeros")
    if method == "dropout":
        batches = minibatches(train, min(options.batch_size, len(train)), seed=options.seed)
        model = models.create("two_layer", seed=options.seed, inputs=inputs, hidden=options.hidden, dropout=strength)
        optimizer: Any = optizoo.Adam(model.parameters(), lr=options.lr / 20)
    elif method == "AdamW":
        groups = [{"params": [model.weight], "weight_decay": strength}, {"params": [model.bias], "weight_decay": 0.0}]
        optimizer = optizoo.AdamW(groups, lr=options.lr / 20)
    else:
        decay, l1 = PENALTIES.get(method, (0, 0))
        # Momentum lengthens steps along the gradient, L2 included, 1 / (1 - 0.9) times, but not the proximal one.
        groups = [{"params": [model.weight], "weight_decay": decay * strength, "l1": l1 * strength / (1 - 0.9)}]
        optimizer = optizoo.SGD([*groups, {"params": [model.bias]}], lr=options.lr, momentum=0.9)
    schedule, lr = Cosine(options.steps), optimizer.param_groups[0]["lr"]
    loss = batch_loss(model, batches)
    for step, _ in enumerate(descend(optimizer, loss, options.steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step)
    return model.eval()


def page(rows: Sequence[Row]) -> Page:
    """Show accuracies and zeros against the strength, the weights of the best runs, and the example."""
    runs = [row for row in rows if row["kind"] == "run"]
    weights = {row["method"]: row for row in rows if row["kind"] == "weights"}
    examples = [row for row in rows if row["kind"] == "example"]
    grids = {method: [row for row in runs if row["method"] == method] for method in (*PENALTIES, "AdamW", "dropout")}
    best = {method: max(grid, key=lambda row: row["validation"]) for method, grid in grids.items()}
    none = runs[0]
    margin = 2 * sqrt(0.25 / none["test_images"])
    gains = ", ".join(
        f"{_percent(row['test'])} with {method} {row['strength']:g}"
        for method, row in best.items()
        if method != "dropout"
    )
    without = next((row for row in grids["dropout"] if not row["strength"]), None)
    dropped = best["dropout"]
    network = f"The two layers have {_percent(dropped['test'])} with dropout {dropped['strength']:g}" + (
        f" and {_percent(without['test'])} without." if without else "."
    )
    curves = [
        Line(split, [row["strength"] for row in grid], [row[split] for row in grid], panel=method)
        for method, grid in grids.items()
        if method != "dropout"
        for split in ("train", "validation", "test")
    ]
    network_curves = [
        Line(split, [row["strength"] for row in grids["dropout"]], [row[split] for row in grids["dropout"]])
        for split in ("train", "validation", "test")
    ]
    zeros = [
        Line(method, [row["strength"] for row in grids[method]], [row["zeros"] for row in grids[method]])
        for method in PENALTIES
    ]
    histograms = [Line(method, row["centres"], row["shares"]) for method, row in weights.items()]
    spread = {row["pixels"]: row["w"] for row in examples if row["penalty"] == "L2"}
    sparse = {row["pixels"]: row["w"] for row in examples if row["penalty"] == "L1"}
    w2_wins, tied = sum(w * w for w in W1) > sum(w * w for w in W2), sum(map(abs, W1)) == sum(map(abs, W2))
    pictured = {method: weights[method] for method in SHOWN if method in weights}
    labels = [f"{method}: {name}" for method, row in pictured.items() for name in row["classes"]]
    templates = [
        image for row in pictured.values() for image in _images(row["templates"], row["side"], len(row["classes"]))
    ]
    return Page(
        equations=(
            r"\mathrm{L2:}\quad \lambda \sum w^2",
            r"\mathrm{L1:}\quad \lambda \sum |w|",
            r"\mathrm{elastic\ net:}\quad \lambda \sum (w^2 + |w|)",
            r"\mathrm{proximal\ step:}\quad w \leftarrow \mathrm{sign}(w) \max(|w| - \alpha \lambda,\, 0)",
            r"\mathrm{weight\ decay:}\quad w \leftarrow (1 - \alpha \lambda)\, w",
        ),
        seen=(
            f"Chosen on validation, L1 leaves {_percent(best['L1']['zeros'])} of the weights at exactly zero, L2 "
            f"{_percent(best['L2']['zeros'])}, and the elastic net {_percent(best['elastic net']['zeros'])}.",
            f"The linear model has a test accuracy of {_percent(none['test'])} without regularization, {gains} (two "
            f"standard errors are at most {_percent(margin)}). {network}",
            f"For w1 and w2, the sum of squares {'prefers w2' if w2_wins else 'does not prefer w2'} (1 against ¼), and "
            f"the sum of sizes {'cannot tell them apart (1 and 1)' if tied else 'tells them apart'}. Where the first "
            f"pixel is a tenth brighter, L1 leaves {_nonzero(sparse['a brighter pixel'])} of 4 weights, and L2 "
            f"{_nonzero(spread['a brighter pixel'])}.",
        ),
        headline=Headline(
            number=_percent(best["L1"]["zeros"]),
            what=f"of the weights are exactly zero under L1, λ = {best['L1']['strength']:g}; under L2 "
            f"{_percent(best['L2']['zeros'])}",
            claim="L2 spreads the weights out, and L1 makes them sparse.",
            held=best["L1"]["zeros"] > best["L2"]["zeros"]
            and _nonzero(sparse["a brighter pixel"]) < _nonzero(spread["a brighter pixel"]),
        ),
        pictures=(
            line_picture(
                "strength",
                "Accuracy against the strength, linear model",
                f"{none['images']} training images. Without: {_percent(none['train'])} train, "
                f"{_percent(none['validation'])} validation, {_percent(none['test'])} test. AdamW's λ counts times the "
                "learning rate, and so is on another scale.",
                f"Four panels of accuracy against λ. Best on validation: {gains} on the test images.",
                curves,
                xlabel="strength λ",
                ylabel="accuracy (%)",
                xscale="log",
                percent=True,
                height=2.2,
            ),
            line_picture(
                "dropout",
                "Accuracy against dropout, two layers",
                "Dropout is on while the network learns, and off while it is measured.",
                f"Accuracy against the probability of dropout. {network}",
                network_curves,
                xlabel="probability of dropout",
                ylabel="accuracy (%)",
                percent=True,
                height=2.6,
            ),
            line_picture(
                "zeros",
                "Exact zeros against the strength",
                "The share of weights that are zero, not small.",
                "The share of zeros against λ: "
                + ", ".join(f"{line.label} {_percent(line.y[0] or 0)} to {_percent(line.y[-1] or 0)}" for line in zeros)
                + ".",
                zeros,
                xlabel="strength λ",
                ylabel="weights at zero (%)",
                xscale="log",
                percent=True,
            ),
            line_picture(
                "weights",
                "Histograms of the weights",
                "Weights of each method's best run, in 41 bins up to 4 standard deviations; L1's peak are its zeros.",
                "Share of the weights against their value. Standard deviations: "
                + ", ".join(f"{method} {row['std']:.2g}" for method, row in weights.items())
                + ".",
                histograms,
                xlabel="weight",
                ylabel="share of the weights",
                yscale="log",
            ),
            Picture(
                "templates",
                "What the rows of W look like",
                "The weights of a class as an image: grey is zero, and a method's largest weight is black or of full "
                "colour.",
                f"Small images, one a class, of the weights of {', '.join(pictured)}.",
                lambda theme: plots.images(templates, labels=labels, columns=5, size=0.85, theme=theme),
                Table(["method", "standard deviation"], [[method, row["std"]] for method, row in pictured.items()]),
            ),
            Picture(
                "example",
                "The example of w1 and w2, minimised",
                "Gradient descent on (w x - 1)² / 2, with a penalty of strength 0.01, from (0.7, 0.3, 0, 0).",
                "The four weights under each penalty: "
                + "; ".join(f"{row['penalty']}, {row['pixels']}: {_vector(row['w'])}" for row in examples)
                + ".",
                lambda theme: plots.heatmap(
                    [row["w"] for row in examples],
                    columns=["w₁", "w₂", "w₃", "w₄"],
                    rows=[f"{row['penalty']}, {row['pixels']}" for row in examples],
                    xlabel="weight",
                    ylabel="penalty",
                    unit="value",
                    form="{:.3f}".format,
                    theme=theme,
                ),
                Table(
                    ["penalty", "pixels", "w1", "w2", "w3", "w4"],
                    [[row["penalty"], row["pixels"], *row["w"]] for row in examples],
                ),
            ),
        ),
    )


def _accuracy(model: nn.Module, split: Images) -> float:
    with torch.no_grad():
        return (model(split.x).argmax(1) == split.y).double().mean().item()


def _encoded(weight: Tensor) -> str:
    """Return the weights as bytes: 128 is zero, and the largest is 1 or 255."""
    scale = 127 / (weight.abs().max().item() or 1.0)
    return base64.b64encode((weight * scale + 128).round().to(torch.uint8).numpy().tobytes()).decode()


def _images(text: str, side: int, classes: int) -> np.ndarray:
    pixels = np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(classes, 3, side, side)
    return pixels.transpose(0, 2, 3, 1) / 255


def _nonzero(weights: Sequence[float]) -> int:
    return sum(weight != 0 for weight in weights)


def _vector(weights: Sequence[float]) -> str:
    return f"({', '.join(f'{weight:.3g}' for weight in weights)})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
