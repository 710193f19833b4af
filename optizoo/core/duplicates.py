"""A parameter that stands several times in its group: as many updates, one after the other, as torch makes them."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from optizoo.core.bucket import Bucket

Work = tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]
"""A param group, and its parameters that have gradients, with them."""


def rounds(work: list[Work]) -> Iterable[list[Work]]:
    """Yield the work in rounds in which no parameter stands twice; almost always one.

    An update reads what the one before has written, its count too, so two of one tensor cannot share a launch.
    """
    while work:
        now: list[Work] = []
        later: list[Work] = []
        for group, pairs in work:
            if len({id(param) for param, _ in pairs}) == len(pairs):
                now.append((group, pairs))
                continue
            firsts = {id(param): (param, grad) for param, grad in reversed(pairs)}
            now.append((group, [*reversed(firsts.values())]))
            later.append((group, _without_firsts(pairs)))
        yield now
        work = later


def forget_made(done: Sequence[Bucket], work: Iterable[Work]) -> None:
    """Drop the states that rules have made in earlier rounds of a step, where another update of it follows.

    torch looks before a step which states there are: each of its updates then makes them, and the last one's stay.
    """
    if not done:
        return
    again = {id(param) for _, pairs in work for param, _ in pairs}
    for bucket in done:
        for name in [name for name, exists in bucket.states.items() if not exists]:
            for param, store in zip(bucket.params, bucket.stores, strict=True):
                if id(param) in again:
                    store.pop(name, None)


def _without_firsts(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    seen: set[int] = set()
    return [pair for pair in pairs if id(pair[0]) in seen or seen.add(id(pair[0]))]
