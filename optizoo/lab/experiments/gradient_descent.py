"""Gradient descent: the whole training set for a step, or a few images of it.

The gradient of the loss is a mean over all training images. A minibatch estimates it from B of them: B images buy one
step on a noisy gradient, or N images one step on the exact one. At equal numbers of images, small batches take more
steps. Without replacement from N images the noise, relative to the gradient, falls like 1/√B, and reaches zero at N.
A run stops after so many steps, or when the gradient is short: on a minibatch, that is a gradient full of noise, so
that the second rule needs the exact gradient.

    θ ← θ - α ∇f(θ), with ∇f = 1/B Σ ∇fᵢ
    noise: E|∇f_B - ∇f|² = σ²/B (N - B) / (N - 1)
    stop: t = T, or |∇f(θ)| < ε

The lecture: a minibatch of 32, 64 or 128 images is enough for a step; the full sum is too expensive.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, softmax

import optizoo
from optizoo.lab import models
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Row, Track, line_picture
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import DATA, Images, batch_loss, descend, images, minibatches

NEEDS_DATA = True


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(10_000, "number of training images", at_least=2, at_most=IMAGES)
    batch_sizes: tuple[int, ...] = option((32, 64, 128, 256), "images in a minibatch", at_least=1)
    epochs: int = option(10, "passes over the training images, for every batch size", at_least=1, at_most=10_000)
    lr: float = option(0.01, "learning rate of all", at_least=0, nonzero=True)
    draws: int = option(
        200, "minibatches of each size whose gradient is compared with the exact one", at_least=2, at_most=100_000
    )
    stop_images: int = option(500, "training images of the runs to a tolerance", at_least=1)
    tolerances: tuple[float, ...] = option(
        (0.1, 0.03, 0.01), "lengths of the gradient at which a run stops", at_least=0, nonzero=True
    )
    max_steps: int = option(3000, "updates after which these runs stop anyway", at_least=1, at_most=100_000)
    decay: float = option(0.1, "L2 of these runs, for a minimum that exists", at_least=0)
    stop_batch: int = option(32, "minibatch of these runs, beside the exact gradient", at_least=1)
    seed: int = option(0, "seed of weights and batches", at_least=0, at_most=SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.batch_sizes) >= self.images:
            raise ExperimentError(f"batch_sizes = {self.batch_sizes}; one must be below the {self.images} images")


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield the losses of each batch size against images seen, the noise of gradients, and runs to a tolerance."""
    train, validation, _ = images(options.data, options.images)
    n = len(train)
    sizes = [*sorted({min(size, n) for size in options.batch_sizes} - {n}), n]
    for size in track(sizes, "batch sizes"):
        model = models.create("linear", seed=options.seed)
        optimizer = optizoo.SGD(model.parameters(), lr=options.lr)
        per_epoch = ceil(n / size)
        loss = batch_loss(model, minibatches(train, size, seed=options.seed))
        seen, losses, steps = [], [], per_epoch * options.epochs
        looks = {round(steps * part / 40) for part in range(40)}
        for step, _ in enumerate(descend(optimizer, loss, steps)):
            if step in looks:
                seen.append(step // per_epoch * n + step % per_epoch * size)
                losses.append(_loss(model, train))
        yield {
            "kind": "run", "batch_size": size, "images": n, "seen": [*seen, options.epochs * n], "steps": steps,
            "losses": [*losses, _loss(model, train)], "lr": options.lr, "accuracy": _accuracy(model, validation),
        }  # fmt: skip
    model = models.create("linear", seed=options.seed)
    optimizer = optizoo.SGD(model.parameters(), lr=options.lr)
    for _ in descend(optimizer, batch_loss(model, minibatches(train, sizes[0], seed=options.seed)), ceil(n / sizes[0])):
        pass
    yield from _noise(model, train, sizes, options, track)
    yield from _stopped(train.first(options.stop_images), options, track)


def _noise(model: Any, train: Images, sizes: Sequence[int], options: Options, track: Track) -> Iterator[Row]:
    """Yield the mean squared distance of minibatch gradients from the exact one, measured and predicted."""
    x = torch.nn.functional.pad(train.x, (0, 1), value=1.0)
    with torch.no_grad():
        errors = softmax(model(train.x), 1) - one_hot(train.y, 10)  # the gradient of image i is errors[i] x[i]ᵀ
    exact = errors.T @ x / len(x)
    variance = (errors.square().sum(1) * x.square().sum(1)).mean().item() - exact.square().sum().item()
    generator = torch.Generator().manual_seed(options.seed)
    for size in track(sizes, "noise"):
        squares = []
        for _ in range(options.draws if size < len(x) else 1):
            rows = torch.randperm(len(x), generator=generator)[:size]
            squares.append((errors[rows].T @ x[rows] / size - exact).square().sum().item())
        left = (len(x) - size) / (len(x) - 1)
        yield {
            "kind": "noise", "batch_size": size, "noise": sqrt(sum(squares) / len(squares)),
            "predicted": sqrt(variance / size * left), "gradient": exact.norm().item(), "draws": len(squares),
        }  # fmt: skip


def _stopped(train: Images, options: Options, track: Track) -> Iterator[Row]:
    """Yield the lengths of the gradients, the exact one's and a minibatch's, and the first below each tolerance."""
    for size in track(sorted({len(train), min(options.stop_batch, len(train))}), "stopping"):
        model: Any = models.create("linear", seed=options.seed, init="zeros")
        optimizer = optizoo.SGD(model.parameters(), lr=options.lr)
        loss = batch_loss(model, minibatches(train, size, seed=options.seed))

        def regularized(model: Any = model, loss: Any = loss) -> Any:
            return loss() + options.decay / 2 * model.weight.square().sum()

        updates = descend(optimizer, regularized, options.max_steps + 1)
        norms = [_gradient(model) for _ in updates if model.weight.grad is not None]  # of the step before
        shown = sorted({round(len(norms) ** (part / 79)) - 1 for part in range(80)})
        yield {
            "kind": "stop", "batch_size": size, "images": len(train), "steps": shown, "max_steps": options.max_steps,
            "norms": [norms[step] for step in shown], "shortest": min(norms), "tolerances": options.tolerances,
            "stopped": [next((t for t, norm in enumerate(norms) if norm < each), None) for each in options.tolerances],
        }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the losses against images seen, the noise against its prediction, and when the gradients are short."""
    runs, noise, stops = ([row for row in rows if row["kind"] == kind] for kind in ("run", "noise", "stop"))
    full, first = runs[-1], runs[0]
    names = {row["batch_size"]: f"batch of {row['batch_size']}" for row in runs} | {full["batch_size"]: "all images"}
    curves = [Line(names[row["batch_size"]], row["seen"], row["losses"]) for row in runs]
    ends = ", ".join(f"{row['losses'][-1]:.3f} ({names[row['batch_size']]}, {row['steps']} steps)" for row in runs)
    held = all(row["losses"][-1] < full["losses"][-1] for row in runs[:-1])
    sampled = [row for row in noise if row["predicted"]]
    error = max(abs(row["noise"] / row["predicted"] - 1) for row in sampled)
    smallest = sampled[0]
    sizes = [row["batch_size"] for row in sampled]
    measured = Line("measured", sizes, [row["noise"] for row in sampled])
    predicted = Line("predicted, σ/√B", sizes, [row["predicted"] for row in sampled], dashed=True)
    labels = {row["batch_size"]: f"batch of {row['batch_size']}" for row in stops} | {stops[-1]["images"]: "all images"}
    norms = [Line(labels[row["batch_size"]], [step + 1 for step in row["steps"]], row["norms"]) for row in stops]
    limit = stops[0]["tolerances"]
    stopping = "; ".join(
        f"{labels[row['batch_size']]}: "
        + ", ".join(
            f"below {tolerance:g} " + (f"never within {row['max_steps']} steps" if at is None else f"at step {at + 1}")
            for tolerance, at in zip(limit, row["stopped"], strict=True)
        )
        for row in stops
    )
    return Page(
        equations=(
            r"\theta \leftarrow \theta - \alpha \nabla f_B(\theta)",
            r"\nabla f_B = \dfrac{1}{B} \sum_{i \in B} \nabla f_i",
            r"E\,|\nabla f_B - \nabla f|^2 = \dfrac{\sigma^2}{B} \cdot \dfrac{N - B}{N - 1}",
            r"\mathrm{stop:}\quad t = T \;\;\mathrm{or}\;\; |\nabla f(\theta)| < \epsilon",
        ),
        seen=(
            f"After {full['seen'][-1] // full['images']} passes over {full['images']} images, at learning rate "
            f"{full['lr']:g}, the training loss is {ends}; "
            f"{'every minibatch is below' if held else 'not every minibatch is below'} the full batch.",
            f"The noise of a gradient of {smallest['batch_size']} images is "
            f"{smallest['noise'] / smallest['gradient']:.2f} times the length of the exact gradient; from "
            f"{sizes[0]} to {sizes[-1]} images it falls {smallest['noise'] / sampled[-1]['noise']:.2f} times, where "
            f"{smallest['predicted'] / sampled[-1]['predicted']:.2f} is predicted, and no size is more than "
            f"{100 * error:.1f} % off.",
            f"A run by tolerance stops, by the gradient that it sees, so: {stopping}.",
        ),
        headline=Headline(
            number=f"{first['losses'][-1]:.2f} against {full['losses'][-1]:.2f}",
            what=f"training loss (nats) with batches of {first['batch_size']} and with all {full['images']}, after as "
            "many images",
            claim="Minibatches of 32 to 256 images are enough for a step; the full sum is too expensive.",
            held=held if len(runs) > 1 else None,
        ),
        pictures=(
            line_picture(
                "loss",
                "The training loss against images seen",
                f"All with the learning rate {full['lr']:g}, from the same weights; the loss is that of all training "
                "images.",
                f"Falling lines of the loss against images seen. At the end: {ends}.",
                curves,
                xlabel="images seen",
                ylabel="training loss (nats)",
            ),
            line_picture(
                "noise",
                "The noise of the gradient against the batch size",
                f"The root of the mean squared distance from the exact gradient over {smallest['draws']} minibatches, "
                "after one pass; the dashed prediction knows no more than the variance of single images.",
                f"Logarithmic axes: the noise falls from {smallest['noise']:.3g} to {sampled[-1]['noise']:.3g}, at "
                f"most {100 * error:.1f} % off the prediction.",
                [measured, predicted],
                xlabel="images in a minibatch",
                ylabel="distance from the exact gradient",
                xscale="log",
                yscale="log",
                marks=[Mark(smallest["gradient"], "length of the exact gradient")],
            ),
            line_picture(
                "stopping",
                "The length of the gradient that a run sees",
                f"{stops[0]['images']} images, with L2, so that the minimum exists; dotted, the tolerances.",
                "Both axes logarithmic. Shortest gradients: "
                + ", ".join(f"{row['shortest']:.3g} ({labels[row['batch_size']]})" for row in stops)
                + ".",
                norms,
                xlabel="step",
                ylabel="length of the gradient",
                xscale="log",
                yscale="log",
                marks=[Mark(tolerance, f"{tolerance:g}") for tolerance in limit],
            ),
        ),
    )


def _gradient(model: nn.Module) -> float:
    return sqrt(sum(param.grad.square().sum().item() for param in model.parameters() if param.grad is not None))


def _loss(model: nn.Module, split: Images) -> float:
    with torch.no_grad():
        return cross_entropy(model(split.x), split.y).item()


def _accuracy(model: nn.Module, split: Images) -> float:
    with torch.no_grad():
        return (model(split.x).argmax(1) == split.y).double().mean().item()
