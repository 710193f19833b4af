"""Newton and its relatives beside first-order methods, and the weight of the Hessian."""

import pytest

from optizoo.lab.experiments.second_order import page
from tests.lab.experiments import tiny

NAME = "second_order"
TINY = {"data": "synthetic", "images": 100, "side": 2, "hidden": 3, "first_steps": 6, "lrs": (1e-2, 1e-1)}


def test_newton_reaches_the_minimum():
    """On the linear model Newton and Gauss-Newton reach a gradient norm of 1e-8, and agree on the loss."""
    runs = {row["method"]: row for row in tiny(NAME) if row["kind"] == "run" and row["model"] == "linear, 2×2"}
    for method in ("newton", "gauss_newton"):
        assert runs[method]["status"] == "converged"
        assert runs[method]["steps"][-1][2] <= 1e-8
    assert runs["newton"]["steps"][-1][0] <= 8
    assert runs["newton"]["steps"][-1][1] == pytest.approx(runs["gauss_newton"]["steps"][-1][1], rel=1e-12)


def test_the_hessian_weighs_eight_bytes_a_number():
    """Bytes are 8 n², and the line through them gives 7.55 GB for the linear model and 124 PB for GPT-2."""
    weighed = [row for row in tiny(NAME) if row["kind"] == "hessian"]
    assert [row["params"] for row in weighed] == [40, 130]
    assert all(row["bytes"] == 8 * row["params"] ** 2 for row in weighed)
    shown = page(tiny(NAME))
    assert shown.headline.number == "124 PB"
    assert "to the power 2.00" in shown.seen[2]
    assert "7.55 GB for the linear model" in shown.seen[2]


def test_there_is_no_hessian_of_the_full_model():
    """On full images, 30 730 parameters, only methods without a matrix run."""
    full = {row["method"] for row in tiny(NAME) if row.get("params") == 30_730}
    assert full == {"newton_cg", "lbfgs", "sgd", "momentum", "adam"}


def test_the_claim_follows_the_rows():
    """The verdict turns where Newton does not arrive, and a method that arrives is named with its time."""
    rows = tiny(NAME)
    assert page(rows).headline.verdict == "held"
    run = next(row for row in rows if row["kind"] == "run" and row["method"] == "newton")
    run["steps"][-1][2] = 0.5
    assert page(rows).headline.verdict == "did not hold"
    assert "gradient norm is 5.0e-01" in page(rows).seen[0]
    for row in rows:
        if row.get("params") == 30_730:
            row["steps"][-1][2:4] = [1e-4, 7.0] if row["method"] == "adam" else [None, 1.0]
    assert "is reached after: adam 7 s; not within the steps by" in page(rows).seen[1]


def test_the_best_rate_is_shown():
    """Of a method's rates, the picture has the one whose last loss is lowest; a run that diverged never wins."""
    rows = tiny(NAME)
    runs = [row for row in rows if row["kind"] == "run" and row["model"] == "linear, 2×2" and row["method"] == "sgd"]
    assert len(runs) == 2
    for lowest in (0, 1):
        for index, run in enumerate(runs):
            run["steps"][-1][1:3] = [-1.0, 1e-30 * (index + 1)] if index == lowest else [None, None]
        assert f"sgd at lr {runs[lowest]['lr']:g}, has {1e-30 * (lowest + 1):.1e}" in page(rows).seen[0]
