"""All optimizers on a plane of the real loss."""

import pytest

from optizoo.lab.experiments.trajectories_cifar10 import page
from tests.lab.experiments import tiny

NAME = "trajectories_cifar10"
TINY = {
    "data": "synthetic", "images": 60, "batch_size": 30, "steps": 8, "points": 4, "lr_from": -3, "lr_to": -2,
    "per_decade": 1, "l2": 1.0, "grid": 5,
}  # fmt: skip


def test_the_optimum_is_lowest():
    """The gradient at the optimum is zero to 1e-8, and no loss of a path or of the map is lower."""
    optimum, *paths, plane = tiny(NAME)
    assert optimum["gradient_norm"] <= 1e-8
    assert all(gap > 0 for path in paths for gap in path["gaps"])
    assert min(min(row) for row in plane["z"]) >= optimum["loss"] - 1e-5  # the map is float32


def test_runs_are_paired():
    """All paths begin at the same weights, and end at what the best rate of the grid ends at."""
    optimum, *paths, plane = tiny(NAME)
    assert len(paths) == 12
    for path in paths:
        assert path["gaps"][0] == pytest.approx(optimum["first"], rel=1e-5)
        assert path["steps"][0] == 0
        assert path["steps"][-1] == 8
        assert path["gaps"][-1] == pytest.approx(min(end for end in path["ends"] if end is not None), rel=1e-3)
    starts = [feet[0] for feet in plane["feet"].values()]
    assert all(start == pytest.approx(starts[0]) for start in starts)


def test_the_claim_follows_the_rows():
    """The verdict counts who ends nearer than SGD, and the sentence names who does not."""
    rows = tiny(NAME)
    for row in rows[1:-1]:
        row["gaps"][-1] = 1.0 if row["optimizer"] == "sgd" else 0.5
    assert page(rows).headline.verdict == "held"
    next(row for row in rows[1:-1] if row["optimizer"] == "adam")["gaps"][-1] = 2.0
    assert page(rows).headline.number == "2 of 3"
    assert page(rows).headline.verdict == "did not hold"
    assert "adam farthest with 2; SGD has 1 and is number 11 of 12; not lower than SGD: adam." in page(rows).seen[1]
