"""Quadratic valleys."""

import pytest

from optizoo.lab.experiments.conditioning import page, run, tuned
from tests.lab.experiments import tiny

NAME = "conditioning"
TINY = {"conditions": (1.0, 10.0, 100.0), "max_steps": 500, "lrs": (0.1, 0.3), "products": (0.5, 1.9, 1.99, 2.01)}


def test_the_steep_coordinate_is_multiplied_by_one_minus_rate_times_curvature():
    """After t steps it is |1 - αL| to the power of t: it grows beyond 2/L, and not below."""
    for row in tiny(NAME)[:4]:
        assert row["steep"] == pytest.approx(abs(1 - row["product"]) ** row["steps"], rel=1e-9)
        assert (row["steep"] > 1) == (row["product"] > 2)
    assert "between 1.99/L and 2.01/L, as predicted" in page(tiny(NAME)).seen[0]


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_the_best_constants_shrink_as_theory_says(name):
    """Late in the run, the mean shrinking of a step is within 2 % of the rate."""
    constants, rate = tuned(name, 100.0)
    distances = run(name, [constants], [100.0], 300)[:, 0].norm(dim=1)
    assert rate is not None
    assert (distances[300] / distances[200]).item() ** 0.01 == pytest.approx(rate, rel=0.02)


def test_turning_the_valley_matters_to_adaptive_rates_alone():
    """Gradient descent goes the same way in a turned valley, and RMSprop another."""
    for name, same in (("sgd", True), ("rmsprop", False)):
        straight, turned = (run(name, [{"lr": 0.01}], [100.0], 20, turned=way) for way in (False, True))
        assert (turned[-1] - straight[-1]).abs().max().item() < 1e-12 if same else turned[-1].dist(straight[-1]) > 1e-3


def test_the_claims_follow_the_rows():
    """Gradient descent needs about κ steps and momentum about √κ; rows that say otherwise turn the verdict."""
    rows = tiny(NAME)
    steps = {(row["optimizer"], row["condition"]): row["steps"] for row in rows
             if row["kind"] == "steps" and not row["turned"]}  # fmt: skip
    assert steps["sgd", 100.0] == pytest.approx(345, rel=0.02)
    assert steps["momentum", 100.0] < 70
    assert page(rows).headline.held
    for row in rows:
        if row["kind"] == "steps" and row["optimizer"] == "momentum":
            row["steps"] = None
    shown = page(rows)
    assert shown.headline.verdict == "did not hold"
    assert shown.headline.number.endswith(": more than 500")
