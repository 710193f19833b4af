"""Random search and random local search."""

import pytest
import torch
from torch.nn.functional import cross_entropy, multi_margin_loss

from optizoo.lab.experiments.random_search import hinge, page, softmax
from tests.lab.experiments import tiny

NAME = "random_search"
TINY = {"data": "synthetic", "images": 100, "tries": 20, "repeats": 3, "local_repeats": 2}


def test_the_losses_are_torchs():
    """Hinge loss is torch's multi_margin_loss times the number of classes, softmax loss its cross_entropy."""
    scores, y = torch.randn(6, 3, 10, dtype=torch.float64), torch.arange(6)
    for loss, other, factor in ((hinge, multi_margin_loss, 10), (softmax, cross_entropy, 1)):
        expected = torch.stack([factor * other(scores[:, each], y) for each in range(3)])
        torch.testing.assert_close(loss(scores, y), expected, rtol=1e-12, atol=0)


def test_searches_keep_the_lowest_loss():
    """Every search has a row for each loss, pixels and repeat, whose losses never rise and begin near 9 and ln 10."""
    rows = tiny(NAME)
    assert len(rows) == 2 * 2 * (3 + 2)
    for row in rows:
        assert row["lowest"] == sorted(row["lowest"], reverse=True)
        assert len(row["lowest"]) == 20
        if row["search"] == "random" and row["pixels"] == "centred":
            assert row["lowest"][0] == pytest.approx(9 if row["loss"] == "hinge" else 2.303, rel=0.15)


def test_the_verdict_follows_the_rows():
    """The claim holds where 15.5 % is inside the range over the repeats; fewer than 1000 tries do not test it."""
    rows = tiny(NAME)
    assert page(rows).headline.verdict == "not tested at this size"
    for accuracies, verdict, words in (
        ((0.14, 0.15, 0.16), "held", "15.5 % is inside"),
        ((0.11, 0.12, 0.13), "did not hold", "15.5 % is outside"),
    ):
        for row in rows:
            row["lowest"] = [1.0] * 1000
            row["accuracy"] = accuracies[row["repeat"]] if row["search"] == "random" else 0.3 + row["repeat"] / 100
        shown = page(rows)
        assert shown.headline.verdict == verdict
        assert words in shown.seen[0]
