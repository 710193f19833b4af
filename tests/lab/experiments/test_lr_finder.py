"""The range test beside a grid."""

import pytest

from optizoo.lab.experiments import ExperimentError
from optizoo.lab.experiments.lr_finder import Options, page
from tests.lab.experiments import tiny

NAME = "lr_finder"
TINY = {
    "data": "synthetic", "images": 1000, "batch_size": 200, "hidden": 8, "optimizers": ("sgd", "adam"),
    "sweep": 60, "steps": 10, "grid": (1e-5, 1e-2, 1e2),
}  # fmt: skip


def test_suggestions_come_from_the_sweep():
    """A suggestion is the smaller of both readings, within the sweep, and training there is better than at its ends."""
    for row in tiny(NAME):
        assert row["suggestion"] == min(row["steepest"], row["tenth"])
        assert 1e-6 < row["suggestion"] < row["lrs"][-1] <= 10
        assert len(row["lrs"]) == len(row["smoothed"])
        low, _, _ = (run["accuracy"] for run in row["grid"])
        assert row["accuracy"] >= low


def test_the_claims_follow_the_rows():
    """Accuracies at the suggestion and at the ends of the grid turn number and verdict."""
    rows = tiny(NAME)
    for row in rows:
        row["accuracy"], row["grid"] = 0.39, [{"lr": lr, "accuracy": a} for lr, a in ((1, 0.1), (2, 0.4), (3, None))]
    assert page(rows).headline.number == "4 of 4"
    assert page(rows).headline.held
    rows[0]["accuracy"] = 0.37
    assert page(rows).headline.number == "3 of 4"
    rows[0]["grid"][0]["accuracy"] = 0.39
    assert not page(rows).headline.held
    rows[1] |= {"suggestion": None, "accuracy": None, "remark": "the curve is flat"}
    assert page(rows).headline.number == "2 of 4"
    assert "no suggestion (the curve is flat), nothing" in page(rows).seen[1]


def test_the_sweep_goes_up():
    """A sweep that does not rise is refused."""
    with pytest.raises(ExperimentError, match=r"low = 1; it must be above 0 and below high, which is 0\.1"):
        Options(low=1.0, high=0.1)
