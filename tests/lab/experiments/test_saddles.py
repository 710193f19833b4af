"""Saddles, a plateau and a local minimum."""

from math import log

import pytest

from optizoo.lab.experiments.saddles import OPTIMIZERS, SURFACES, page, run
from tests.lab.experiments import tiny

NAME = "saddles"
TINY = {"steps": 300, "offsets": (1e-2, 1e-4)}


def test_exactly_on_the_line_nothing_leaves_it():
    """Without noise every optimizer keeps y = 0 to the bit, and is stuck; with noise all but the slowest escape."""
    rows = [row for row in tiny(NAME) if row["kind"] == "run" and row["surface"] == "saddle"]
    assert len(rows) == 2 * len(OPTIMIZERS)
    for row in rows:
        if row["noise"] == 0:
            assert set(row["y"]) == {0.0}
        assert (row["escaped"] is None) == (row["noise"] == 0)


def test_leaving_takes_the_logarithm_of_the_distance():
    """From σ beside the line, y is 0.1 after log(0.1/σ) / log(1 + α) steps, to one step."""
    offsets = [row for row in tiny(NAME) if row["kind"] == "offset"]
    for row in offsets:
        assert row["predicted"] == pytest.approx(log(0.1 / row["offset"]) / log(1.05))
        assert row["needed"] == pytest.approx(row["predicted"], abs=1.5)


def test_small_noise_leads_out_of_no_local_minimum():
    """No optimizer escapes from the shallower of two minima, which is a minimum: a start beside it ends in it."""
    rows = [row for row in tiny(NAME) if row["kind"] == "run" and row["surface"] == "local minimum"]
    assert all(row["escaped"] is None for row in rows)
    (x, y, height), surface = run("sgd", SURFACES["local minimum"], (0.1, 0.8), 1000, 0.0, 0)[-1], "local minimum"
    assert abs(y**3 - y + 0.15) < 1e-9
    assert abs(x) < 1e-9
    assert y > 0.5
    assert height > SURFACES[surface].escaped


def test_the_verdict_follows_the_rows():
    """The claim holds where gradient descent is stuck and noise frees optimizers; it falls where noise frees none."""
    rows = tiny(NAME)
    assert (page(rows).headline.number, page(rows).headline.verdict) == ("5 of 5", "held")
    for row in rows:
        if row["kind"] == "run" and row["surface"] == "saddle":
            row["escaped"] = None
    assert page(rows).headline.verdict == "did not hold"
    for row in rows:
        if row["kind"] == "run" and row["surface"] == "saddle" and row["noise"] == 0:
            row["escaped"] = 7
    assert page(rows).headline.number == "0 of 5"
