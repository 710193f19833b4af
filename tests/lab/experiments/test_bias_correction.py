"""Adam with and without bias correction."""

import pytest

from optizoo.lab.experiments.bias_correction import page
from tests.lab.experiments import tiny

NAME = "bias_correction"
TINY = {"data": "synthetic", "images": 256, "batch_size": 64, "steps": 12, "early": 4, "lrs": (1e-3,), "seeds": (0, 1)}


def test_steps_are_longer_as_predicted():
    """On equal gradients, steps without correction are longer by (1 - β₁ᵗ) / √(1 - β₂ᵗ): 3.162 times at the first."""
    lengths = tiny(NAME)[0]
    ratios = [without / corrected for corrected, without in zip(lengths["with"], lengths["without"], strict=True)]
    assert ratios == pytest.approx([(1 - 0.9**t) / (1 - 0.999**t) ** 0.5 for t in range(1, 13)], rel=1e-3)
    assert lengths["with"][0] == pytest.approx(1, rel=1e-3)  # every weight moves by the learning rate
    shown = page(tiny(NAME))
    assert shown.headline.number == "3.16 ×"
    assert shown.headline.held


def test_runs_are_paired():
    """With and without correction, a seed begins with the same loss."""
    runs = tiny(NAME)[1:]
    assert [run["correct"] for run in runs] == [True, False] * 2
    assert [run["losses"][0] for run in runs[::2]] == [run["losses"][0] for run in runs[1::2]]


def test_the_claims_follow_the_rows():
    """Steps that are no longer turn the verdict, and lower losses the count of seeds that win."""
    rows = tiny(NAME)
    rows[0]["without"] = rows[0]["with"]
    for run in rows[1:]:
        run["early"] = 1.0 if run["correct"] else 2.0
    shown = page(rows)
    assert shown.headline.verdict == "did not hold"
    assert "1.000 with and 2.000 without at lr 0.001 (lower with correction for 2 of 2 seeds)" in shown.seen[1]
    for run in rows[1:]:
        run["early"] = 3.0 if run["correct"] else 2.0
    assert "lower with correction for 0 of 2 seeds" in page(rows).seen[1]
