"""Bias correction: what Adam's first steps are without it.

Both moments begin at zero and are too small at first: the first by 1 - β₁ᵗ, the second by 1 - β₂ᵗ. Adam divides by
these numbers. Where it does not, step t is r(t) times as long, whatever the gradients are, as far as ε is small beside
them. Two optimizers are fed the gradients of one run on CIFAR-10 to measure r(t); then each trains on its own, from the
same weights and on the same batches.

    m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²
    θ ← θ - α m̂ / (√v̂ + ε), with m̂ = m / (1-β₁ᵗ) and v̂ = v / (1-β₂ᵗ)
    without correction, steps are longer by r(t) = (1-β₁ᵗ) / √(1-β₂ᵗ)

The lecture: without bias correction the first steps are too large, as the second moment is near zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import torch

import optizoo
from optizoo.lab import models
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Row, Track, line_picture
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import DATA, batch_loss, descend, images, minibatches

NEEDS_DATA = True
LABELS = {True: "with correction", False: "without"}


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(10_000, "number of images to train on", at_least=1, at_most=IMAGES)
    batch_size: int = option(128, "images in a batch", at_least=1, at_most="images")
    steps: int = option(200, "updates of a run", at_least=2, at_most=100_000)
    early: int = option(50, "updates whose mean loss is the early loss", at_least=1)
    lrs: tuple[float, ...] = option((1e-4, 1e-3), "learning rates", at_least=0, nonzero=True)
    beta1: float = option(0.9, "decay of the first moment", at_least=0, below=1)
    beta2: float = option(0.999, "decay of the second moment", at_least=0, below=1)
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of weights and batches", at_least=0, at_most=SEEDS)


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield the lengths of steps on equal gradients, then the losses of every run."""
    train, _, _ = images(options.data, options.images)
    betas = options.beta1, options.beta2

    def start(seed: int, correct: bool, lr: float):
        model = models.create("linear", seed=seed)
        adam = optizoo.Adam(model.parameters(), lr=lr, betas=betas, bias_correction=correct)
        return model, adam, batch_loss(model, minibatches(train, options.batch_size, seed=seed))

    (model, adam, loss), lr = start(options.seeds[0], True, options.lrs[0]), options.lrs[0]
    copy, uncorrected, _ = start(options.seeds[0], False, lr)
    lengths: dict[bool, list[float]] = {True: [], False: []}
    for _ in track(range(options.steps), "equal gradients"):
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        torch.nn.utils.vector_to_parameters(before.clone(), copy.parameters())
        adam.zero_grad()
        loss().backward()
        for param, same in zip(model.parameters(), copy.parameters(), strict=True):
            same.grad = None if param.grad is None else param.grad.clone()
        for correct, each, optimizer in ((True, model, adam), (False, copy, uncorrected)):
            optimizer.step()
            step = torch.nn.utils.parameters_to_vector(each.parameters()).detach() - before
            lengths[correct].append(float(step.norm()) / lr / step.numel() ** 0.5)
    yield {"kind": "lengths", "betas": betas, "with": lengths[True], "without": lengths[False]}
    for lr, seed, correct in track(list(product(options.lrs, options.seeds, LABELS)), "runs"):
        _, optimizer, loss = start(seed, correct, lr)
        losses = list(descend(optimizer, loss, options.steps))
        yield {
            "kind": "run", "lr": lr, "seed": seed, "correct": correct, "losses": losses,
            "early": fmean(losses[: options.early]), "early_steps": min(options.early, options.steps),
        }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the lengths of the first steps beside their prediction, and the losses."""
    lengths, runs = rows[0], [row for row in rows if row["kind"] == "run"]
    beta1, beta2 = lengths["betas"]
    steps = range(1, len(lengths["with"]) + 1)
    predicted = [(1 - beta1**t) / (1 - beta2**t) ** 0.5 for t in steps]
    ratios = [without / corrected for corrected, without in zip(lengths["with"], lengths["without"], strict=True)]
    error = max(abs(ratio / theory - 1) for ratio, theory in zip(ratios, predicted, strict=True))
    peak = max(steps, key=lambda t: ratios[t - 1])
    measured = [Line("measured", steps, ratios), Line("predicted, r(t)", steps, predicted, dashed=True)]
    lrs, early = list(dict.fromkeys(row["lr"] for row in runs)), runs[0]["early_steps"]
    curves, verdicts = [], []
    for lr in lrs:
        of = {correct: [row for row in runs if (row["lr"], row["correct"]) == (lr, correct)] for correct in LABELS}
        for correct, label in LABELS.items():
            seeds = [row["losses"] for row in of[correct]]
            curves.append(Line.over_seeds(label, range(len(seeds[0])), seeds, panel=f"lr {lr:g}"))
        means = [fmean(row["early"] for row in of[correct]) for correct in LABELS]
        wins = sum(a["early"] < b["early"] for a, b in zip(of[True], of[False], strict=True))
        verdicts.append(
            f"{means[0]:.3f} with and {means[1]:.3f} without at lr {lr:g} (lower with correction for {wins} of "
            f"{len(of[True])} seeds)"
        )
    return Page(
        equations=(
            r"m \leftarrow \beta_1 m + (1-\beta_1)\, g",
            r"v \leftarrow \beta_2 v + (1-\beta_2)\, g^2",
            r"\theta \leftarrow \theta - \alpha\, \dfrac{\hat m}{\sqrt{\hat v} + \epsilon}",
            r"\hat m = \dfrac{m}{1-\beta_1^t}, \quad \hat v = \dfrac{v}{1-\beta_2^t}",
            r"r(t) = (1-\beta_1^t) \,/\, \sqrt{1-\beta_2^t}",
        ),
        seen=(
            f"Without correction the first step is {ratios[0]:.3f} times as long (predicted: {predicted[0]:.3f}), and "
            f"step {peak} is the worst, {ratios[peak - 1]:.2f} times; over all {len(steps)} steps measurement and "
            f"prediction differ by at most {100 * error:.1g} %.",
            f"The mean loss of the first {early} steps is {', and '.join(verdicts)}.",
        ),
        headline=Headline(
            number=f"{ratios[0]:.2f} ×",
            what=f"length of the first step without correction; {predicted[0]:.2f} × is predicted",
            claim="Without bias correction the first steps are too large.",
            held=ratios[0] > 1 + error,
        ),
        pictures=(
            line_picture(
                "lengths",
                "How much longer steps are without correction",
                "The same gradients are given to both, so that nothing but the correction tells their steps apart.",
                f"The ratio against the step: {ratios[0]:.2f} at the first, {ratios[peak - 1]:.2f} at step {peak}, "
                f"{ratios[-1]:.2f} at the last; the prediction is at most {100 * error:.1g} % away.",
                measured,
                xlabel="step",
                ylabel="length, without / with",
                xscale="log",
                marks=[Mark(1, "as long as with correction")],
            ),
            line_picture(
                "losses",
                "The loss of the first steps",
                "Mean over seeds, from the lowest to the highest as a band; both see the same batches.",
                f"Panels of the training loss against the step, one a rate. Mean of the first {early} steps: "
                f"{', and '.join(verdicts)}.",
                curves,
                xlabel="step",
                ylabel="loss of the batch (nats)",
            ),
        ),
    )
