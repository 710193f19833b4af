"""Large batches: N times the batch with N times the rate, and where that breaks.

N small steps go about as far as one of N times the rate, if the gradient does not turn meanwhile: so the batch may grow
with the rate (Goyal et al. 2017). All runs see the same number of images; N = 1 is the baseline. Each N runs with the
rate α unchanged, with Nα from the start, and with a warm-up in which the rate climbs from 0 to Nα. SGD with momentum on
a small two-layer network, images of 16 x 16 pixels. The rule is called broken at the first N whose loss on training
images is more than a tolerance above the baseline's.

    N steps: θ - α Σ ∇L(batch i at θᵢ) ≈ θ - Nα ∇L(all N batches at θ)

The lecture: with N times the batch size take N times the learning rate, and warm up.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from optizoo.lab.config import RunConfig
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Row, Track, line_picture
from optizoo.lab.plots import Line, Mark
from optizoo.lab.running import DATA, accuracies, curve, images, measure, shrunk, train_all
from optizoo.lab.train import Trained

NEEDS_DATA = True
FLAT, SCALED, WARM = FORMS = ("rate unchanged", "rate × N", "rate × N, warm-up")
FAR = 10  # a loss this many times the baseline's is called diverged
POINTS = 25  # of a loss curve
MEASURED = 5000  # training images on which the loss is taken at the end


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(10_000, "number of images to train on", at_least=1, at_most=IMAGES)
    epochs: int = option(6, "passes over the images", at_least=1, at_most=10_000)
    batch_size: int = option(32, "images in a batch of the baseline", at_least=1)
    factors: tuple[int, ...] = option((1, 2, 4, 8, 16, 32), "the factors N; 1 is the baseline", at_least=1)
    lr: float = option(0.01, "learning rate of the baseline", at_least=0, nonzero=True)
    momentum: float = option(0.9, "momentum", at_least=0, below=1)
    warmup: float = option(0.15, "share of the images that are seen while the rate climbs", at_least=0, at_most=1)
    tolerance: float = option(0.1, "loss above the baseline's, relative, at which the rule is broken", at_least=0)
    hidden: int = option(64, "hidden units", at_least=1, at_most=10_000)
    seeds: tuple[int, ...] = option((0, 1), "seeds of weights and batches", at_least=0, at_most=SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 1 not in self.factors or len(self.factors) < 2:
            raise ExperimentError(f"factors = {self.factors}; 1, the baseline, must be among them, and another")
        if max(self.factors) * self.batch_size > self.images:
            raise ExperimentError(f"factors = {self.factors}; a batch must be at most the {self.images} images")


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each N, form and seed."""
    source = shrunk(options.data, options.images)
    train, _, _ = images(options.data, options.images, side=16)
    runs = list(product(sorted(options.factors), FORMS, options.seeds))

    def steps(factor: int) -> int:
        return options.epochs * math.ceil(len(train) / (factor * options.batch_size))

    def config(factor: int, form: str, seed: int) -> RunConfig:
        return curve(
            "two_layer",
            "momentum",
            options.lr * (1 if form == FLAT else factor),
            {"momentum": options.momentum},
            seed=seed,
            warmup_steps=round(options.warmup * steps(factor)) if form == WARM else 0,
            model_options={"hidden": options.hidden},
            epochs=options.epochs,
            batch_size=factor * options.batch_size,
        )

    def row(index: int, run: Trained) -> Row:
        (factor, form, seed), losses = runs[index], run.losses.tolist()
        ended, total = run.status != "diverged", steps(runs[index][0])
        width, images_each = max(1, total // POINTS), len(train) * options.epochs / total
        if factor == 1 and not ended:
            raise ExperimentError(f"lr = {options.lr}; the baseline, N = 1, diverges: take a lower one")
        return {
            "factor": factor, "form": form, "seed": seed, "lr": run.record.config["optimizer"]["lr"],
            "batch_size": factor * options.batch_size, "steps": total,
            "seen": [(start + width / 2) * images_each for start in range(0, total - width + 1, width)],
            "losses": [fmean(losses[start : start + width]) for start in range(0, len(losses) - width + 1, width)],
            "train": measure(run.model, train.first(MEASURED))[0] if ended else None,
            "test": accuracies(run)["test"], "tolerance": options.tolerance,
        }  # fmt: skip

    yield from train_all([config(*run) for run in runs], source, row, track, "runs")


def page(rows: Sequence[Row]) -> Page:
    """Show the loss against images seen, the loss at the end against N, and where the rule breaks."""
    factors, seeds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("factor", "seed"))
    runs = {(n, form): [row for row in rows if (row["factor"], row["form"]) == (n, form)] for n, form in _keys(rows)}
    ends = {key: _mean([row["train"] for row in group]) for key, group in runs.items()}
    base, tolerance = ends[1, SCALED], rows[0]["tolerance"]
    assert base is not None
    broken = {form: next((n for n in factors if _worse(ends[n, form], base, tolerance)), None) for form in FORMS}
    largest = max(factors)
    said = {
        form: f"breaks at N = {n} ({_how(ends[n, form], base)})" if n else f"holds up to N = {largest}"
        for form, n in broken.items()
    }
    last = runs[largest, FLAT][0]
    unscaled = _how(ends[largest, FLAT], base)
    shown = {factors[round(part * (len(factors) - 1) / 3)] for part in range(4)}
    curves = []
    for (n, form), group in runs.items():
        if n in shown:
            padded = [row["losses"] + [None] * (len(row["seen"]) - len(row["losses"])) for row in group]
            panel = f"N = {n}, batch {group[0]['batch_size']}"
            curves.append(Line.over_seeds(form, group[0]["seen"], padded, panel=panel))
    final = [
        Line.over_seeds(form, factors, [[_end(runs[n, form], seed, base) for n in factors] for seed in seeds])
        for form in FORMS
    ]
    ceiling = max(row["losses"][0] for row in rows if row["losses"])
    return Page(
        equations=(
            r"\theta - \alpha \sum_{i=1}^N \nabla L_i(\theta_i) \;\approx\; "
            r"\theta - N \alpha\, \frac{1}{N} \sum_{i=1}^N \nabla L_i(\theta)",
        ),
        seen=(
            f"The baseline, batches of {rows[0]['batch_size']} at the rate {rows[0]['lr']:g}, ends at a loss of "
            f"{base:.3f} on training images. With N times the rate, the rule {said[SCALED]}; with warm-up it "
            f"{said[WARM]}.",
            f"With the rate unchanged, N = {largest} ends {unscaled}: it saw the same images in "
            f"{last['steps']} steps instead of {rows[0]['steps']}.",
        ),
        headline=Headline(
            number=f"N = {broken[WARM]}" if broken[WARM] else f"N > {largest}",
            what=f"where the rule with warm-up breaks: a loss more than {100 * tolerance:g} % above the baseline's; "
            f"without warm-up {'nowhere' if broken[SCALED] is None else f'at N = {broken[SCALED]}'}",
            claim=f"N times the batch wants N times the learning rate, with warm-up (here up to N = {largest}).",
            held=broken[WARM] is None,
        ),
        pictures=(
            line_picture(
                "curves",
                "The training loss against images seen",
                f"Means of batches and over {len(seeds)} seed{'s' * (len(seeds) != 1)}; bands from lowest to highest. "
                "A line ends where a run diverged; losses above the start are cut off.",
                f"Panels of the loss against images seen, from N = 1 to N = {largest}. With N times the rate the rule "
                f"{said[SCALED]}; with warm-up it {said[WARM]}.",
                curves,
                xlabel="images seen",
                ylabel="loss (nats)",
                ylim=(0.8 * min(row["losses"][-1] for row in rows if row["losses"]), 1.1 * ceiling),
                height=2.2,
            ),
            line_picture(
                "ends",
                "The loss at the end against N",
                "The same number of images for all; no point where a run diverged, or ended far above.",
                f"The loss on training images against N, logarithmic, for each form; the baseline has {base:.3f}. "
                + "; ".join(f"{form}: N = {largest} ends {_how(ends[largest, form], base)}" for form in FORMS)
                + ".",
                final,
                xlabel="N",
                ylabel="loss on training images (nats)",
                xscale="log",
                ylim=(0.9 * base, 1.1 * ceiling),
                marks=[Mark((1 + tolerance) * base, f"{100 * tolerance:g} % above the baseline")],
            ),
        ),
    )


def _keys(rows: Sequence[Row]) -> list[tuple[int, str]]:
    return list(dict.fromkeys((row["factor"], row["form"]) for row in rows))


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else fmean(values)  # type: ignore[arg-type]


def _end(group: Sequence[Row], seed: int, base: float) -> float | None:
    end = next(row["train"] for row in group if row["seed"] == seed)
    return None if end is None or end > FAR * base else end


def _worse(end: float | None, base: float, tolerance: float) -> bool:
    return end is None or end > (1 + tolerance) * base


def _how(end: float | None, base: float) -> str:
    """Say how far a loss is from the baseline's."""
    if end is None or end > FAR * base:
        return "diverged"
    return f"{100 * abs(end / base - 1):.0f} % {'above' if end > base else 'below'} the baseline"
