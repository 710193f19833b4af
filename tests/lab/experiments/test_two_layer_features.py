"""Points that no line separates, and three views of a linear classifier."""

import numpy as np
import pytest

from optizoo.lab.experiments import ExperimentError
from optizoo.lab.experiments.two_layer_features import Options, page
from tests.lab.experiments import tiny

NAME = "two_layer_features"
TINY = {"data": "synthetic", "points": 60, "steps": 300, "grid": 20, "images": 200, "epochs": 2}


def test_two_layers_separate_what_a_line_cannot():
    """A line leaves more than a fifth of the points on the wrong side; behind the hidden layer all are on the right."""
    rows = {row["model"]: row for row in tiny(NAME) if row["kind"] == "points"}
    assert rows["linear"]["accuracy"] < 0.8
    assert rows["two_layer"]["accuracy"] == 1
    distance = rows["two_layer"]["view"][0]
    assert max(distance[:60]) < 0 < min(distance[60:])
    assert page(tiny(NAME)).headline.verdict == "held"


def test_the_views_are_one_classifier():
    """Inner products with the templates are the scores; an image is drawn from the numbers of its row."""
    row = tiny(NAME)[-1]
    assert row["difference"] < 1e-4
    assert len(row["templates"]) == 10
    pixels = np.frombuffer(bytes.fromhex(row["templates"][0]), np.uint8)
    assert (len(pixels), pixels.min(), pixels.max()) == (3072, 0, 255)


def test_distances_part_the_decisions():
    """On the plane of scores, the sign of the score is the decision that the accuracy counts."""
    for row in tiny(NAME)[:2]:
        assert len(row["scores"]) == 20
        assert {len(line) for line in row["scores"]} == {20}
    scores = np.array(tiny(NAME)[1]["scores"])
    assert scores[10, 10] < 0 < scores[0, 0]  # disc in the middle, ring outside


def test_the_claims_follow_the_rows():
    """One point on the wrong side turns the verdict and the sentence."""
    rows = tiny(NAME)
    rows[1]["accuracy"] = 119 / 120
    rows[1]["view"][0][0] = 5.0
    shown = page(rows)
    assert shown.headline.verdict == "did not hold"
    assert shown.headline.number == "99.2 %"
    assert "lie on both sides of every plane that was found" in shown.seen[0]


@pytest.mark.parametrize("classes", [(1,), (2, 2), (0, 10)])
def test_classes(classes: tuple[int, ...]):
    """The view of geometry is of two different classes."""
    with pytest.raises(ExperimentError, match="it must be two different numbers from 0 to 9"):
        Options(classes=classes)
