"""The lecture's advice: AdamW, AdamW with warm-up and cosine, and tuned SGD with momentum."""

import pytest

from optizoo.lab.experiments import ExperimentError
from optizoo.lab.experiments.defaults import CONSTANT, RECIPES, SGD, Options, page
from tests.lab.experiments import tiny

NAME = "defaults"
TINY = {
    "data": "synthetic",
    "images": 256,
    "batch_size": 64,
    "epochs": 3,
    "hidden": 8,
    "adamw_lrs": (1e-3, 0.01),
    "sgd_lrs": (0.01,),
    "seeds": (1, 2, 3, 4, 5),
}


def test_budgets_are_equal():
    """Every recipe has as many trials on each model, and the best on validation runs again from new seeds."""
    rows = tiny(NAME)
    for model in ("linear", "two_layer"):
        for recipe in RECIPES:
            group = [row for row in rows if (row["model"], row["recipe"]) == (model, recipe)]
            trials, runs = ([row for row in group if row["kind"] == kind] for kind in ("trial", "run"))
            assert len(trials) == 2
            best = max(trials, key=lambda row: row["validation"])
            assert {(row["lr"], row["schedule"]) for row in runs} == {(best["lr"], best["schedule"])}
            assert [row["seed"] for row in runs] == [1, 2, 3, 4, 5]


def test_the_claims_follow_the_rows():
    """A difference that all seeds share is significant and turns the verdict; one that a seed does not share is not."""
    rows = tiny(NAME)

    def doctored(gains: tuple[float, ...]):
        for row in rows:
            if row["kind"] == "run":
                row["test"] = 0.4 + (gains[row["seed"] - 1] if row["recipe"] == SGD else 0)
        return page(rows)

    shown = doctored((0.01, 0.02, 0.03, 0.02, 0.02))
    assert (shown.headline.number, shown.headline.verdict) == ("+2.00 points", "held")
    assert "two_layer: significant (95 % interval" in shown.headline.what
    assert "AdamW constant minus SGD -2.00 points" in shown.seen[1]
    assert "AdamW constant minus AdamW cosine +0.00 points (+0.00 to +0.00; not significant)" in shown.seen[1]
    shown = doctored((0.01, 0.02, 0.03, 0.02, -0.001))
    assert shown.headline.verdict == "did not hold"
    assert "two_layer: not significant" in shown.headline.what
    assert doctored((-0.01, -0.02, -0.03, -0.02, -0.02)).headline.verdict == "did not hold"
    assert f"{CONSTANT} 40.00 %" in shown.seen[0]


def test_unequal_budgets_are_refused():
    """SGD with momentum has two schedules for each rate, so it takes half as many rates."""
    with pytest.raises(ExperimentError, match="for an equal budget it must be half as many as adamw_lrs"):
        Options(sgd_lrs=(0.1,))
