"""Nearest neighbours: a classifier that learns nothing.

An image gets the label that most of its k nearest training images have, near in the sense of the L1 or the L2 distance
of raw pixels; a tie goes to the nearer ones. Nothing is trained, and all the work is done when it is asked: a distance
to every training image. The number k is chosen on validation images, and the test images are looked at once.

    L1: d(a, b) = Σ |a_i - b_i|
    L2: d(a, b) = √Σ (a_i - b_i)²
    on whole numbers Σ |a_i - b_i| = 2 Σ max(a_i, b_i) - Σ a_i - Σ b_i

The lecture: the nearest neighbour by L1 has 38.6 % accuracy on CIFAR-10.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from optizoo.lab.options import IMAGES, Checked, device, option
from optizoo.lab.page import Headline, Page, Row, Track, line_picture
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import DATA, dataset
from optizoo.lab.train import resolve_device

NEEDS_DATA = True
LECTURE = 0.386
BLOCK = {"cpu": (4, 100), "cuda": (32, 8192)}  # queries and points at once: as many as a cache, or a GPU, holds


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(45_000, "number of training images, the neighbours", at_least=1, at_most=IMAGES)
    validation: int = option(500, "number of images on which k is chosen", at_least=1)
    test: int = option(1000, "number of test images", at_least=1, at_most=10_000)
    ks: tuple[int, ...] = option((1, 3, 5, 8, 10, 12, 15, 20, 50, 100), "numbers of neighbours", at_least=1)
    device: str = option("auto", "where distances are taken: auto, cpu or cuda", check=device)


def l1(queries: Tensor, points: Tensor) -> Tensor:
    """Return Σ |a - b| of uint8 images (n, pixels) and (m, pixels), exactly, as (n, m) int32."""
    # torch.cdist with p=1 takes six times as long on a CPU.
    rows, columns = BLOCK[points.device.type]
    largest = [
        torch.cat([torch.maximum(a[:, None], b).sum(2, dtype=torch.int32) for b in points.split(columns)], dim=1)
        for a in queries.split(rows)
    ]
    ours, theirs = queries.sum(1, dtype=torch.int32), points.sum(1, dtype=torch.int32)
    return 2 * torch.cat(largest) - ours[:, None] - theirs


def l2(queries: Tensor, points: Tensor) -> Tensor:
    """Return √Σ (a - b)² of uint8 images (n, pixels) and (m, pixels) as (n, m) float32."""
    return torch.cdist(queries.float(), points.float())


DISTANCES = {"L1": l1, "L2": l2}


def vote(labels: Tensor, k: int, classes: int) -> Tensor:
    """Return the commonest of the first ``k`` of labels (n, neighbours), from near to far; the nearer wins a tie."""
    nearer = 1 + 1e-3 / torch.arange(1, k + 1, device=labels.device, dtype=torch.float64)
    return (one_hot(labels[:, :k], classes) * nearer[:, None]).sum(1).argmax(1)


def nearest(
    name: str, queries: Tensor, points: Tensor, labels: Tensor, k: int, sizes: Sequence[int]
) -> Iterator[Tensor]:
    """Yield the labels (n, k) of the nearest among the first ``size`` points, for each of the rising sizes."""
    best = torch.empty(len(queries), 0, device=points.device)
    found = torch.empty(len(queries), 0, dtype=torch.int64, device=points.device)
    for first, last in zip([0, *sizes], sizes, strict=False):
        best = torch.cat([best, DISTANCES[name](queries, points[first:last]).to(best.dtype)], dim=1)
        found = torch.cat([found, labels[first:last].expand(len(queries), -1)], dim=1)
        best, order = best.topk(min(k, best.shape[1]), largest=False, sorted=True)
        found = found.gather(1, order)
        yield found


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each distance: accuracies for every k, and of the nearest among fewer training images."""
    data = dataset(options.data, options.images, options.test).to(resolve_device(options.device))
    points, labels = data.train.images.flatten(1), data.train.labels
    held_out = data.validation.select(torch.arange(min(options.validation, len(data.validation.labels))))
    queries = torch.cat([held_out.images, data.test.images]).flatten(1)
    truth, n = torch.cat([held_out.labels, data.test.labels]), len(held_out.labels)
    sizes = sorted({max(1, len(points) >> halvings) for halvings in range(7)})
    ks = sorted({min(k, len(points)) for k in options.ks})
    for name in DISTANCES:
        test_of_nearest, found = [], labels[None]
        for found in track(nearest(name, queries, points, labels, max(ks), sizes), name):
            test_of_nearest.append(_accuracy(found[n:, 0], truth[n:]))
        votes = [vote(found, k, len(data.classes)) for k in ks]
        yield {
            "distance": name, "ks": ks, "sizes": sizes, "nearest": test_of_nearest, "images": len(points),
            "validation": [_accuracy(each[:n], truth[:n]) for each in votes], "validation_images": n,
            "test": [_accuracy(each[n:], truth[n:]) for each in votes], "test_images": len(truth) - n,
        }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the accuracies against k, and of the nearest against the number of training images."""
    first, n = rows[0], rows[0]["test_images"]
    nearest = {row["distance"]: row["nearest"][-1] for row in rows}
    margin = 2 * sqrt(nearest["L1"] * (1 - nearest["L1"]) / n)
    held = abs(nearest["L1"] - LECTURE) <= margin
    chosen, lines = [], []
    for row in rows:
        place = max(range(len(row["ks"])), key=lambda index, row=row: row["validation"][index])
        chosen.append(
            f"k = {row['ks'][place]} for {row['distance']}, right for {_percent(row['test'][place])} of the test images"
        )
        lines += [Line(f"{row['distance']}, {split}", row["ks"], row[split]) for split in ("validation", "test")]
    growth = [Line(row["distance"], row["sizes"], row["nearest"]) for row in rows]
    doubled = (first["nearest"][-1] - first["nearest"][0]) / max(1, len(first["sizes"]) - 1)
    better = max(nearest, key=lambda name: nearest[name])
    return Page(
        equations=(
            r"\mathrm{L1:}\quad d(a, b) = \sum_i |a_i - b_i|",
            r"\mathrm{L2:}\quad d(a, b) = \sqrt{\sum_i (a_i - b_i)^2}",
            r"\sum_i |a_i - b_i| = 2 \sum_i \max(a_i, b_i) - \sum_i a_i - \sum_i b_i",
        ),
        seen=(
            f"Among {first['images']} training images the nearest by L1 is right for {_percent(nearest['L1'])} of "
            f"{n} test images, give or take {_percent(margin)} (two standard errors), and by L2 for "
            f"{_percent(nearest['L2'])}: {better} is ahead; the lecture's {_percent(LECTURE)} by L1 is "
            f"{'within' if held else 'beyond'} the margin.",
            f"{first['validation_images']} validation images choose {'; '.join(chosen)}. Each doubling of the training "
            f"images adds {100 * doubled:.1f} points to the nearest by L1, on average.",
        ),
        headline=Headline(
            number=_percent(nearest["L1"]),
            what=f"test accuracy of the nearest of {first['images']} images by L1, ± {_percent(margin)}",
            claim="The nearest neighbour by L1 has 38.6 % accuracy.",
            held=held if first["images"] >= 40_000 else None,
        ),
        pictures=(
            line_picture(
                "k",
                "Accuracy against the number of neighbours",
                "The validation images choose k; the test images tell how good the choice is.",
                f"Accuracy against k from {first['ks'][0]} to {first['ks'][-1]}. The validation images choose "
                f"{'; '.join(chosen)}.",
                lines,
                xlabel="number of neighbours k",
                ylabel="accuracy (%)",
                xscale="log",
                percent=True,
            ),
            line_picture(
                "images",
                "Accuracy of the nearest against the number of training images",
                f"Test accuracy for k = 1; the smaller sets are parts of the larger. Two standard errors are "
                f"{_percent(margin)}.",
                f"L1 goes from {_percent(first['nearest'][0])} with {first['sizes'][0]} images to "
                f"{_percent(nearest['L1'])} with {first['images']}.",
                growth,
                xlabel="training images",
                ylabel="test accuracy (%)",
                xscale="log",
                percent=True,
                marks=[Mark(LECTURE, "the lecture, L1")],
            ),
        ),
    )


def _accuracy(found: Tensor, truth: Tensor) -> float:
    return (found == truth).double().mean().item()


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
