"""Adam against AdamW: a penalty that is averaged with the gradients, or a decay beside them.

With L2 in the gradient, Adam divides the penalty by √v̂ like everything else: weights with large gradients are decayed
less. AdamW takes the decay out of the moments (Loshchilov and Hutter 2019). Both get the same grid of rates and decays
on a small two-layer network that sees few images, of 16 x 16 pixels, often. The best cell of each, chosen on validation
images, then runs again from new seeds.

    L2: g ← ∇L(θ) + λθ, and m and v are averages of g
    decoupled: g ← ∇L(θ), and θ ← θ - αλθ beside the step

The lecture: L2 and weight decay are not the same for Adam, and decoupled decay (AdamW) generalizes better.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from matplotlib.figure import Figure

from optizoo.lab import plots
from optizoo.lab.config import RunConfig
from optizoo.lab.options import IMAGES, SEEDS, Checked, option
from optizoo.lab.page import Headline, Page, Picture, Row, Table, Track
from optizoo.lab.pictures import Theme
from optizoo.lab.running import DATA, accuracies, curve, images, measure, shrunk, train_all
from optizoo.lab.statistics import is_significant, paired_bootstrap, sign_flip_test
from optizoo.lab.train import Trained

NEEDS_DATA = True
FORMS = {"adam": "Adam, L2 in the moments", "adamw": "AdamW, decoupled decay"}
DECAYS = (0.0, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Options(Checked):
    """The options."""

    data: str = DATA
    images: int = option(2000, "number of images to train on", at_least=1, at_most=IMAGES)
    batch_size: int = option(100, "images in a batch", at_least=1, at_most="images")
    epochs: int = option(30, "passes over the images", at_least=1, at_most=10_000)
    hidden: int = option(64, "hidden units", at_least=1, at_most=10_000)
    lrs: tuple[float, ...] = option((1e-4, 3e-4, 1e-3, 3e-3, 0.01), "learning rates", at_least=0, nonzero=True)
    decays: tuple[float, ...] = option(DECAYS, "decays, the lecture's lambda", at_least=0)
    grid_seed: int = option(0, "seed of the runs of the grid", at_least=0, at_most=SEEDS)
    seeds: tuple[int, ...] = option(
        tuple(range(1, 9)), "seeds of the runs of the best cells", at_least=0, at_most=SEEDS
    )


def compute(options: Options, track: Track) -> Iterator[Row]:
    """Yield a row for each run of the grid, then for each run of the best cells."""
    source = shrunk(options.data, options.images)
    train, _, _ = images(options.data, options.images, side=16)

    def rows(kind: str, runs: Sequence[tuple[str, float, float, int]], what: str) -> list[Row]:
        def config(name: str, lr: float, decay: float, seed: int) -> RunConfig:
            sizes = {"model_options": {"hidden": options.hidden}, "epochs": options.epochs}
            more = {"weight_decay": decay}
            return curve("two_layer", name, lr, more, seed=seed, batch_size=options.batch_size, **sizes)

        def row(index: int, run: Trained) -> Row:
            named = zip(("optimizer", "lr", "decay", "seed"), runs[index], strict=True)
            learnt = None if run.status == "diverged" else measure(run.model, train)[1]
            return {"kind": kind, **dict(named), "train": learnt, **accuracies(run)}

        return train_all([config(*run) for run in runs], source, row, track, what)

    grid = rows("grid", [(*cell, options.grid_seed) for cell in product(FORMS, options.lrs, options.decays)], "grid")
    yield from grid
    best = {name: _best(grid, name) for name in FORMS}
    again = [(name, best[name]["lr"], best[name]["decay"], seed) for name, seed in product(FORMS, options.seeds)]
    yield from rows("best", again, "best cells")


def page(rows: Sequence[Row]) -> Page:
    """Show the test accuracies of both grids, and the difference of the best cells over new seeds."""
    grid, again = ([row for row in rows if row["kind"] == kind] for kind in ("grid", "best"))
    lrs, decays = (list(dict.fromkeys(row[key] for row in grid)) for key in ("lr", "decay"))
    tests = {(row["optimizer"], row["lr"], row["decay"]): row["test"] for row in grid}
    best = {name: _best(grid, name) for name in FORMS}
    plain = {name: max(tests[name, lr, min(decays)] or 0 for lr in lrs) for name in FORMS}
    paired = {name: [row["test"] or 0 for row in again if row["optimizer"] == name] for name in FORMS}
    gain = paired_bootstrap(paired["adamw"], paired["adam"])
    chance = sign_flip_test(paired["adamw"], paired["adam"])
    between = f"95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f}"
    significant = is_significant(paired["adamw"], paired["adam"])
    wins = sum(one > other for one, other in zip(paired["adamw"], paired["adam"], strict=True))
    ridge = {
        name: ", ".join(f"{max(decays, key=lambda decay: tests[name, lr, decay] or 0):g}" for lr in lrs)
        for name in FORMS
    }
    limits = min(value for value in tests.values() if value), max(value for value in tests.values() if value)

    def picture(name: str, title: str) -> Picture:
        values = [[tests[name, lr, decay] for decay in decays] for lr in lrs]
        names = [f"{lr:g}" for lr in lrs], [f"{decay:g}" for decay in decays]

        def draw(theme: Theme) -> Figure:
            return plots.heatmap(
                [[value and 100 * value for value in line] for line in values],
                rows=names[0],
                columns=names[1],
                xlabel="decay λ",
                ylabel="learning rate",
                unit="test accuracy (%)",
                form="{:.1f}".format,
                title=title,
                best="max",
                limits=(100 * limits[0], 100 * limits[1]),
                theme=theme,
            )

        return Picture(
            name,
            f"Test accuracy of {title}",
            "One run a cell; the frame is around the best. Both maps have the same colours.",
            f"A table of test accuracies, rates down, decays across, up to {100 * max(map(_largest, values)):.1f} %. "
            f"The best decays from the lowest rate to the highest: {ridge[name]}.",
            draw,
            Table(["learning rate", *names[1]], [[lr, *row] for lr, row in zip(lrs, values, strict=True)]),
        )

    return Page(
        equations=(
            r"\mathrm{L2:}\quad g \leftarrow \nabla L(\theta) + \lambda \theta",
            r"\mathrm{decoupled:}\quad g \leftarrow \nabla L(\theta), \quad "
            r"\theta \leftarrow \theta - \alpha \lambda \theta",
        ),
        seen=(
            *(
                f"{title}: the best cell on validation, of {len(lrs) * len(decays)}, is lr {best[name]['lr']:g} with "
                f"decay {best[name]['decay']:g}. Over {len(paired[name])} new seeds it reaches "
                f"{100 * fmean(paired[name]):.2f} % of the test images; the best cell with decay {min(decays):g} has "
                f"{100 * plain[name]:.2f} %."
                for name, title in FORMS.items()
            ),
            f"The difference of AdamW is {100 * gain.mean:+.2f} points ({between}; better for {wins} of "
            f"{len(paired['adam'])} seeds; exact p = {chance:.3g}), which is "
            f"{'significant' if significant else 'not significant'}. From the lowest rate to the highest, the best "
            f"decays are {ridge['adam']} for L2 and {ridge['adamw']} decoupled.",
        ),
        headline=Headline(
            number=f"{100 * gain.mean:+.2f} points",
            what=f"test accuracy of AdamW over that of Adam with L2, both tuned alike; {between}",
            claim="Decoupled decay (AdamW) generalizes better than L2 in Adam's moments.",
            held=gain.mean > 0 if significant else None,
        ),
        pictures=tuple(picture(name, title) for name, title in FORMS.items()),
    )


def _largest(values: Sequence[float | None]) -> float:
    return max(value or 0 for value in values)


def _best(grid: Sequence[Row], name: str) -> Row:
    """Return the cell with the best validation accuracy."""
    return max((row for row in grid if row["optimizer"] == name), key=lambda row: row["validation"] or 0)
