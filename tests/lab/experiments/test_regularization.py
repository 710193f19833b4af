"""Regularization."""

import pytest

from optizoo.lab.experiments.regularization import page
from tests.lab.experiments import tiny

NAME = "regularization"
TINY = {
    "data": "synthetic", "images": 100, "side": 8, "batch_size": 50, "steps": 60, "hidden": 8,
    "lambdas": (1e-3, 1e-2, 1.0), "decays": (0.1, 1.0), "dropouts": (0.0, 0.5),
}  # fmt: skip


def test_only_l1_reaches_exact_zeros():
    """L1 sets weights to exactly zero, more of them the stronger it is and all in the end; L2 and decay none."""
    zeros = {(row["method"], row["strength"]): row["zeros"] for row in tiny(NAME) if row["kind"] == "run"}
    for method in ("L1", "elastic net"):
        assert 0 < zeros[method, 1e-3] < zeros[method, 1e-2] < zeros[method, 1.0] == 1
    assert {zeros[key] for key in zeros if key[0] in ("none", "L2", "AdamW")} == {0}


def test_the_example_has_the_minima_of_algebra():
    """L2 spreads the weights in proportion to the pixels; L1 gives all to the brightest, and cannot tell equal ones."""
    found = {(row["pixels"], row["penalty"]): row["w"] for row in tiny(NAME) if row["kind"] == "example"}
    for name, pixels in (("equal pixels", (1, 1, 1, 1)), ("a brighter pixel", (1.1, 1, 1, 1))):
        share = 1 / (sum(x * x for x in pixels) + 0.02)  # of (w x - 1)² / 2 + 0.01 w²
        assert found[name, "L2"] == pytest.approx([x * share for x in pixels], rel=1e-9)
    assert found["a brighter pixel", "L1"] == [pytest.approx((1.1 - 0.01) / 1.1**2), 0, 0, 0]
    tied = found["equal pixels", "L1"]
    assert sum(tied) == pytest.approx(0.99)
    assert sum(w > 1e-9 for w in tied) == 2  # where it began, neither sparser nor more spread, to rounding


def test_the_claims_follow_the_rows():
    """The strength with the best validation accuracy is chosen, and zeros under L2 alone turn the verdict."""
    rows = tiny(NAME)
    for row in rows:
        if row["kind"] == "run" and row["method"] in ("L1", "L2"):
            row |= {"validation": row["strength"] == 1e-2, "zeros": 0.7 if row["method"] == "L1" else 0.0}
    shown = page(rows).headline
    assert (shown.number, shown.verdict) == ("70.0 %", "held")
    assert "λ = 0.01" in shown.what
    for row in rows:
        if row["kind"] == "run" and row["method"] in ("L1", "L2"):
            row["zeros"] = 0.0 if row["method"] == "L1" else 0.7
    assert page(rows).headline.verdict == "did not hold"
