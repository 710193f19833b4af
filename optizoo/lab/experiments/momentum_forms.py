"""Two forms of momentum: one sequence, until the learning rate changes.

The learning rate can stand outside the velocity or inside it. While it is constant, the two velocities differ by the
factor -α and the weights are the same. Once it changes, the velocity inside still holds what the old rate put into it.
Where a cut by the factor c meets a velocity of size |v|, the first step after it parts the weights by (1 - c) ρ |v|.
Shown on f(x) = x²/2 in float64.

    outside: b ← ρb + g; θ ← θ - αb
    inside: v ← ρv - αg; θ ← θ + v

The lecture: both forms give the same sequence of weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log10, sqrt

import torch

import optizoo
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.options import Checked, option
from optizoo.lab.page import Headline, Page, Row, Track, line_picture
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import descend

NEEDS_DATA = False
EPS = torch.finfo(torch.float64).eps
FORMS = {"outside": False, "inside": True}  # whether the velocity holds the rate


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    steps: int = option(60, "number of updates", at_least=2, at_most=100_000)
    cut_after: int = option(20, "updates before the learning rate is cut", at_least=1, below="steps")
    lr: float = option(0.1, "learning rate", at_least=0)
    cut: float = option(0.1, "factor of the cut", at_least=0)
    momentum: float = option(0.9, "momentum, the lecture's rho", at_least=0, below=1)
    start: float = option(1.0, "where the weight begins")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, rate in (("lr", self.lr), ("cut", self.lr * self.cut)):
            if self.steps * log10(growth(rate, self.momentum)) > 300:
                raise ExperimentError(
                    f"{name} = {getattr(self, name):g}; at a rate of {rate:g} the weight leaves all numbers within "
                    f"{self.steps} steps: stay below {2 * (1 + self.momentum):g}, where it diverges"
                )


def growth(lr: float, momentum: float) -> float:
    """Return by what a step multiplies the weight in the limit, 1 at least: the larger root of z² - (1 + ρ - α) z + ρ.

    >>> growth(0.1, 0.9), growth(5.0, 0.0)
    (1.0, 4.0)
    """
    b = 1 + momentum - lr
    spread = b * b - 4 * momentum
    return max(1.0, (abs(b) + sqrt(spread)) / 2) if spread > 0 else 1.0


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each rate, with or without the cut, and each form: the weight before every update and at last."""
    # With a rate that is a power of two, multiplying by it is exact: then the forms are equal bit for bit.
    runs = [("constant", 1.0, options.lr), ("power of two", 1.0, 0.0625), ("cut", options.cut, options.lr)]
    for name, cut, lr in track(runs, "learning rates"):
        for form, inside in FORMS.items():
            weight = torch.nn.Parameter(torch.tensor([options.start], dtype=torch.float64))
            optimizer = optizoo.Momentum([weight], lr=lr, momentum=options.momentum, lr_in_velocity=inside)
            weights = []
            for step, _ in enumerate(descend(optimizer, lambda: weight.square().sum() / 2, options.steps)):  # noqa: B023
                weights.append(weight.item())
                if step == options.cut_after:
                    optimizer.param_groups[0]["lr"] = lr * cut
            yield {
                "rate": name,
                "form": form,
                "lr": lr,
                "cut": cut,
                "cut_after": options.cut_after,
                "momentum": options.momentum,
                "weights": [*weights, weight.item()],
            }


def page(rows: Sequence[Row]) -> Page:
    """Show the weights of both forms, and how far they are apart."""
    found = {(row["rate"], row["form"]): row for row in rows}
    gaps = {rate: _gap(found[rate, "outside"], found[rate, "inside"]) for rate, _ in found}
    largest = {rate: max(gap) for rate, gap in gaps.items()}
    row = found["cut", "inside"]
    at, weights = row["cut_after"], row["weights"]
    predicted = abs((1 - row["cut"]) * row["momentum"] * (weights[at] - weights[at - 1]))
    rounding = 4 * len(weights) * EPS * max(map(abs, weights))
    same = {rate: gap <= rounding for rate, gap in largest.items()}
    steps = range(len(weights))
    paths = [
        Line(f"α {form} the velocity", steps, found[rate, form]["weights"], panel=title, dashed=inside)
        for rate, title in (("constant", "constant rate"), ("cut", f"rate × {row['cut']:g} after step {at}"))
        for form, inside in FORMS.items()
    ]
    distances = [
        Line(title, steps, [gap or None for gap in gaps[rate]])
        for rate, title in (("constant", "constant rate"), ("cut", "rate cut"))
    ]
    return Page(
        equations=(
            r"\mathrm{outside:}\quad b \leftarrow \rho b + g,\quad \theta \leftarrow \theta - \alpha b",
            r"\mathrm{inside:}\quad v \leftarrow \rho v - \alpha g,\quad \theta \leftarrow \theta + v",
        ),
        seen=(
            f"At the constant rate {row['lr']:g} the two forms are at most {largest['constant']:.1e} apart, which "
            f"rounding {'explains' if same['constant'] else 'does not explain'}. At the rate 1/16, by which a binary "
            f"number is multiplied exactly, the largest distance is {largest['power of two']:.2g}.",
            f"After the rate is multiplied by {row['cut']:g} they {'stay equal' if same['cut'] else 'part'}: the first "
            f"step makes a distance of {gaps['cut'][at + 1]:.4g}, where the formula predicts {predicted:.4g}, and the "
            f"largest is {largest['cut']:.4g}.",
        ),
        headline=Headline(
            number=f"{largest['cut']:.3g}",
            what=f"largest distance of the two forms after the cut, of {abs(weights[0]):g} at the start",
            claim="Both forms give the same sequence of weights.",
            held=None if row["cut"] == 1 else same["cut"],
        ),
        pictures=(
            line_picture(
                "weights",
                "The weight under both forms",
                "Each panel has both forms; where only the solid line is to be seen, the dotted one lies on it.",
                f"Two panels of the weight against the step, from {weights[0]:g}. At the constant rate the lines of "
                f"both forms are up to {largest['constant']:.2g} apart, with the cut up to {largest['cut']:.2g}.",
                paths,
                xlabel="step",
                ylabel="weight",
            ),
            line_picture(
                "distance",
                "The distance of the two forms",
                "Steps at which they are equal, of which a logarithm knows nothing, are left out.",
                f"The distance against the step, logarithmic: up to {largest['constant']:.1e} at the constant rate; "
                f"up to {largest['cut']:.2g} with the cut after step {at}.",
                distances,
                xlabel="step",
                ylabel="distance of the weights",
                yscale="log",
                marks=[Mark(at, "cut", axis="x")],
            ),
        ),
    )


def _gap(one: Row, other: Row) -> list[float]:
    return [abs(a - b) for a, b in zip(one["weights"], other["weights"], strict=True)]
