"""Data sets in memory, and batches of them gathered and normalised on the device.

    >>> data = load("synthetic", train_size=256, validation=64, test_size=64)
    >>> batches = Batches(data.train, data.mean, data.std, batch_size=128)
    >>> for images, labels in batches.epoch(epoch_order(len(data.train), seed=0, epoch=0)):
    ...     print(tuple(images.shape), images.dtype, tuple(labels.shape))
    (128, 3072) torch.float32 (128,)
    (128, 3072) torch.float32 (128,)

Images stay uint8 until a batch needs them. The order of an epoch is a function of two integers, so a run is resumed in
the middle of an epoch from (seed, epoch, batch) alone.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optizoo.core.names import did_you_mean
from optizoo.lab import cache as image_cache
from optizoo.lab import sources, synthetic
from optizoo.lab.limits import lacking
from optizoo.lab.sources import Content, DataError, Split

__all__ = ["Batches", "DataError", "Dataset", "Split", "epoch_order", "load", "normalise"]

# Sizes where the caller names none. CIFAR-10's train and test sizes are what its source holds.
VALIDATION_SIZES = {"cifar10": 5000, "synthetic": 1000}
SYNTHETIC_SIZES = {"train_size": 5000, "test_size": 2000}

# Independent streams of random numbers from one seed.
SPLIT_STREAM, SUBSET_STREAM, EPOCH_STREAM = range(3)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split and ready.

    Attributes:
        name: The name it was loaded by.
        source: What was read, in words: the JPEG images and the original pickles of CIFAR-10 are not the same data.
        classes: Class names; labels are indices into them.
        train: The images to learn from.
        validation: The images to tune on; may be empty.
        test: The images to report on.
        mean: Mean of red, green and blue over the train split, in grey levels from 0 to 255.
        std: Their standard deviations (divisor n), likewise.
        digest: The sha256 of classes, labels and pixels of the whole source, before it is split.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    digest: str

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data set with its images and labels on ``device``."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


def load(
    name: str,
    *,
    root: str | Path | None = None,
    cache: str | Path | None = None,
    validation: int | None = None,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    download: bool = False,
) -> Dataset:
    """Load a data set by name.

    ``"cifar10"`` is read from ``root``: see :func:`optizoo.lab.sources.find` for what that may hold and what is
    preferred. The first time its images are decoded, which takes some seconds; later they come from a cache file, of
    which every byte is checked (:func:`optizoo.lab.cache.decoded`). ``"synthetic"`` is made from the seed
    (:mod:`optizoo.lab.synthetic`). Neither ever stands in for the other.

    Args:
        name: ``"cifar10"`` or ``"synthetic"``.
        root: Folder or archive of CIFAR-10; by default ``$OPTIZOO_DATA``, else ``./data``.
        cache: Folder of the cache; by default ``$OPTIZOO_CACHE``, else ``$XDG_CACHE_HOME/optizoo``, else
            ``~/.cache/optizoo``.
        validation: Number of images taken from the train part for validation, by a permutation that is a function of
            the seed and not of the labels; by default 5000 of CIFAR-10, 1000 of the synthetic set (which makes that
            many more). 0 takes none.
        seed: At least 0.
        train_size: Number of images to learn from: of CIFAR-10 a random part of those that validation leaves, by
            default all; of the synthetic set by default 5000.
        test_size: Number of images to test on: of CIFAR-10 a random part, by default all; of the synthetic set by
            default 2000.
        download: Read the original CIFAR-10 through torchvision, which downloads what is not in ``root`` or is damaged.

    Raises:
        DataError: The name is unknown, a size does not fit, or the data are missing, broken or ambiguous.
    """
    if name not in VALIDATION_SIZES:
        raise DataError(f"unknown data set {name!r}: {did_you_mean(name, VALIDATION_SIZES)}")
    _check_size("seed", seed)
    validation = VALIDATION_SIZES[name] if validation is None else _check_size("validation", validation)
    for key, size in (("train_size", train_size), ("test_size", test_size)):
        if size is not None:
            _check_size(key, size, minimum=1)
    if name == "synthetic":
        train_size = train_size or SYNTHETIC_SIZES["train_size"]
        if words := lacking(3072 * (train_size + validation + (test_size or SYNTHETIC_SIZES["test_size"]))):
            raise DataError(f"train_size = {train_size}, validation and test_size take {words}: make them smaller")
        content = synthetic.make(train_size + validation, test_size or SYNTHETIC_SIZES["test_size"], seed=seed)
        source, digest = f"generated from seed {seed}", content.digest()
    else:
        root = Path(os.path.expanduser(root or os.environ.get("OPTIZOO_DATA") or "data"))
        source, content, digest = _cifar10(root, cache, download)
    train, held_out, test = _split(content, validation, seed, train_size, test_size)
    mean, std = _moments(train.images)
    return Dataset(name, source, content.classes, train, held_out, test, mean, std, digest)


def epoch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of the ``n`` images in an epoch: an int64 permutation on the CPU.

    It is a pure function of its arguments, the same on every device, machine and version of the libraries, and touches
    no random state of theirs.

    >>> epoch_order(8, seed=0, epoch=0).tolist()
    [0, 4, 6, 3, 5, 7, 1, 2]

    Raises:
        ValueError: An argument is negative.
    """
    return _permutation(n, seed, EPOCH_STREAM, epoch)


def normalise(
    images: Tensor,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return ``(images - mean) / std`` for each channel, as (b, 3072).

    Computed as ``(images - mean) * (1 / std)``, in float32 at least and rounded once to ``dtype``; bit-identical to
    what :class:`Batches` yields.

    Args:
        images: uint8, (b, 3, 32, 32) or (b, 3072), on any device.
        mean: For each channel, in grey levels from 0 to 255.
        std: Likewise.
        dtype: A floating-point dtype.

    Raises:
        ValueError: ``images`` are not uint8, or ``dtype`` is not floating-point.

    >>> grey = torch.full((1, 3, 32, 32), 150, dtype=torch.uint8)
    >>> normalise(grey, (100.0, 125.0, 150.0), (25.0, 25.0, 25.0))[0, ::1024]
    tensor([2., 1., 0.])
    """
    return _normalise(images.flatten(1), *_coefficients(mean, std, dtype, images.device), dtype)


class Batches:
    """Mini-batches of a split, gathered and normalised where the split lives.

    Each batch is a fresh tensor, which autograd may keep, unless ``reuse`` says otherwise.

    Args:
        split: The images; move it to the device first. Those of a floating-point type are standardised already, of any
            size, and only gathered.
        dataset_mean: Mean of each channel over the *train* split, in grey levels from 0 to 255.
        dataset_std: Likewise the standard deviation.
        batch_size: Images in a batch; a larger number than the split holds gives one batch of them all.
        dtype: Floating-point dtype of the images.
        drop_last: Leave out the last batch of an epoch if it is not full.
        reuse: Write the images of every batch over those of the one before, for loops that are done with it when they
            ask for the next.

    Raises:
        ValueError: ``batch_size`` is not positive, ``drop_last`` leaves nothing, or ``dtype`` is not floating-point.
    """

    # Gathering and normalising 128 of 45 000 images, measured on 2 cores (1 core), torch 2.15, in microseconds:
    #   index_select of uint8, .float(), sub_, mul_             84 (181)   this one
    #   the same with addcmul, or with div_ for mul_        90-113 (236)
    #   index_select of a float32 copy of the whole split       84 (185)   no faster, at 4 times the memory
    #   indexing with [] instead: of uint8, of float32    164-224 (321-437)
    #   per-channel broadcasting instead of rows of 3072        87 (187)
    #   eight batches at a time, then split                    129 (260)   they leave the cache
    # Inside a training loop, between whose steps memory goes back to the system, a reused buffer saves far more than
    # that: no page faults (52 a step without), and 234 instead of 271 ms for an epoch of the linear model.

    def __init__(
        self,
        split: Split,
        dataset_mean: tuple[float, float, float],
        dataset_std: tuple[float, float, float],
        batch_size: int,
        dtype: torch.dtype = torch.float32,
        drop_last: bool = False,
        reuse: bool = False,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer, at least 1, got {batch_size!r}")
        if drop_last and batch_size > len(split):
            raise ValueError(
                f"batch_size={batch_size} with drop_last=True leaves no batch of {len(split)} images: make it smaller"
            )
        self.split = split
        self.batch_size = batch_size
        self.dtype = dtype
        self.drop_last = drop_last
        self._coefficients = _coefficients(dataset_mean, dataset_std, dtype, split.images.device)
        self._images = split.images.flatten(1)
        self._buffer: Tensor | None = None
        if reuse:
            self._buffer = self._images.new_empty(
                (min(batch_size, len(split)), self._images.shape[1]), dtype=self._coefficients[0].dtype
            )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 ``images`` as a batch has them: see :func:`normalise`."""
        return _normalise(images.flatten(1), *self._coefficients, self.dtype)

    def epoch(self, order: Tensor, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over (images (b, values), labels (b,)) in the given order.

        Args:
            order: A permutation of the split: :func:`epoch_order`.
            start: The first batch to yield, from 0. The batches are bit-identical whatever it is.

        Raises:
            ValueError: ``order`` has another length than the split, or ``start`` is beyond the last batch.
        """
        if order.shape != (len(self.split),):
            raise ValueError(f"order must name {len(self.split)} images, one for each of the split, got {len(order)}")
        if not 0 <= start <= len(self):
            raise ValueError(f"start must be from 0 to {len(self)}, the number of batches, got {start}")
        end = len(self) * self.batch_size  # beyond the split if the last batch is not full
        return self._in_order(order[start * self.batch_size : end].to(self._images.device))

    def gather(self, rows: Tensor) -> Tensor:
        """Return the images at ``rows`` (int64, on their device), normalised: (b, 3072), at most ``batch_size``."""
        if self._images.is_floating_point() and self._buffer is not None and self._buffer.dtype == self._images.dtype:
            return torch.index_select(self._images, 0, rows, out=self._buffer[: len(rows)])
        return self._batch(self._images.index_select(0, rows))

    def sequential(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over every image, in the order of the split; the last batch is never dropped."""
        for start in range(0, len(self.split), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self._batch(self._images[rows]), self.split.labels[rows]

    def _in_order(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        labels = self.split.labels.index_select(0, order)
        for start in range(0, len(order), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self.gather(order[rows]), labels[rows]

    def _batch(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return images.to(self.dtype)
        buffer = self._buffer
        if buffer is not None and len(buffer) != len(images):
            buffer = buffer[: len(images)]
        return _normalise(images, *self._coefficients, self.dtype, buffer)


def _cifar10(root: Path, cache: str | Path | None, download: bool) -> tuple[str, Content, str]:
    source = sources.Source("torchvision", sources.home(root)) if download else sources.find(root)
    try:
        return source.description, *image_cache.decoded(source, cache)
    except DataError:  # nothing is there, or it is damaged
        if not download:
            raise
        sources.read_torchvision(source.path, download=True)
    return source.description, *image_cache.decoded(source, cache)


def _split(
    content: Content, validation: int, seed: int, train_size: int | None, test_size: int | None
) -> tuple[Split, Split, Split]:
    """Return train, validation and test; a smaller train split leaves the validation split as it is."""
    order = _permutation(len(content.train), seed, SPLIT_STREAM)
    left = len(order) - validation
    if left < (train_size or 1):
        raise DataError(
            f"validation = {validation} leaves {max(left, 0)} of {len(order)} images to train on, "
            f"and train_size = {train_size} asks for more: make one of them smaller"
        )
    test = content.test
    if test_size is not None and test_size != len(test):
        if test_size > len(test):
            raise DataError(f"test_size = {test_size}, but there are {len(test)} test images: make it smaller")
        test = test.select(_permutation(len(test), seed, SUBSET_STREAM)[:test_size])
    held_out, rest = order[:validation], order[validation:][:train_size]
    return content.train.select(rest), content.train.select(held_out), test


def _permutation(n: int, *key: int) -> Tensor:
    """Sort ``n`` numbers of 64 random bits: NumPy keeps the bits of PCG64 fixed, but not what it makes of them."""
    if min(n, *key) < 0:
        raise ValueError(f"n, seed and epoch must be at least 0, got n={n}, seed={key[0]}, epoch={key[-1]}")
    return torch.from_numpy(np.argsort(np.random.PCG64(key).random_raw(n)))


def _moments(images: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of each channel, from exact integer sums."""
    levels = torch.arange(256)
    mean, std = [], []
    for channel, name in enumerate(("red", "green", "blue")):
        # bincount uses one thread, 40 ms a channel; sums in chunks are no faster, and stall on cores that are shared.
        counts = torch.bincount(images[:, channel].flatten(), minlength=256)
        n, total, squares = (int((counts * levels**power).sum()) for power in (0, 1, 2))
        variance = (squares * n - total**2) / n**2
        if variance == 0:
            raise DataError(f"the {name} channel of all {len(images)} train images is one constant: check the images")
        mean.append(total / n)
        std.append(math.sqrt(variance))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _coefficients(
    mean: tuple[float, float, float], std: tuple[float, float, float], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and 1/std of each of the 3072 values of an image."""
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    dtype = torch.promote_types(dtype, torch.float32)
    pixels = (torch.tensor(values, dtype=torch.float64) for values in (mean, [1 / s for s in std]))
    low, scale = (values.to(device, dtype).repeat_interleave(32 * 32) for values in pixels)
    return low, scale


def _normalise(images: Tensor, mean: Tensor, scale: Tensor, dtype: torch.dtype, buffer: Tensor | None = None) -> Tensor:
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, grey levels from 0 to 255, got {images.dtype}")
    # Three plain kernels, each rounded for itself: a fused one may round differently at the end of a vector register.
    images = images.to(mean.dtype) if buffer is None else buffer.copy_(images)
    return images.sub_(mean).mul_(scale).to(dtype)


def _check_size(key: str, value: int, minimum: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise DataError(f"{key} must be an integer, at least {minimum}, got {value!r}")
    return value
