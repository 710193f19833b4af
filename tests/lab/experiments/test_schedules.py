"""Schedules, with warm-up and without."""

import math

import pytest

from optizoo.lab.experiments import ExperimentError
from optizoo.lab.experiments.schedules import Options, page
from tests.lab.experiments import tiny

NAME = "schedules"
TINY = {
    "data": "synthetic",
    "images": 256,
    "batch_size": 32,
    "steps": 30,
    "warmup_steps": 6,
    "hidden": 8,
    "seeds": (0, 1),
}


def test_rates_are_those_of_the_equations():
    """Each run has the rates that the page's equations give, from 0 where there is a warm-up."""
    rates = {(row["schedule"], row["warmup"]): row["rates"] for row in tiny(NAME)}
    assert len(rates) == 10
    steps = range(30)
    plain = {
        "constant": [0.01] * 30,
        "step": [0.01 * 0.1 ** (t // 10) for t in steps],
        "cosine": [0.01 * (1 + math.cos(math.pi * t / 30)) / 2 for t in steps],
        "linear": [0.01 * (1 - t / 30) for t in steps],
        "inverse square root": [0.01 / math.sqrt(1 + t / 3) for t in steps],
    }
    for name, expected in plain.items():
        assert rates[name, "no warm-up"] == pytest.approx(expected)
        warm = rates[name, "warm-up"]
        assert warm[:6] == pytest.approx([0.01 * t / 6 for t in range(6)])
        assert warm[6] == pytest.approx(expected[0])


def test_a_first_step_at_rate_zero_changes_nothing():
    """Under warm-up the first update has the rate 0; all runs of a seed begin with the same loss."""
    for seed in (0, 1):
        runs = [row for row in tiny(NAME) if row["seed"] == seed]
        assert len({row["losses"][0] for row in runs}) == 1


def test_the_claims_follow_the_rows():
    """One decay that loses with one seed turns the verdict; numbers are those of the rows."""
    rows = tiny(NAME)
    for row in rows:
        row["test"] = {"constant": 0.4, "cosine": 0.5}.get(row["schedule"], 0.45)
        row["early"] = 2.5 if row["warmup"] == "warm-up" else 9.0
    shown = page(rows)
    assert (shown.headline.number, shown.headline.verdict) == ("+10.0 points", "held")
    assert "the best decay, cosine, at 50.0 %; 4 of 4 decays beat" in shown.seen[0]
    assert "up to 9.00 without warm-up and to 2.50 with it" in shown.seen[1]
    next(row for row in rows if row["schedule"] == "linear")["test"] = 0.39
    shown = page(rows)
    assert shown.headline.verdict == "did not hold"
    assert "3 of 4 decays beat" in shown.seen[0]


def test_the_warmup_is_within_the_run():
    """A warm-up as long as the run is refused."""
    with pytest.raises(ExperimentError, match="warmup_steps = 400; it must be below the 400 steps"):
        Options(warmup_steps=400)
