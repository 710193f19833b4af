"""What a source of images holds, in memory, and the error of data that cannot be used."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Content", "DataError", "Split", "reading"]

IMAGE_SHAPE = (3, 32, 32)


class DataError(Exception):
    """Data are missing, broken or ambiguous; the message is one line: the file or key, and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: uint8, of shape (n, 3, 32, 32): red, green, blue; rows from the top; 0 to 255. Or standardised values of
            any number, of a floating-point type and shape (n, values).
        labels: int64, of shape (n,): indices into the classes of the data set.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        standardised = self.images.is_floating_point() and self.images.dim() == 2
        if not standardised and (self.images.dtype != torch.uint8 or self.images.shape[1:] != IMAGE_SHAPE):
            raise ValueError(
                f"images must be uint8 of shape (n, 3, 32, 32), got {self.images.dtype} of {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), one for each image, "
                f"got {self.labels.dtype} of {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, index: Tensor) -> "Split":
        """Return a copy of the images at ``index`` (int64), in that order."""
        return Split(self.images.index_select(0, index), self.labels.index_select(0, index))


@dataclass(frozen=True, eq=False)
class Content:
    """All that a source holds, as it stands there: sorted by class, then file name, or in torchvision's order."""

    classes: tuple[str, ...]
    train: Split
    test: Split

    def digest(self) -> str:
        """Return the sha256 of the class names, the labels and the pixels, wherever they were read from."""
        sha = hashlib.sha256(json.dumps([self.classes, len(self.train), len(self.test)]).encode())
        for split in (self.train, self.test):
            sha.update(split.labels.numpy().astype("<i8").data)
            sha.update(split.images.contiguous().numpy().data)
        return sha.hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell what the system says of a file as a :class:`DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or path} ({error.strerror or error}): check its permissions, or copy it again"
        ) from error
