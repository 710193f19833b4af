"""Random search: how far guessing gets.

A linear classifier of raw pixels, with a 1 behind them for the bias, scores an image by W x. Random search draws many
W, and keeps the one whose loss on training images is the lowest. Random local search begins at one W, and takes a
random step wherever that lowers the loss. No gradient is asked for. All is done with raw pixels and with centred ones,
from which the mean image is subtracted, and repeated, as luck gives a range and not a number: mean ± 2 standard
deviations over the repeats.

    s = W x, W ∼ 0.0001 N(0, 1)
    hinge: the sum over j ≠ y of max(0, s_j - s_y + 1)
    softmax: -log (exp s_y / Σ exp s_j)
    local: W ← W + 0.0001 N(0, 1) where the loss falls

The lecture: the best of 1000 random W by hinge loss has 15.5 % accuracy on the test images, and random local search
21.4 %.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from statistics import fmean, stdev

import torch
from torch import Tensor
from torch.nn.functional import pad

from optizoo.lab import plots
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track, line_picture
from optizoo.lab.plots import Bar, Line, Mark
from optizoo.lab.running import DATA, dataset, rounded

NEEDS_DATA = True
LECTURE = {"random": 0.155, "local": 0.214}
CHUNK = 50  # weights that are scored at once


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(2000, "number of images on which the loss is taken", at_least=1, at_most=IMAGES)
    tries: int = option(1000, "weights that are tried", at_least=1, at_most=100_000)
    repeats: int = option(8, "repeats of random search", at_least=2, at_most=1000)
    local_repeats: int = option(4, "repeats of local search", at_least=2, at_most=100)
    scale: float = option(1e-4, "standard deviation of random weights", at_least=0, nonzero=True)
    start: float = option(
        1e-3, "standard deviation of the weights at which local search begins", at_least=0, nonzero=True
    )
    step: float = option(1e-4, "standard deviation of a random step", at_least=0, nonzero=True)
    seed: int = option(0, "seed of all that is drawn", at_least=0, at_most=SEEDS)


def hinge(scores: Tensor, y: Tensor) -> Tensor:
    """Return the mean multi-class SVM loss of scores (images, weights, classes) for each of the weights."""
    right = scores.gather(2, y[:, None, None].expand(-1, scores.shape[1], 1))
    return (scores - right + 1).clamp_(min=0).sum(2).sub_(1).mean(0)


def softmax(scores: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) of scores (images, weights, classes) for each of the weights."""
    right = scores.gather(2, y[:, None, None].expand(-1, scores.shape[1], 1)).squeeze(2)
    return (scores.logsumexp(2) - right).mean(0)


LOSSES = {"hinge": hinge, "softmax": softmax}


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each search, pixels, loss and repeat: the lowest loss after every try, the accuracy at last."""
    data = dataset(options.data)
    x, y = _with_ones(data.train.images[: options.images]), data.train.labels[: options.images]
    test, classes, n = _with_ones(data.test.images), len(data.classes), options.local_repeats
    mean = pad(data.train.images.flatten(1).sum(0) / len(data.train.labels), (0, 1))
    means = {"raw": torch.zeros_like(mean), "centred": mean}
    variants = list(product(means, LOSSES))
    generator = torch.Generator().manual_seed(options.seed)

    def draw(count: int) -> Tensor:
        return torch.randn(count, x.shape[1], classes, generator=generator)

    def scores(images: Tensor, weights: Tensor) -> Tensor:
        together = weights.transpose(0, 1).flatten(1)  # one product for all weights
        return (images @ together).view(len(images), len(weights), classes)

    def losses(given: Tensor, weights: Tensor, pixels: str, loss: str) -> Tensor:
        return LOSSES[loss](given - means[pixels] @ weights, y)  # W (x - mean)

    def row(search: str, variant: tuple[str, str], repeat: int, tried: list[float], weight: Tensor) -> Row:
        found = (test @ weight - means[variant[0]] @ weight).argmax(1)
        accuracy = (found == data.test.labels).double().mean().item()
        return {"search": search, "pixels": variant[0], "loss": variant[1], "repeat": repeat,
                "lowest": rounded(accumulate(tried, min)), "accuracy": accuracy, "images": len(x),
                "train": len(data.train.labels), "classes": classes}  # fmt: skip

    for repeat in track(range(options.repeats), "random search"):
        tried: dict[tuple[str, str], list[float]] = {variant: [] for variant in variants}
        best: dict[tuple[str, str], Tensor] = {}
        for first in range(0, options.tries, CHUNK):
            weights = options.scale * draw(min(CHUNK, options.tries - first))
            given = scores(x, weights)
            for variant in variants:
                values = losses(given, weights, *variant)
                if values.min().item() < min(tried[variant], default=torch.inf):
                    best[variant] = weights[values.argmin()]
                tried[variant] += values.tolist()
        for variant in variants:
            yield row("random", variant, repeat, tried[variant], best[variant])
    current = options.start * draw(n).repeat(len(variants), 1, 1)  # all variants begin alike
    lowest = torch.full((len(current),), torch.inf)
    history = []
    for step in track(range(options.tries), "local search"):
        weights = current + options.step * draw(n).repeat(len(variants), 1, 1) if step else current
        parts = zip(scores(x, weights).split(n, dim=1), weights.split(n), variants, strict=True)
        values = torch.cat([losses(given, part, *variant) for given, part, variant in parts])
        current = torch.where((values < lowest)[:, None, None], weights, current)
        lowest = torch.minimum(values, lowest)
        history.append(values)
    for index, weight in enumerate(current):
        yield row("local", variants[index // n], index % n, torch.stack(history)[:, index].tolist(), weight)


def page(rows: Sequence[Row]) -> Page:
    """Show the accuracy of every search over its repeats, and the lowest loss after every try."""
    kinds = sorted({(row["search"], row["loss"], row["pixels"]) for row in rows}, reverse=True)
    kinds.sort(key=lambda kind: (kind[0] == "local", kind[1] == "softmax"))
    found = {kind: [row for row in rows if (row["search"], row["loss"], row["pixels"]) == kind] for kind in kinds}
    ranges = {kind: _range([row["accuracy"] for row in found[kind]]) for kind in kinds}
    first, tries = rows[0], len(rows[0]["lowest"])

    def compared(search: str, pixels: str) -> tuple[bool, str]:
        mean, low, high = ranges[search, "hinge", pixels]
        holds = low <= LECTURE[search] <= high
        return holds, (
            f"{_percent(mean)} with {pixels} pixels ({_percent(low)} to {_percent(high)} over the repeats: the "
            f"lecture's {_percent(LECTURE[search])} is {'inside' if holds else 'outside'})"
        )

    held, raw = compared("random", "raw")
    names = {(search, loss, pixels): f"{search}, {loss}, {pixels}" for search, loss, pixels in kinds}
    bars = [Bar(names[kind], *ranges[kind]) for kind in kinds]
    steps = range(1, tries + 1)
    lines = [
        Line.over_seeds(
            f"{search}, {pixels} pixels", steps, [row["lowest"] for row in found[search, loss, pixels]], loss
        )
        for search, loss, pixels in kinds
    ]
    ends = ", ".join(f"{names[kind]} {fmean(row['lowest'][-1] for row in found[kind]):.2f}" for kind in kinds)
    return Page(
        equations=(
            r"s = W x, \quad W \sim 10^{-4}\, \mathcal{N}(0, 1)",
            r"\mathrm{hinge:}\quad \sum_{j \neq y} \max(0,\, s_j - s_y + 1)",
            r"\mathrm{softmax:}\quad -\log\, \left( e^{s_y} \,/\, \sum_j e^{s_j} \right)",
            r"\mathrm{local:}\quad W \leftarrow W + 10^{-4}\, \mathcal{N}(0, 1)",
        ),
        seen=(
            f"The best of {tries} random W by hinge loss is right for {raw}; and {compared('random', 'centred')[1]}. "
            f"By softmax loss it is {_percent(ranges['random', 'softmax', 'raw'][0])} and "
            f"{_percent(ranges['random', 'softmax', 'centred'][0])}; blind chance is 1 in {first['classes']}.",
            f"Random local search by hinge loss, with as many tries, reaches {compared('local', 'raw')[1]}; and "
            f"{compared('local', 'centred')[1]}.",
        ),
        headline=Headline(
            number=_percent(ranges["random", "hinge", "raw"][0]),
            what=f"test accuracy of the best of {tries} random W by hinge loss of raw pixels; "
            f"{_percent(ranges['random', 'hinge', 'centred'][0])} of centred ones",
            claim="The best of 1000 random W by hinge loss has 15.5 % accuracy.",
            held=held if tries == 1000 else None,
        ),
        pictures=(
            Picture(
                "accuracy",
                "Test accuracy of what was found",
                f"Means ± 2 standard deviations; dotted, the lecture's 15.5 % (random), 21.4 % (local). "
                f"Losses are of {first['images']} of the {first['train']} training images; the lecture takes all.",
                f"Bars, from 0: {', '.join(f'{names[kind]} {_percent(ranges[kind][0])}' for kind in kinds)}.",
                lambda theme: plots.bars(
                    bars,
                    xlabel="test accuracy (%)",
                    percent=True,
                    marks=[Mark(value, "", "x") for value in LECTURE.values()],
                    theme=theme,
                ),
                Table(
                    ["search", "mean", "mean - 2 sd", "mean + 2 sd", "repeats"],
                    [[names[kind], *ranges[kind], len(found[kind])] for kind in kinds],
                ),
            ),
            line_picture(
                "loss",
                "The lowest loss so far",
                "Means over the repeats in a band from lowest to highest. As in the lecture, local search starts "
                "at larger weights, and so at a larger loss.",
                f"Two panels, one a loss, of the lowest training loss against the try. At the end: {ends}.",
                lines,
                xlabel="try",
                ylabel="lowest loss so far",
                xscale="log",
                yscale="log",
            ),
        ),
    )


def _with_ones(images: Tensor) -> Tensor:
    return pad(images.flatten(1).float(), (0, 1), value=1.0)


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    mean, spread = fmean(values), 2 * stdev(values)
    return mean, mean - spread, mean + spread


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
