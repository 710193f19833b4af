"""The two forms of momentum."""

import pytest

from optizoo.lab.experiments import ExperimentError
from optizoo.lab.experiments.momentum_forms import Options, page
from tests.lab.experiments import tiny

NAME = "momentum_forms"
TINY = {"steps": 12, "cut_after": 5}


def test_the_forms_part_by_the_predicted_distance():
    """Weights are equal to rounding at a constant rate, to the bit at 1/16, and part by (1 - c) ρ |v| at the cut."""
    weights = {(row["rate"], row["form"]): row["weights"] for row in tiny(NAME)}
    assert weights["constant", "outside"] == pytest.approx(weights["constant", "inside"], rel=0, abs=1e-15)
    assert weights["power of two", "outside"] == weights["power of two", "inside"]
    outside, inside = weights["cut", "outside"], weights["cut", "inside"]
    assert outside[:6] == pytest.approx(inside[:6], rel=0, abs=1e-15)
    parted = abs(outside[6] - inside[6])
    assert parted == pytest.approx(0.9 * 0.9 * abs(inside[5] - inside[4]), rel=1e-12)
    assert f"makes a distance of {parted:.4g}, where the formula predicts {parted:.4g}" in page(tiny(NAME)).seen[1]


def test_the_claim_follows_the_rows():
    """The lecture's claim did not hold; rows in which the forms are equal turn the verdict and the sentence."""
    rows = tiny(NAME)
    assert page(rows).headline.verdict == "did not hold"
    assert "they part" in page(rows).seen[1]
    for outside, inside in zip(rows[::2], rows[1::2], strict=True):
        inside["weights"] = outside["weights"]
    assert page(rows).headline.verdict == "held"
    assert "they stay equal" in page(rows).seen[1]


def test_no_cut_tests_nothing():
    """Where the rate is multiplied by 1 there is no verdict."""
    rows = tiny(NAME)
    for row in rows:
        row["cut"] = 1.0
    assert page(rows).headline.verdict == "not tested at this size"


def test_the_cut_is_within_the_run():
    """A cut behind the last step is refused."""
    with pytest.raises(ExperimentError, match="cut_after = 60; it must be below the 60 steps"):
        Options(cut_after=60)
