"""The synthetic data set: CIFAR-10's shape, made in about a second, the same on every machine.

An image is the sum of what tells its class and of what does not:

- a smooth pattern, one of two of its class, moved by up to 8 pixels each way (round the edge) and of varying contrast;
- 48 smooth patterns that are common to all classes, mostly grey, the k-th of strength 1/k: like natural images they
  hold about half of all variance in one direction, which makes the problem badly conditioned;
- noise in each pixel. Six labels in a hundred are drawn anew.

A line can see a moved pattern only in part, so a second layer pays; the conditioning is what tells optimizers apart.

All arithmetic is on integers (in float64 where a matrix product needs it, below 2**53, so exact in any order), and the
random numbers are raw bits of PCG64, whose stream NumPy keeps fixed. Nothing depends on the libraries' versions.
"""

from math import prod

import numpy as np
import torch

from optizoo.lab.sources import Content, Split

CLASSES = tuple(f"class {index}" for index in range(10))
PATTERNS = 2
REACH = 8
COMMON = 48
REDRAWN = 6
GREY = 118


def make(train: int, test: int, *, seed: int = 0) -> Content:
    """Return ``train`` and ``test`` images of ten classes; the patterns, and both parts, are functions of the seed.

    >>> make(100, 20, seed=1).train.images.shape
    torch.Size([100, 3, 32, 32])
    """
    bits = np.random.PCG64([seed, 0])
    own = _peak(_blur(_bell(bits, len(CLASSES) * PATTERNS, 3, 32, 32), 5)).astype(np.int8)
    moves = range(-REACH, REACH + 1)
    moved = np.stack([np.roll(own, (dy, dx), (-2, -1)) for dy in moves for dx in moves], 1)
    common = np.empty((COMMON, 3, 32, 32))
    for k in range(COMMON):
        width = max(3, 13 - k // 2)  # strong patterns are coarse, weak ones fine
        common[k] = _peak(2 * _blur(_bell(bits, 1, 32, 32), width) + _blur(_bell(bits, 3, 32, 32), width))
    patterns = moved.reshape(-1, 3072), common.reshape(COMMON, 3072)
    train_split, test_split = (
        _split(np.random.PCG64([seed, part]), n, *patterns) for part, n in ((1, train), (2, test))
    )
    return Content(CLASSES, train_split, test_split)


def _split(bits: np.random.PCG64, n: int, moved: np.ndarray, common: np.ndarray) -> Split:
    labels = _integers(bits, n, 0, len(CLASSES))
    pattern = labels * PATTERNS + _integers(bits, n, 0, PATTERNS)
    move = _integers(bits, n, 0, (2 * REACH + 1) ** 2)
    row = pattern * (2 * REACH + 1) ** 2 + move
    contrast = _integers(bits, n, 4000, 16000)
    strength = _bell(bits, n, COMMON) * (1024 // np.arange(1, COMMON + 1)) // 16
    images = np.empty((n, 3072), np.uint8)
    for start in range(0, n, 500):
        rows = slice(start, start + 500)
        image = moved[row[rows]].astype(np.float64)
        image *= contrast[rows, None]
        image += strength[rows].astype(np.float64) @ common
        image += 2560 * _bell(bits, len(image), 3072)
        # One grey level is 2**14 units. floor, unlike a cast, rounds to one side of zero.
        images[rows] = np.clip(np.floor(image / 2**14) + GREY, 0, 255)
    redrawn = _integers(bits, n, 0, 100) < REDRAWN
    labels = np.where(redrawn, _integers(bits, n, 0, len(CLASSES)), labels)
    return Split(torch.from_numpy(images).view(n, 3, 32, 32), torch.from_numpy(labels))


def _integers(bits: np.random.PCG64, n: int, low: int, high: int) -> np.ndarray:
    """Draw ``n`` integers from ``low`` to ``high - 1``."""
    return (bits.random_raw(n) % np.uint64(high - low)).astype(np.int64) + low


def _bell(bits: np.random.PCG64, *shape: int) -> np.ndarray:
    """Draw integers that are nearly normal: the sum of four random bytes less its mean; standard deviation 148."""
    n = prod(shape)
    raw = bits.random_raw(-(-n // 2)).astype("<u8", copy=False).view(np.uint8)
    return raw[: 4 * n].reshape(4, n).sum(0, dtype=np.int64).reshape(shape) - 510


def _blur(fields: np.ndarray, width: int) -> np.ndarray:
    """Return sums over ``width`` neighbours, round the edge, taken twice along rows and twice along columns."""
    for axis in (-1, -1, -2, -2):
        fields = sum(np.roll(fields, k, axis) for k in range(width))  # type: ignore[assignment]
    return fields


def _peak(fields: np.ndarray) -> np.ndarray:
    """Scale each image to integers with 127 as the largest magnitude."""
    return fields * 127 // np.abs(fields).max(axis=(-3, -2, -1), keepdims=True)
