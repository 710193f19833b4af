"""The images of a run: batches to learn from, in the order of every epoch, and the splits that it is judged on."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from optizoo.lab.config import RunConfig
from optizoo.lab.data import Batches, Dataset, Split, epoch_order
from optizoo.lab.train import evaluation

_order = lru_cache(maxsize=2)(epoch_order)  # for a large set it takes some milliseconds


class Feed:
    """What all runs of one config's data, batches and order of them see.

    Attributes:
        batches: The training images.
        validation: The validation images.
        test: The test images; looked at once, when a run has ended.
    """

    def __init__(self, config: RunConfig, dataset: Dataset) -> None:
        settings = config.train
        dtype = getattr(torch, settings.dtype)

        def batches(split: Split, size: int) -> Batches:
            # A step is done with its batch when the next is made; only gradient descent keeps one.
            return Batches(split, dataset.mean, dataset.std, size, dtype, reuse=not settings.full_batch)

        self.seed = config.order_seed
        self.images = len(dataset.train)
        self.batches = batches(dataset.train, self.images if settings.full_batch else settings.batch_size)
        self.validation = batches(dataset.validation, evaluation.BATCH)
        self.test = batches(dataset.test, evaluation.BATCH)
        # Gradient descent sees the same batch at every step: it is normalised once.
        self.whole = next(self.batches.sequential()) if settings.full_batch else None

    def order(self, epoch: int) -> Tensor:
        """Return the order of the images in an epoch."""
        return _order(self.images, seed=self.seed, epoch=epoch)

    def epoch(self, epoch: int, done: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch that are left after ``done`` of them."""
        if self.whole is not None:
            return iter([self.whole][done:])
        return self.batches.epoch(self.order(epoch), done)
