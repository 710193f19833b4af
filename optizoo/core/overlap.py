"""Whether parameters share elements in memory, which would be updated twice."""

from collections.abc import Sequence

import torch
from torch import Tensor


def overlap(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return two views of one storage that have a byte in common, or ``None``."""
    spans = sorted(((*_span(tensor), tensor) for tensor in tensors), key=lambda span: span[:2])
    for index, (first, last, tensor) in enumerate(spans):
        for begin, end, other in spans[index + 1 :]:
            if begin > last:
                break
            taken = torch.zeros(max(last, end) + 1 - first, dtype=torch.bool)
            _bytes(taken, tensor, first).fill_(True)
            if _bytes(taken, other, first).any():
                return tensor, other
    return None


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first and the last byte of a view in its storage."""
    size = tensor.element_size()
    first = size * int(tensor.storage_offset())
    elements = sum(int((length - 1) * stride) for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + size * elements + size - 1


def _bytes(taken: Tensor, tensor: Tensor, first: int) -> Tensor:
    """Return the view of ``taken``, which has a value for each byte from ``first`` on, that ``tensor`` is of memory."""
    size = tensor.element_size()
    strides = [size * stride for stride in tensor.stride()]
    return taken.as_strided((*tensor.shape, size), (*strides, 1), size * tensor.storage_offset() - first)
