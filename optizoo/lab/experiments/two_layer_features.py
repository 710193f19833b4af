"""What a hidden layer sees: points that no line separates, and three views of a linear classifier.

A disc inside a ring cannot be split by a line. Behind a hidden layer of ReLUs the same points lie so that a plane does
it: shown edge on, as the distance from that plane, in which the output layer is a linear classifier. For CIFAR-10 that
classifier is seen in three ways: as algebra, scores W x + b; as templates, the rows of W drawn as images; and as
geometry, a plane between each pair of classes.

    algebra: the scores are W x + b
    templates: score c is the inner product of row c of W with x, plus b of c
    geometry: x has the distance ((w of a - w of b) x + b of a - b of b) / |w of a - w of b| from the plane between a, b
    two layers: W₂ max(0, W₁ x + b₁) + b₂

The lecture: a linear classifier cannot separate such points; features of a hidden layer make them separable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

import optizoo
from optizoo.lab import models, plots
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track
from optizoo.lab.plots import Mark, Points
from optizoo.lab.running import DATA, dataset, descend, images, measure, train_curve

NEEDS_DATA = True
DISC, RING = "disc", "ring"
TITLES = {"linear": "one layer", "two_layer": "two layers"}
SHOWN = 150  # images of each class in the view of geometry


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    points: int = option(200, "points of each class", at_least=2, at_most=10_000)
    hidden: int = option(8, "hidden units", at_least=1, at_most=10_000)
    steps: int = option(800, "updates on the points", at_least=1, at_most=100_000)
    grid: int = option(60, "points of a side of the plane that is scored", at_least=2, at_most=500)
    images: int = option(10_000, "number of images to train on", at_least=100, at_most=IMAGES)
    epochs: int = option(5, "passes over the images", at_least=1, at_most=10_000)
    lr: float = option(3e-4, "learning rate on the images", at_least=0, nonzero=True)
    weight_decay: float = option(3.0, "decay of AdamW on the images; smooths templates", at_least=0)
    classes: tuple[int, ...] = option((0, 6), "the two classes of the view of geometry", at_least=0, repeats=True)
    seed: int = option(0, "seed", at_least=0, at_most=SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) != 2 or len({*self.classes}) != 2 or max(self.classes) > 9:
            raise ExperimentError(f"classes = {self.classes}; it must be two different numbers from 0 to 9")


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield the points and what both models make of them, then the three views of a classifier of images."""
    generator = torch.Generator().manual_seed(options.seed)
    radii = torch.rand(2, options.points, generator=generator) + torch.tensor([[0.0], [1.6]])
    angles = 2 * torch.pi * torch.rand(2, options.points, generator=generator)
    x = torch.stack([radii * angles.cos(), radii * angles.sin()], -1).flatten(0, 1)
    y = torch.arange(2).repeat_interleave(options.points)
    side = torch.linspace(-2.8, 2.8, options.grid)
    plane = torch.cartesian_prod(side, side).flip(1)  # a row for each ordinate
    for name in track(list(TITLES), "points"):
        size = {"hidden": options.hidden} if name == "two_layer" else {}
        model = models.create(name, seed=options.seed, classes=2, inputs=2, **size)
        adam = optizoo.Adam(model.parameters(), lr=0.02)
        for _ in descend(adam, lambda: cross_entropy(model(x), y), options.steps):  # noqa: B023
            pass
        with torch.no_grad():
            scores, grid = model(x), model(plane)
            row = {
                "kind": "points", "model": name, "x": x.T.tolist(), "y": y.tolist(), "side": side.tolist(),
                "accuracy": (scores.argmax(1) == y).double().mean().item(),
                "scores": (grid[:, 1] - grid[:, 0]).view(options.grid, -1).tolist(),
            }  # fmt: skip
            if name == "two_layer":
                behind = relu(model.hidden(x))  # type: ignore[operator]
                row["view"] = _edge_on(behind, model.output.weight, model.output.bias, (1, 0))  # type: ignore[arg-type]
        yield row
    _, _, test = images(options.data, options.images)
    classifier = train_curve(
        dataset(options.data, options.images),
        "linear",
        "adamw",
        options.lr,
        {"weight_decay": options.weight_decay},
        seed=options.seed,
        model_options={"init": "zeros"},
        epochs=options.epochs,
        batch_size=100,
    ).model
    assert isinstance(classifier, models.Linear)
    weight, bias = classifier.weight.detach(), classifier.bias.detach()
    names = dataset(options.data, options.images).classes
    by_hand = torch.stack([test.x @ row for row in weight], 1) + bias
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    pixels = (255 * (weight - low) / (high - low)).round().to(torch.uint8).view(-1, 3, 32, 32).permute(0, 2, 3, 1)
    pair = [test.x[test.y == label][:SHOWN] for label in options.classes]
    yield {
        "kind": "classifier", "accuracy": measure(classifier, test)[1],
        "difference": (classifier(test.x) - by_hand).abs().max().item(), "images": len(test),
        "names": [*names], "templates": [template.numpy().tobytes().hex() for template in pixels.contiguous()],
        "classes": [names[label] for label in options.classes], "counts": [len(each) for each in pair],
        "view": _edge_on(torch.cat(pair), weight, bias, options.classes),
    }  # fmt: skip


def page(rows: Sequence[Row]) -> Page:
    """Show the points before and behind the hidden layer, and templates and geometry of the classifier of images."""
    found = {row["model"]: row for row in rows if row["kind"] == "points"}
    classifier = rows[-1]
    accuracy = {name: found[name]["accuracy"] for name in TITLES}
    x, y = found["linear"]["x"], found["linear"]["y"]
    plane = [group for title in TITLES.values() for group in _groups(x, (DISC, RING), [y.count(0), y.count(1)], title)]
    scores = {TITLES[name]: (row["side"], row["side"], row["scores"]) for name, row in found.items()}
    behind = _groups(found["two_layer"]["view"], (DISC, RING), [y.count(0), y.count(1)])
    geometry = _groups(classifier["view"], classifier["classes"], classifier["counts"])
    first, second = classifier["classes"]
    right = (sum(d > 0 for d in geometry[0].x) + sum(d < 0 for d in geometry[1].x)) / sum(classifier["counts"])
    parted = max(behind[0].x) < min(behind[1].x)
    said = " and ".join(f"{100 * accuracy[name]:.1f} % of the points with {TITLES[name]}" for name in TITLES)
    drawn = [_pixels(each) for each in classifier["templates"]]
    colours = [[name, *_colour(each)] for name, each in zip(classifier["names"], drawn, strict=True)]
    edge_on = {"xlabel": "distance from the plane", "ylabel": "along the plane", "marks": [Mark(0, "plane", "x")]}
    return Page(
        equations=(
            r"\mathrm{algebra:}\quad s = W x + b \qquad \mathrm{templates:}\quad s_c = \langle w_c, x \rangle + b_c",
            r"\mathrm{geometry:}\quad d(x) = \left( (w_a - w_b)\, x + b_a - b_b \right) \,/\, |w_a - w_b|",
            r"\mathrm{two\ layers:}\quad s = W_2 \max(0,\, W_1 x + b_1) + b_2",
        ),
        seen=(
            f"The decision is right for {said}. Behind the hidden layer, disc and ring lie "
            f"{'on different sides of a plane' if parted else 'on both sides of every plane that was found'}.",
            f"The linear classifier of images is right for {100 * classifier['accuracy']:.1f} % of "
            f"{classifier['images']} test images; ten inner products with its templates give its scores within "
            f"{classifier['difference']:.1g}. Of {sum(classifier['counts'])} images of {first} and {second}, "
            f"{100 * right:.1f} % lie on their side of the plane between the two.",
        ),
        headline=Headline(
            number=f"{100 * accuracy['two_layer']:.1f} %",
            what=f"of the points are on the right side with two layers; {100 * accuracy['linear']:.1f} % with the best "
            "line that was found",
            claim="A linear classifier cannot separate such points; features of a hidden layer make them separable.",
            held=accuracy["linear"] < 1 and accuracy["two_layer"] == 1,
        ),
        pictures=(
            Picture(
                "boundaries",
                "Decisions of both models",
                "The plane is tinted by the class that the model decides for; the line is where both scores are equal.",
                f"Two panels of a disc inside a ring. The decision is right for {said}.",
                lambda theme: plots.scatter(plane, xlabel="x₁", ylabel="x₂", scores=scores, theme=theme),
                Table(["model", "accuracy"], [[TITLES[name], accuracy[name]] for name in TITLES]),
            ),
            Picture(
                "hidden",
                "The points behind the hidden layer",
                "Across: distance from the plane of the output layer, among the hidden units. Up: the direction in "
                "that plane along which the points differ most.",
                f"Points of two classes, the plane at 0. The disc lies from {min(behind[0].x):.2f} to "
                f"{max(behind[0].x):.2f}, the ring from {min(behind[1].x):.2f} to {max(behind[1].x):.2f}.",
                lambda theme: plots.scatter(behind, theme=theme, **edge_on),
                _table(behind),
            ),
            Picture(
                "templates",
                "The templates of the linear classifier",
                "The rows of W as images, each stretched from its smallest to its largest weight.",
                f"Ten blurred images of 32 x 32 pixels, one for each of {', '.join(classifier['names'])}.",
                lambda theme: plots.images(drawn, labels=classifier["names"], theme=theme),
                Table(["class", "mean red", "mean green", "mean blue"], colours),
            ),
            Picture(
                "geometry",
                f"The plane between {first} and {second}",
                "Test images among all pixels, seen along the plane on which both classes have the same score.",
                f"Points of {first} and {second} by their distance from the plane: {100 * right:.1f} % on their side.",
                lambda theme: plots.scatter(geometry, theme=theme, **edge_on),
                _table(geometry),
            ),
        ),
    )


def _edge_on(x: Tensor, weight: Tensor, bias: Tensor, classes: Sequence[int]) -> list[list[float]]:
    """Return the signed distances from the plane between two classes, and the place along its main direction."""
    a, b = classes
    normal, offset = (weight[a] - weight[b]).detach(), (bias[a] - bias[b]).detach()
    length = normal.norm()
    distance = (x @ normal + offset) / length
    along = x - torch.outer(x @ normal / length, normal / length)
    along = along - along.mean(0)
    _, _, directions = torch.linalg.svd(along, full_matrices=False)
    return [distance.tolist(), (along @ directions[0]).tolist()]


def _groups(
    view: Sequence[Sequence[float]], names: Sequence[str], counts: Sequence[int], panel: str = ""
) -> list[Points]:
    """Return the points of both classes, which stand one behind the other."""
    parts = slice(counts[0]), slice(counts[0], None)
    return [Points(name, view[0][part], view[1][part], panel) for name, part in zip(names, parts, strict=True)]


def _table(groups: Sequence[Points]) -> Table:
    """Return where the points of each class lie."""
    shares = (0, 0.25, 0.5, 0.75, 1)
    rows = [[group.label, len(group.x), *map(float, np.quantile(group.x, shares))] for group in groups]
    return Table(["class", "points", "least distance", "quarter", "median", "three quarters", "largest"], rows)


def _pixels(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(32, 32, 3) / 255


def _colour(pixels: np.ndarray) -> list[float]:
    return [float(each) for each in pixels.mean((0, 1))]
