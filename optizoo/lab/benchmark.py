"""Benchmarks of the lab: how long an epoch takes, and the results of comparisons that are kept.

An epoch of the lab's loop is timed beside the two loops that people write by hand. All sides train the same model on
the same images with the same kind of optimizer, in one process and in turn, so that a busy machine slows all alike.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import Compose, Normalize, ToTensor

from optizoo.lab import models as model_zoo
from optizoo.lab import report
from optizoo.lab.compare import CompareResult
from optizoo.lab.compare_folder import ENVIRONMENT, is_written_out
from optizoo.lab.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from optizoo.lab.data import Dataset, Split, normalise
from optizoo.lab.files import write
from optizoo.lab.folder import Kind, claim
from optizoo.lab.records import environment
from optizoo.lab.train import populations, resolve_device, train, train_population
from optizoo.tables import text_table
from optizoo.testing import torch_twin

OPTIMIZERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sgd", {"lr": 0.01}),
    ("momentum", {"lr": 0.01}),
    ("rmsprop", {"lr": 1e-4}),
    ("adam", {"lr": 1e-4}),
    ("adamw", {"lr": 1e-4}),
)


class PictureSet(TorchDataset):
    """A split as ``torchvision.datasets.CIFAR10`` serves it: one PIL image at a time, then the transforms."""

    def __init__(self, split: Split, transform: Callable[[Any], Any]):
        self.data = split.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.targets = split.labels.tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    def __len__(self) -> int:
        return len(self.data)


def dataloader_epoch(
    dataset: Dataset, model_name: str, name: str, options: dict[str, Any], batch_size: int, device: str
) -> float:
    """Return the seconds of an epoch of the usual script: ``DataLoader`` without workers, ToTensor, Normalize."""
    mean, std = ([value / 255 for value in values] for values in (dataset.mean, dataset.std))
    pictures = PictureSet(dataset.train, Compose([ToTensor(), Normalize(mean, std)]))
    loader = DataLoader(pictures, batch_size, shuffle=True)
    model = model_zoo.create(model_name, seed=0, classes=len(dataset.classes)).to(device)
    optimizer = torch_twin(name, model, **options)
    start = time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
    _wait(device)
    return time.perf_counter() - start


def in_memory_epoch(
    dataset: Dataset, model_name: str, name: str, options: dict[str, Any], batch_size: int, device: str
) -> float:
    """Return the seconds of the second epoch of a careful hand-written loop over float32 images in memory."""
    images = normalise(dataset.train.images.to(device), dataset.mean, dataset.std)
    labels = dataset.train.labels.to(device)
    model = model_zoo.create(model_name, seed=0, classes=len(dataset.classes)).to(device)
    optimizer = torch_twin(name, model, **options)
    start = 0.0
    for _ in range(2):
        _wait(device)
        start = time.perf_counter()
        order = torch.randperm(len(images), device=device)
        for index in order.split(batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(model(images[index]), labels[index])
            loss.backward()
            optimizer.step()
    _wait(device)
    return time.perf_counter() - start


def lab_epoch(
    dataset: Dataset, model_name: str, name: str, options: dict[str, Any], batch_size: int, device: str
) -> float:
    """Return the seconds of the second epoch of :func:`optizoo.lab.train.train`, schedule and losses included."""
    settings = dict(options)
    config = RunConfig(
        name="benchmark",
        model=ModelConfig(model_name),
        optimizer=OptimizerConfig(name=name, lr=settings.pop("lr"), options=settings),
        train=TrainConfig(epochs=2, batch_size=batch_size, device=device, evaluate_every=2),
    )
    first, second = train(config, dataset, progress=False).record.epochs
    return second["seconds"] - first["seconds"]


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def epoch_benchmark(
    dataset: Dataset,
    *,
    models: Sequence[str] = ("linear",),
    optimizers: Sequence[tuple[str, dict[str, Any]]] = OPTIMIZERS,
    batch_size: int = 128,
    repeats: int = 7,
    device: str = "auto",
) -> dict[str, Any]:
    """Time an epoch of every model on every side and return medians, ratios and the environment.

    The two fast sides are timed in their second epoch, when memory has been allocated and caches are warm. On CUDA the
    lab's has captured its steps in a graph by then.

    Args:
        dataset: Its train split is the epoch.
        models: Names of :func:`optizoo.lab.models.list_models`; two layers have 512 hidden units.
        optimizers: Names and options.
        batch_size: Images in a batch.
        repeats: Of the two fast sides, alternating, after one warm-up; the ``DataLoader`` script runs once for each
            optimizer, between them.
        device: As in :class:`optizoo.lab.config.TrainConfig`.

    Returns:
        ``{"environment", "dataset", "batch_size", "repeats", "rows": [{"model", "optimizer", "lab_s", "in_memory_s",
        "dataloader_s", "in_memory_over_lab", "dataloader_over_lab"}]}``, times in seconds.
    """
    device = str(resolve_device(device))
    rows = []
    for model, (name, options) in itertools.product(models, optimizers):
        arguments = (dataset, model, name, options, batch_size, device)
        for side in (lab_epoch, in_memory_epoch):
            side(*arguments)
        lab, memory = [], []
        for _ in range(repeats):
            lab.append(lab_epoch(*arguments))
            memory.append(in_memory_epoch(*arguments))
        loader = dataloader_epoch(*arguments)
        row: dict[str, Any] = {"model": model, "optimizer": name}
        row |= {"lab_s": statistics.median(lab), "in_memory_s": statistics.median(memory)}
        # The median of the ratios of neighbours in time, which a change of the machine's load touches least.
        row["in_memory_over_lab"] = statistics.median(b / a for a, b in zip(lab, memory, strict=True))
        row |= {"dataloader_s": loader, "dataloader_over_lab": loader / row["lab_s"]}
        rows.append(row)
    return {
        **_measured(dataset, device, batch_size, repeats),
        "rows": rows,
    }


def _measured(dataset: Dataset, device: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Return what the times of a benchmark depend on."""
    return {
        "environment": environment(device),
        "dataset": {"name": dataset.name, "source": dataset.source, "train": len(dataset.train)},
        "batch_size": batch_size,
        "repeats": repeats,
    }


def population_benchmark(
    dataset: Dataset,
    *,
    models: Sequence[str] = ("linear",),
    runs: int = 64,
    optimizers: Sequence[tuple[str, dict[str, Any]]] = OPTIMIZERS,
    batch_size: int = 128,
    repeats: int = 7,
    device: str = "auto",
) -> dict[str, Any]:
    """Time an epoch of many runs as populations and one after the other, and return medians, ratios and environment.

    The runs take the optimizers in turn, at rates of their own. One after the other, one run of each optimizer is timed
    and stands for all of them.

    Args:
        dataset: As for :func:`epoch_benchmark`, and so are the others; two layers have 512 hidden units.
        models: Names of models.
        runs: Number of runs, at least one of each optimizer.
        optimizers: Names and options.
        batch_size: Images in a batch.
        repeats: Of both sides, alternating, after one warm-up.
        device: Where to train.

    Returns:
        ``{"environment", "dataset", "batch_size", "repeats", "runs", "rows": [{"model", "together_s", "alone_s",
        "alone_over_together"}]}``, times of all runs in seconds.
    """
    device, count = str(resolve_device(device)), len(optimizers)
    settings = TrainConfig(epochs=1, batch_size=batch_size, device=device, order_seed=0)
    rows = []
    for model in models:
        configs = [
            RunConfig(
                seed=index,
                model=ModelConfig(model),
                optimizer=OptimizerConfig(name, lr=(1 + index / runs) * options["lr"]),
                train=settings,
            )
            for index, (name, options) in zip(range(runs), itertools.cycle(optimizers), strict=False)
        ]
        together, alone = [], []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            for group in populations(configs):
                train_population([configs[index] for index in group], dataset, progress=False)
            together.append(time.perf_counter() - start)
            start = time.perf_counter()
            for config in configs[:count]:
                train(config, dataset, progress=False)
            alone.append((time.perf_counter() - start) * runs / count)
        ratios = [b / a for a, b in zip(together[1:], alone[1:], strict=True)]
        row = {"model": model, "together_s": statistics.median(together[1:]), "alone_s": statistics.median(alone[1:])}
        rows.append(row | {"alone_over_together": statistics.median(ratios)})
    return {
        **_measured(dataset, device, batch_size, repeats),
        "runs": runs,
        "rows": rows,
    }


def format_populations(result: dict[str, Any]) -> str:
    """Return the result of :func:`population_benchmark` as a table."""
    rows = [["model", "runs", "together [s]", "one by one [s]", "one by one / together"]]
    for row in result["rows"]:
        times = [f"{row[key]:.2f}" for key in ("together_s", "alone_s", "alone_over_together")]
        rows.append([row["model"], str(result["runs"]), *times])
    return text_table(rows, right=range(1, 5))


KEPT = Kind("kept comparison", is_written_out)


def keep_comparison(result: CompareResult, folder: Path) -> None:
    """Copy what a comparison came to into ``folder``: table, rows, config, environment and pictures, but no run.

    Args:
        result: Of :func:`optizoo.lab.compare.compare`.
        folder: Made if it is not there; files of an earlier comparison are replaced.

    Raises:
        FolderError: The folder holds something else.
    """
    claim(folder, KEPT)
    write(folder / "table.txt", result.table + "\n")
    for name in (report.CONFIG, ENVIRONMENT, report.RESULTS, *report.PICTURES):
        if (result.folder / name).exists():
            write(folder / name, (result.folder / name).read_bytes())


def format_epochs(result: dict[str, Any]) -> str:
    """Return the result of :func:`epoch_benchmark` as a table."""
    rows = [["model", "optimizer", "lab [s]", "in memory [s]", "DataLoader [s]", "in memory / lab", "DataLoader / lab"]]
    for row in result["rows"]:
        times = [f"{row['lab_s']:.4f}", f"{row['in_memory_s']:.4f}", f"{row['dataloader_s']:.2f}"]
        ratios = [f"{row['in_memory_over_lab']:.2f}", f"{row['dataloader_over_lab']:.1f}"]
        rows.append([row["model"], row["optimizer"], *times, *ratios])
    return text_table(rows, right=range(2, 7))
