"""Whether parameters share elements in memory, which would be updated twice.

A view is the offset of its first byte and a list of (stride, length). Thousands of views of one storage are common (a
flat buffer cut in pieces, the columns of a matrix), so nothing here looks at elements, and few views are compared in
pairs. What would take long to find out counts as disjoint: an alarm is never false, and silence is almost always right.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

_STEPS = 20_000, 20
"""Steps of a search that a storage is worth, and those for each of its views; a step takes a microsecond or two."""


class _View(NamedTuple):
    """Bytes of a storage: ``first + sum(index * stride)`` for all indices below the lengths; smallest stride first."""

    first: int
    last: int
    dims: tuple[tuple[int, int], ...]
    tensor: Tensor


def overlap(tensors: Iterable[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return two tensors that have a byte in common, or ``None``; the same tensor may be given twice."""
    sharing: dict[int, list[Tensor]] = {}
    for tensor in {id(tensor): tensor for tensor in tensors}.values():
        if type(tensor) in _KINDS and tensor.layout is torch.strided:
            address = tensor.untyped_storage().data_ptr()
            if address:  # tensors without memory (meta, empty) have 0
                sharing.setdefault(address, []).append(tensor)
    for views in sharing.values():
        if (
            len(views) > 1
            and not _in_a_row(views)
            and (pair := _first_pair([_view(view) for view in views if view.numel()]))
        ):
            return pair
    return None


_KINDS = (torch.nn.Parameter, Tensor)


def _in_a_row(tensors: Sequence[Tensor]) -> bool:
    """Return whether the tensors are pieces of memory without holes, one after the other: a cheap look at the usual."""
    spans = []
    for tensor in tensors:
        if not tensor.is_contiguous():
            return False
        size = tensor.element_size()
        begin = size * int(tensor.storage_offset())
        spans.append((begin, begin + size * tensor.numel()))
    spans.sort()
    return all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def _view(tensor: Tensor) -> _View:
    size = tensor.element_size()
    first = size * int(tensor.storage_offset())
    dims: list[tuple[int, int]] = [(1, size)]
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length == 1 or stride == 0:
            continue
        inner, count = dims[-1]
        if size * stride == inner * count:  # it goes on where the dimension inside ends
            dims[-1] = inner, count * length
        else:
            dims.append((size * stride, length))
    last = first + sum(stride * (length - 1) for stride, length in dims)
    return _View(first, last, tuple(dims), tensor)


def _first_pair(views: list[_View]) -> tuple[Tensor, Tensor] | None:
    steps = iter(range(_STEPS[0] + _STEPS[1] * len(views)))
    for crowd in _crowds(views):
        crowd.sort(key=lambda view: view.first)
        for index, view in enumerate(crowd):
            for other in crowd[index + 1 :]:
                if other.first > view.last:
                    break
                if _meet(view, other, steps):
                    return view.tensor, other.tensor
                if next(steps, None) is None:
                    return None
    return None


def _crowds(views: list[_View]) -> Iterable[list[_View]]:
    """Part the views until none of the parts can be told apart by ranges of bytes, or of remainders, any more."""
    waiting = [views]
    worth = _STEPS[0] + _STEPS[1] * len(views)
    while waiting and worth > 0:
        crowd = waiting.pop()
        if len(crowd) == 1:
            continue
        worth -= len(crowd)
        parts = next((parts for parts in _partings(crowd) if len(parts) > 1), None)
        if parts is None:
            yield crowd
        else:
            waiting += parts


def _partings(crowd: Sequence[_View]) -> Iterable[list[list[_View]]]:
    yield _apart(crowd, [(view.first, view.last) for view in crowd])
    # Below a stride s lies a piece of each view; the pieces repeat at multiples of the larger strides' divisor.
    for stride in sorted({stride for view in crowd[:8] for stride, _ in view.dims if stride > 1})[:8]:
        modulus = math.gcd(*(other for view in crowd for other, _ in view.dims if other >= stride))
        if modulus == 1:
            continue
        ranges = []
        for view in crowd:
            begin = view.first % modulus
            ranges.append((begin, begin + sum(inner * (length - 1) for inner, length in view.dims if inner < stride)))
        yield _apart(crowd, ranges, modulus)


def _apart(crowd: Sequence[_View], ranges: Sequence[tuple[int, int]], modulus: int = 0) -> list[list[_View]]:
    """Return the parts of a crowd whose ranges touch each other, on a line or, with a modulus, on a circle."""
    furthest = max(end for _, end in ranges)
    wraps = bool(modulus) and furthest >= modulus
    reach = furthest - modulus if wraps else -1
    parts: list[list[_View]] = [[]]
    for index in sorted(range(len(crowd)), key=ranges.__getitem__):
        begin, end = ranges[index]
        if begin > reach:
            parts.append([])
        parts[-1].append(crowd[index])
        reach = max(reach, end)
    if wraps and len(parts) > 1:  # what reaches around the circle stands in the last part, and touches the first
        parts[0] += parts.pop()
    return [part for part in parts if part]


def _meet(one: _View, other: _View, steps: Iterator[int]) -> bool:
    """Return whether two views have a byte in common; ``False`` where ``steps`` end before that is found out.

    They have one where ``sum(stride * number)`` is the distance of their first bytes, for a number within the range of
    each stride. Larger strides decide first: what the smaller ones can reach leaves few numbers for them.
    """
    ranges: dict[int, list[int]] = {}
    for stride, length in one.dims:
        ranges.setdefault(stride, [0, 0])[1] += length - 1
    for stride, length in other.dims:
        ranges.setdefault(stride, [0, 0])[0] -= length - 1
    terms = [(stride, *ranges[stride]) for stride in sorted(ranges, reverse=True)]
    # What the terms from a place on can reach, and what divides all that they reach.
    rest = [(0, 0, 0)]
    for stride, low, high in reversed(terms):
        least, most, divisor = rest[-1]
        rest.append((least + stride * low, most + stride * high, math.gcd(divisor, stride)))
    rest.reverse()
    waiting = [(0, other.first - one.first)]
    while waiting and next(steps, None) is not None:
        place, distance = waiting.pop()
        least, most, divisor = rest[place]
        if not least <= distance <= most or (divisor and distance % divisor):
            continue
        if place == len(terms):
            return True
        stride, low, high = terms[place]
        least, most, _ = rest[place + 1]
        low, high = max(low, -((most - distance) // stride)), min(high, (distance - least) // stride)
        waiting += [(place + 1, distance - stride * number) for number in range(low, min(high, low + _STEPS[0]) + 1)]
    return False
