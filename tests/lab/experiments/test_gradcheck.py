"""Numerical against analytic gradients."""

import pytest

from optizoo.lab.experiments.gradcheck import page
from tests.lab.experiments import tiny

NAME = "gradcheck"
TINY = {
    "data": "synthetic", "images": 8, "hidden": 6, "elements": 8, "sizes": (1, 2), "epoch": 80, "repeats": 2
}  # fmt: skip


def rows_of(rows, kind: str):
    return [row for row in rows if row["kind"] == kind]


def test_right_models_are_right_and_mistakes_are_caught():
    """Each parameter of both models agrees; each planted mistake has the verdict and the error of its size."""
    rows = tiny(NAME)
    assert all(row["ok"] and row["error"] < 1e-6 for row in rows_of(rows, "check"))
    found = {row["name"]: (row["verdict"], row["error"]) for row in rows_of(rows, "mistake")}
    assert found["no mistake"][1] == 0
    assert found["wrong sign"] == ("wrong", pytest.approx(2, rel=1e-3))
    assert found["twice as large"] == ("wrong", pytest.approx(0.5, rel=1e-3))
    assert found["mask forgotten"][0] == "wrong"
    assert found["1 in 1000 too large"] == ("uneasy", pytest.approx(1 / 1001, rel=1e-2))
    assert found["1 in 100 000 too large"][0] in ("fine", "uneasy")


def test_the_error_over_the_step_is_a_v():
    """Truncation grows as h², rounding as 1/h, and float32 is best at a larger step than float64."""
    best = {}
    for dtype in ("float32", "float64"):
        steps = [row for row in rows_of(tiny(NAME), "step") if (row["model"], row["dtype"]) == ("linear", dtype)]
        errors = {row["step"]: row["error"] for row in steps}
        best[dtype] = min(errors, key=lambda step: errors[step])
        assert errors[1.0] > 10 * errors[best[dtype]] < errors[1e-7]
    assert best["float32"] > best["float64"]
    errors = {row["step"]: row["error"] for row in rows_of(tiny(NAME), "step") if row["model"] == "linear"}  # float64
    assert errors[1e-2] / errors[1e-3] == pytest.approx(100, rel=0.1)


def test_the_time_of_an_epoch_is_computed():
    """A numerical gradient takes two evaluations for each parameter, an epoch as many gradients as batches."""
    for row in rows_of(tiny(NAME), "time"):
        assert row["numerical"] == 2 * row["parameters"] * row["evaluation"]
        assert row["batches"] == 10


def test_the_claims_follow_the_rows():
    """A mistake that passes, or a right model that does not, turns verdict and sentence."""
    rows = tiny(NAME)
    assert page(rows).headline.held
    assert "agree with differences" in page(rows).seen[0]
    rows_of(rows, "mistake")[1]["ok"] = True
    assert "4 of 5 planted mistakes were caught with it" in page(rows).headline.what
    assert not page(rows).headline.held
    rows = tiny(NAME)
    rows_of(rows, "check")[0]["ok"] = False
    assert "do not all agree" in page(rows).seen[0]
    assert not page(rows).headline.held
    rows = tiny(NAME)
    for row in rows_of(rows, "time"):
        row["numerical"] = row["analytic"] / 2
    assert not page(rows).headline.held
