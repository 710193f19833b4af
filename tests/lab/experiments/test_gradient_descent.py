"""Full batch against minibatches."""

import pytest

from optizoo.lab.experiments.gradient_descent import page
from tests.lab.experiments import tiny

NAME = "gradient_descent"
TINY = {
    "data": "synthetic", "images": 200, "batch_sizes": (20, 50), "epochs": 4, "draws": 400, "stop_images": 60,
    "max_steps": 400, "stop_batch": 10, "tolerances": (0.5, 1e-9), "decay": 0.5,
}  # fmt: skip


def test_all_see_as_many_images():
    """Every batch size sees 4 passes over the images from one loss on; the smaller the batch, the more steps."""
    runs = [row for row in tiny(NAME) if row["kind"] == "run"]
    assert [(row["batch_size"], row["steps"]) for row in runs] == [(20, 40), (50, 16), (200, 4)]
    assert {row["seen"][-1] for row in runs} == {800}
    assert len({row["losses"][0] for row in runs}) == 1
    assert all(row["losses"][-1] < row["losses"][0] for row in runs)


def test_noise_is_as_predicted():
    """The noise falls like 1/√B, with the correction for drawing without replacement, and is none for all images."""
    noise = [row for row in tiny(NAME) if row["kind"] == "noise"]
    for row in noise[:-1]:
        assert row["noise"] == pytest.approx(row["predicted"], rel=0.1)
    assert noise[0]["predicted"] / noise[1]["predicted"] == pytest.approx((50 / 20 * 180 / 150) ** 0.5)
    assert noise[-1]["predicted"] == 0
    assert noise[-1]["noise"] < 1e-5 * noise[-1]["gradient"]


def test_only_the_exact_gradient_becomes_short():
    """The exact gradient falls below a tolerance that a minibatch's does not reach; a tiny one stops neither."""
    stops = [row for row in tiny(NAME) if row["kind"] == "stop"]
    assert [row["batch_size"] for row in stops] == [10, 60]
    assert stops[0]["stopped"] == [None, None]
    assert stops[1]["stopped"][0] > 0
    assert stops[1]["stopped"][1] is None


def test_the_verdict_follows_the_rows():
    """The claim holds where every minibatch ends below the full batch, and falls with one that does not."""
    rows = tiny(NAME)
    runs = [row for row in rows if row["kind"] == "run"]
    for loss, row in zip((1.5, 1.6, 2.0), runs, strict=True):
        row["losses"][-1] = loss
    assert (page(rows).headline.number, page(rows).headline.verdict) == ("1.50 against 2.00", "held")
    runs[1]["losses"][-1] = 2.1
    assert page(rows).headline.verdict == "did not hold"
    assert "not every minibatch is below" in page(rows).seen[0]
