"""The benchmarks measure what they say; how fast it is, no test asks."""

from pathlib import Path

import pytest
import torch

from optizoo.lab.benchmark import (
    KEPT,
    PictureSet,
    epoch_benchmark,
    format_epochs,
    format_populations,
    keep_comparison,
    population_benchmark,
)
from optizoo.lab.compare import compare
from optizoo.lab.config import compare_from_dict
from optizoo.lab.data import load, normalise
from optizoo.lab.folder import FolderError


@pytest.fixture(scope="module")
def dataset():
    return load("synthetic", train_size=96, validation=0, test_size=10)


def test_every_side_sees_the_same_images(dataset):
    """A picture of the ``DataLoader`` side, before its transforms, has the pixels of the split, and its label."""
    pictures = PictureSet(dataset.train, lambda picture: picture)
    for index in (0, 17, 95):
        picture, label = pictures[index]
        pixels = torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
        assert torch.equal(pixels, dataset.train.images[index])
        assert label == dataset.train.labels[index]
    assert len(pictures) == 96


def test_transforms_normalise_as_the_lab_does(dataset):
    """ToTensor and Normalize give the values of :func:`normalise`, to the rounding of float32."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    mean, std = ([value / 255 for value in values] for values in (dataset.mean, dataset.std))
    image, _ = PictureSet(dataset.train, Compose([ToTensor(), Normalize(mean, std)]))[3]
    expected = normalise(dataset.train.images[3:4], dataset.mean, dataset.std)
    torch.testing.assert_close(image.reshape(1, -1), expected, rtol=1e-5, atol=1e-5)


def test_rows_and_ratios(dataset):
    """A row has the times of all sides in seconds, and ratios above 1 where the lab is faster."""
    names = ["linear", "two_layer"]
    result = epoch_benchmark(
        dataset, models=names, optimizers=[("adam", {"lr": 1e-4})], batch_size=32, repeats=1, device="cpu"
    )
    assert [(row["model"], row["optimizer"]) for row in result["rows"]] == [(name, "adam") for name in names]
    for row in result["rows"]:
        assert row["dataloader_over_lab"] == row["dataloader_s"] / row["lab_s"]
        assert row["in_memory_over_lab"] == row["in_memory_s"] / row["lab_s"]
        assert row["model"] in format_epochs(result)
    assert result["environment"]["torch"] == torch.__version__


@pytest.mark.usefixtures("unpainted")
def test_a_kept_comparison_has_results_but_no_runs(tmp_path):
    """Table, rows, config, environment and pictures are kept, the records of the runs are not."""
    config = compare_from_dict(
        {
            "name": "tiny",
            "data": {"name": "synthetic", "train_size": 64, "validation": 16, "test_size": 16},
            "train": {"epochs": 1, "device": "cpu"},
            "optimizers": [{"name": "sgd"}],
        }
    )
    result = compare(config, tmp_path / "run", progress=False)
    keep_comparison(result, tmp_path / "kept")
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {"table.txt", "config.json", "environment.json", "results.jsonl", "training_loss.png"} <= kept
    assert "cells" not in kept
    assert (tmp_path / "kept" / "table.txt").read_text(encoding="utf-8").strip() == result.table
    keep_comparison(result, tmp_path / "kept")
    with pytest.raises(FolderError, match="holds files but no kept comparison"):
        keep_comparison(result, Path(__file__).parent)


@pytest.mark.parametrize("name", ["cifar10_linear", "cifar10_two_layer", "cifar10_schedules"])
def test_the_kept_comparisons_of_the_project_can_be_replaced(name):
    """What lies under ``benchmarks/`` is recognised as kept by this project."""
    assert KEPT.recognised(Path(__file__).parents[2] / "benchmarks" / name)


def test_populations_are_timed_beside_runs_alone(dataset):
    """A row has the seconds of all runs on both sides, and how many times longer they take one after the other."""
    result = population_benchmark(dataset, models=["linear"], runs=6, repeats=1, batch_size=32, device="cpu")
    (row,) = result["rows"]
    assert (row["model"], result["runs"]) == ("linear", 6)
    assert row["alone_over_together"] == row["alone_s"] / row["together_s"] > 0
    assert "one by one / together" in format_populations(result)
