"""Nearest neighbours."""

import pytest
import torch

from optizoo.lab.experiments.knn import BLOCK, l1, l2, nearest, page, vote
from tests.lab.experiments import tiny

NAME = "knn"
TINY = {"data": "synthetic", "images": 300, "validation": 40, "test": 50, "ks": (1, 5, 400), "device": "cpu"}


def drawn(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_distances_are_exact():
    """L1 is exact in integers, across the edges of blocks; L2 is the root of the sum of squares to rounding."""
    a, b = drawn(2 * BLOCK["cpu"][0] + 1, 0), drawn(BLOCK["cpu"][1] + 1, 1)
    differences = a[:, None].double() - b.double()
    assert torch.equal(l1(a, b).double(), differences.abs().sum(2))
    torch.testing.assert_close(l2(a, b).double(), differences.square().sum(2).sqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["L1", "L2"])
def test_blocks_find_what_a_whole_search_finds(name):
    """Neighbours are collected from blocks of points as from all at once, and nearest first."""
    queries, points, labels = drawn(7, 2), drawn(60, 3), torch.arange(60)
    differences = (queries[:, None].double() - points.double()).abs().pow(1 if name == "L1" else 2).sum(2)
    for size, found in zip((3, 20, 60), nearest(name, queries, points, labels, 5, (3, 20, 60)), strict=True):
        expected = differences[:, :size].sort(1).values[:, :5]
        assert torch.equal(differences.gather(1, found), expected)


def test_the_nearer_wins_a_tie():
    """The commonest label wins, and of two as common the one that is nearer."""
    labels = torch.tensor([[2, 1, 1, 0], [1, 0, 0, 1], [0, 1, 2, 2]])
    assert [vote(labels, k, 3).tolist() for k in (1, 2, 3, 4)] == [[2, 1, 0], [2, 1, 0], [1, 0, 0], [1, 1, 2]]


def test_an_image_is_its_own_neighbour():
    """All k votes of all images give the commonest label, and the last size is that of the training set."""
    for row in tiny(NAME):
        assert row["ks"] == [1, 5, 300]
        assert row["sizes"][-1] == 300
        assert row["test"][0] == row["nearest"][-1]


def test_the_claims_follow_the_rows():
    """The verdict asks for most of CIFAR-10; the better distance and the chosen k come from the rows."""
    rows = tiny(NAME)
    assert page(rows).headline.verdict == "not tested at this size"
    for accuracy, verdict in ((0.38, "held"), (0.20, "did not hold")):
        for row in rows:
            row |= {"images": 45_000, "test_images": 1000, "validation": [0.1, 0.3, 0.2], "test": [accuracy, 0.25, 0.1]}
            row["nearest"][-1] = accuracy if row["distance"] == "L1" else 0.3
        shown = page(rows)
        assert shown.headline.verdict == verdict
        assert f"{'L1' if accuracy > 0.3 else 'L2'} is ahead" in shown.seen[0]
        assert "k = 5 for L1, right for 25.0 %" in shown.seen[1]
