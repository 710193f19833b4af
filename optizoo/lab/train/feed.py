"""The images of a run: batches to learn from, in the order of every epoch, and the splits that it is judged on."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from optizoo.lab.config import RunConfig
from optizoo.lab.data import Batches, Dataset, Split, epoch_order
from optizoo.lab.train import evaluation
from optizoo.lab.train.distributed import ALONE, Group

_order = lru_cache(maxsize=2)(epoch_order)  # for a large set it takes some milliseconds


class Feed:
    """What all runs of one config's data, batches and order of them see.

    Args:
        config: One of the runs.
        dataset: The images.
        group: The processes that share every batch; each gets its part, which differ by an image at most.

    Attributes:
        batches: The training images.
        validation: The validation images.
        test: The test images; looked at once, when a run has ended.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, group: Group = ALONE) -> None:
        settings = config.train
        dtype = getattr(torch, settings.dtype)

        def batches(split: Split, size: int) -> Batches:
            # A step is done with its batch when the next is made; only gradient descent keeps one.
            return Batches(split, dataset.mean, dataset.std, size, dtype, reuse=not settings.full_batch)

        self.group = group
        self.seed = config.order_seed
        self.images = len(dataset.train)
        self.inputs = dataset.train.images[:1].numel()
        self.batches = batches(dataset.train, self.images if settings.full_batch else settings.batch_size)
        self.validation = batches(dataset.validation, evaluation.BATCH)
        self.test = batches(dataset.test, evaluation.BATCH)
        # Gradient descent sees the same batch at every step: it is normalised once.
        self.whole = self._part(torch.arange(self.images)) if settings.full_batch else None

    def order(self, epoch: int) -> Tensor:
        """Return the order of the images in an epoch."""
        return _order(self.images, seed=self.seed, epoch=epoch)

    def epoch(self, epoch: int, done: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch that are left after ``done`` of them."""
        if self.whole is not None:
            return iter([self.whole][done:])
        if self.group.count == 1:
            return self.batches.epoch(self.order(epoch), done)
        return map(self._part, self.order(epoch).split(self.batches.batch_size)[done:])

    def size(self, index: int) -> int:
        """Return the number of images in a batch of an epoch, those of all processes."""
        return min(self.batches.batch_size, self.images - index * self.batches.batch_size)

    def _part(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what this process sees of a batch."""
        labels = self.batches.split.labels
        own = rows.tensor_split(self.group.count)[self.group.rank].to(labels.device)
        return self.batches.gather(own), labels[own]
