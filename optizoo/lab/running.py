"""Runs that experiments share: images loaded once, minibatches in memory, and training by the lab.

An option ``data: str = DATA`` lets an experiment run on ``"cifar10"``, or on ``"synthetic"``, which needs no images.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy
from torch.optim import Optimizer

from optizoo.lab import data, sources
from optizoo.lab.config import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig
from optizoo.lab.data import Dataset, epoch_order
from optizoo.lab.options import option
from optizoo.lab.page import T, Track
from optizoo.lab.sources import DataError
from optizoo.lab.train import Trained, train, train_runs

__all__ = [
    "DATA",
    "Images",
    "accuracies",
    "batch_loss",
    "curve",
    "dataset",
    "descend",
    "images",
    "measure",
    "minibatches",
    "missing_data",
    "shrunk",
    "source",
    "train_all",
    "train_curve",
]

DATA = option("cifar10", "the images; synthetic ones need no download", choices=("cifar10", "synthetic"))


@dataclass(frozen=True, eq=False)
class Images:
    """A split in memory.

    Attributes:
        x: Standardised pixels, (n, 3 * side * side).
        y: Labels (n,), int64.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def first(self, n: int) -> "Images":
        """Return the first ``n``: a random sample, as splits are in random order."""
        return Images(self.x[:n], self.y[:n])


def missing_data() -> str | None:
    """Return why there are no CIFAR-10 images and how to get them, or ``None`` where there are some."""
    try:
        _root()
    except DataError as error:
        return str(error)
    return None


def source(name: str) -> str:
    """Return in words what :func:`dataset` reads: the JPEG images and the original CIFAR-10 are not the same data."""
    return _root().description if name == "cifar10" else "generated"


def _root() -> sources.Source:
    return sources.find(Path(os.path.expanduser(os.environ.get("OPTIZOO_DATA") or "data")))


@lru_cache(maxsize=2)
def dataset(name: str = "cifar10", train: int | None = None, test: int | None = None) -> Dataset:
    """Load a data set, once in a process.

    Args:
        name: ``"cifar10"`` or ``"synthetic"``.
        train: Number of images to learn from, a random part; by default all.
        test: Number of images to test on, a random part; by default all.

    Raises:
        DataError: There are no images; the message says how to get them.
    """
    return data.load(name, train_size=train, test_size=test)


@lru_cache(maxsize=2)
def images(
    name: str = "cifar10",
    train: int | None = None,
    test: int | None = None,
    *,
    side: int = 32,
    dtype: torch.dtype = torch.float32,
) -> tuple[Images, Images, Images]:
    """Return train, validation and test images as tensors, made once in a process: do not write into them.

    Each channel has mean 0 and standard deviation 1 over the train part at 32 x 32 pixels.

    Args:
        name: As for :func:`dataset`.
        train: As for :func:`dataset`.
        test: As for :func:`dataset`.
        side: Width and height: 32, or a divisor of it, to which means over square blocks shrink the images.
        dtype: A floating-point dtype.

    Raises:
        DataError: There are no images; the message says how to get them.
        ValueError: ``side`` does not divide 32.
    """
    if side < 1 or 32 % side:
        raise ValueError(f"side must divide 32, got {side!r}")
    source = dataset(name, train, test)

    def made(split: data.Split) -> Images:
        x = data.normalise(split.images, source.mean, source.std, dtype)
        if side < 32 and len(x):
            x = avg_pool2d(x.view(-1, 3, 32, 32), 32 // side).flatten(1)
        return Images(x, split.labels)

    return made(source.train), made(source.validation), made(source.test)


def minibatches(split: Images, batch_size: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x, y) without end, every epoch in a new order, a function of ``seed``: paired runs see the same batches.

    The last batch of an epoch has what is left.
    """
    if not 1 <= batch_size <= len(split):
        raise ValueError(f"batch_size must be from 1 to the {len(split)} images, got {batch_size!r}")
    epoch = 0
    while True:
        order = epoch_order(len(split), seed=seed, epoch=epoch)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield split.x.index_select(0, rows), split.y.index_select(0, rows)
        epoch += 1


def rounded(values: Iterable[float], digits: int = 5) -> list[float]:
    """Return numbers as a curve needs them: a record of all their digits would be three times as long.

    >>> rounded([1 / 3, 0.0, 1e-20 / 3])
    [0.33333, 0.0, 3.3333e-21]
    """
    return [float(f"{value:.{digits}g}") for value in values]


def descend(optimizer: Optimizer, loss: Callable[[], Tensor], steps: int) -> Iterator[float]:
    """Make ``steps`` updates, and yield before each the loss at which its gradient is taken.

    The caller may set learning rates, or look at the parameters, between two losses: when a loss is yielded, its update
    has not been made.
    """
    for _ in range(steps):
        value = loss()
        yield value.item()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def batch_loss(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
    """Return a function that gives the mean cross-entropy of the model on the next batch, for :func:`descend`."""

    def loss() -> Tensor:
        x, y = next(batches)
        return cross_entropy(model(x), y)

    return loss


@torch.no_grad()
def measure(model: nn.Module, split: Images) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy (a fraction) on images."""
    scores = model(split.x)
    return cross_entropy(scores, split.y).item(), (scores.argmax(1) == split.y).double().mean().item()


@lru_cache(maxsize=2)
def shrunk(name: str = "cifar10", train: int | None = None, test: int | None = None, *, side: int = 16) -> Dataset:
    """Return the data set of :func:`images`, for training by the lab: standardised, and of ``side`` pixels a side."""
    parts = images(name, train, test, side=side)
    splits = {
        part: data.Split(each.x, each.y) for part, each in zip(("train", "validation", "test"), parts, strict=True)
    }
    return replace(dataset(name, train, test), **splits)


def curve(
    model: str,
    optimizer: str,
    lr: float,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    schedule: str = "constant",
    warmup_steps: int = 0,
    schedule_options: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    **training: Any,
) -> RunConfig:
    """Return a run on the CPU that is evaluated at its end.

    With one ``seed``, all optimizers begin at the same weights and see the same batches: runs are paired.

    Args:
        model: ``"linear"`` or ``"two_layer"``.
        optimizer: A name of :func:`optizoo.list_optimizers`.
        lr: The learning rate.
        options: Further arguments of the optimizer.
        seed: Of initialisation, order of the batches, and dropout.
        schedule: A name of :func:`optizoo.schedules.list_schedules`.
        warmup_steps: Updates in which the rate climbs from 0.
        schedule_options: Arguments of the schedule.
        model_options: Fields of :class:`~optizoo.lab.config.ModelConfig` that this model has.
        **training: Fields of :class:`~optizoo.lab.config.TrainConfig`, such as ``epochs``, ``batch_size``, ``l2``.

    Raises:
        ConfigError: An argument is unknown or out of range.
    """
    return RunConfig(
        seed=seed,
        model=ModelConfig(name=model, **(model_options or {})),
        optimizer=OptimizerConfig(optimizer, lr=lr, options=dict(options or {})),
        schedule=ScheduleConfig(schedule, warmup_steps=warmup_steps, options=dict(schedule_options or {})),
        train=TrainConfig(**{"device": "cpu", "evaluate_every": training.get("epochs", 1), **training}),
    )


def train_curve(source: Dataset, *arguments: Any, **options: Any) -> Trained:
    """Train the run of :func:`curve` in memory, by :func:`optizoo.lab.train.train`.

    Args:
        source: The data.
        *arguments: Of :func:`curve`.
        **options: Likewise.
    """
    return train(curve(*arguments, **options), source, progress=False)


def accuracies(run: Trained) -> dict[str, float | None]:
    """Return the accuracies (fractions) of a run at its end, on ``validation`` and ``test``; of none that diverged."""
    result = run.record.result
    assert result is not None
    return {split: result[f"{split}_accuracy"] for split in ("validation", "test")}


def train_all(
    configs: Sequence[RunConfig], source: Dataset, made: Callable[[int, Trained], T], track: Track, what: str
) -> list[T]:
    """Train runs, those that see the same batches as populations, and return what is made of each, in their order.

    Args:
        configs: The runs.
        source: The data.
        made: Called with the index of a run and what it leaves behind, which is let go of then.
        track: Shows how many populations have been trained.
        what: What it calls them.
    """
    runs = train_runs(configs, source, lambda groups: track(groups, what))
    found = {index: made(index, run) for index, run in runs}
    return [found[index] for index in range(len(configs))]
