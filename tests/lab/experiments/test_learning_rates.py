"""Learning rates that are too low, good, high and too high, and the sensitivity of each optimizer."""

import pytest

import optizoo
from optizoo.lab.experiments import ExperimentError
from optizoo.lab.experiments.learning_rates import FAMILIES, Options, page
from tests.lab.experiments import tiny

NAME = "learning_rates"
TINY = {
    "data": "synthetic",
    "images": 256,
    "batch_size": 32,
    "steps": 30,
    "hidden": 8,
    "lrs": (1e-3, 0.1, 1e3),
    "multiples": (1e-3, 1.0, 2.0, 1e6),
    "seeds": (0, 1),
}


def test_every_optimizer_has_the_same_budget():
    """All optimizers of the zoo are tried with the same rates and seeds, and begin at the same weights."""
    grid = [row for row in tiny(NAME) if row["kind"] == "grid"]
    tried = {name: [] for family in FAMILIES.values() for name in family}
    for row in grid:
        tried[row["optimizer"]].append((row["lr"], row["seed"]))
    assert {*tried} == {*optizoo.list_optimizers(), "nesterov"}
    assert all(runs == tried["sgd"] for runs in tried.values())
    assert len({row["losses"][0] for row in tiny(NAME) if row["kind"] == "four" and row["seed"] == 0}) == 1


def test_four_rates():
    """The good rate ends below the lowest, which has learnt nothing; the highest diverges, which is no accuracy."""
    rows = tiny(NAME)
    four = {(row["name"], row["seed"]): row for row in rows if row["kind"] == "four"}
    good, low = four["good", 0], four["too low", 0]
    assert sum(good["losses"]) < 0.95 * sum(low["losses"])
    assert four["too high", 0]["diverged"]
    assert four["too high", 0]["test"] is None
    assert f"({good['lr']:g}, best on validation) ends at" in page(rows).seen[0]
    assert "one that is too high (100000) diverges" in page(rows).seen[0]


def test_the_claims_follow_the_rows():
    """A high rate that ends lower turns the verdict; a better optimizer is named."""
    rows = tiny(NAME)
    for row in rows:
        if row["kind"] == "four":
            ends = {"too low": 2.0, "good": 1.0, "high": 1.5, "too high": 9.0}
            row |= {"losses": [2.3] + [ends[row["name"]]] * 29, "diverged": False}
        else:
            row |= {"validation": row["lr"] / 1e4, "test": row["lr"] / 1e4}
            if row["optimizer"] == "adagrad":
                row |= {"validation": 0.9, "test": 0.95}
    shown = page(rows)
    assert shown.headline.verdict == "held"
    assert shown.headline.number == "1.00 nats"
    assert "and 95.0 % (adagrad)" in shown.seen[1]
    assert "span a factor of 1e+06 for adagrad, the most" in shown.seen[2]
    for row in rows:
        if row["kind"] == "four" and row["name"] == "high":
            row["losses"][-29:] = [0.5] * 29
    assert page(rows).headline.verdict == "did not hold"


def test_there_are_four_rates():
    """Another number of multiples is refused."""
    with pytest.raises(ExperimentError, match=r"it must be four numbers: too low, good, high, too high"):
        Options(multiples=(1.0, 2.0))
