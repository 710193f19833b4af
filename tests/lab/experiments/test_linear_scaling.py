"""N times the batch with N times the rate."""

import pytest

from optizoo.lab.experiments import ExperimentError
from optizoo.lab.experiments.linear_scaling import FLAT, SCALED, WARM, Options, page
from tests.lab.experiments import tiny

NAME = "linear_scaling"
TINY = {
    "data": "synthetic",
    "images": 256,
    "epochs": 2,
    "batch_size": 16,
    "factors": (1, 2, 8),
    "hidden": 8,
    "seeds": (0, 1),
}


def test_images_seen_are_equal():
    """For every N, the batch is N times as large, steps are N times fewer, and the rate is as the form says."""
    for row in tiny(NAME):
        n = row["factor"]
        assert (row["batch_size"], row["steps"]) == (16 * n, 32 // n)
        assert row["lr"] == pytest.approx(0.01 if row["form"] == FLAT else 0.01 * n)


def test_the_baseline_is_one_run():
    """At N = 1 the scaled rate is the unchanged one."""
    ends = {(row["form"], row["seed"]): row["train"] for row in tiny(NAME) if row["factor"] == 1}
    for seed in (0, 1):
        assert ends[FLAT, seed] == ends[SCALED, seed]
        assert ends[WARM, seed] != ends[FLAT, seed]


def test_the_rule_breaks_where_the_rows_say():
    """The first N whose loss is beyond the tolerance, or that diverged, is named; none turns the verdict."""
    rows = tiny(NAME)
    for row in rows:
        row["train"] = 1.05
    shown = page(rows)
    assert (shown.headline.number, shown.headline.verdict) == ("N > 8", "held")
    assert "the rule holds up to N = 8" in shown.seen[0]
    for row in rows:
        if row["form"] == WARM and row["factor"] == 8:
            row["train"] = None
        if row["form"] == SCALED and row["factor"] == 2:
            row["train"] = 1.26
    shown = page(rows)
    assert (shown.headline.number, shown.headline.verdict) == ("N = 8", "did not hold")
    assert "breaks at N = 2 (20 % above the baseline); with warm-up it breaks at N = 8 (diverged)" in shown.seen[0]


@pytest.mark.parametrize("factors", [(2, 4), (1,), (1, 1000)])
def test_factors(factors: tuple[int, ...]):
    """The baseline must be there, another N beside it, and no batch larger than the images."""
    with pytest.raises(ExperimentError, match="factors = "):
        Options(factors=factors)
