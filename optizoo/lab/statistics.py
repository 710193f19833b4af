"""Statistics of runs that are paired by their seed: how large a difference is, and whether it is more than chance.

>>> ours, theirs = [0.52, 0.53, 0.51, 0.54, 0.52], [0.50, 0.52, 0.50, 0.51, 0.51]
>>> difference = paired_bootstrap(ours, theirs)
>>> print(f"{difference.mean:.3f}, from {difference.low:.3f} to {difference.high:.3f}")
0.016, from 0.010 to 0.024
>>> sign_flip_test(ours, theirs)  # with five pairs, no smaller one can be had
0.0625
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Interval", "interquartile_mean", "is_significant", "paired_bootstrap", "sign_flip_test"]

MOST_PAIRS = 20  # 2**20 sign patterns are tried in a second


@dataclass(frozen=True)
class Interval:
    """A mean in its confidence interval.

    Attributes:
        mean: The mean.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def has_zero(self) -> bool:
        """Whether zero is in the interval: the difference is then not significant."""
        return self.low <= 0 <= self.high


def paired_bootstrap(
    one: ArrayLike, other: ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Return the mean of ``one[i] - other[i]`` with its percentile bootstrap interval.

    The pairs are drawn again with replacement, ``draws`` times; the interval holds the middle ``level`` of the means
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). With few pairs it is too narrow: five
    give no more than 126 different means.

    Args:
        one: Results, one for each pair.
        other: Those that they are compared with, in the same order.
        level: Share of the means inside, above 0 and below 1.
        draws: Number of samples.
        seed: Of the samples.

    Raises:
        ValueError: The lengths differ, a value is not finite, or an argument is out of range.
    """
    differences = _differences(one, other)
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level!r}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws!r}")
    picked = np.random.default_rng(seed).integers(len(differences), size=(draws, len(differences)))
    means = differences[picked].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def sign_flip_test(one: ArrayLike, other: ArrayLike) -> float:
    """Return the two-sided p-value of the exact paired permutation test.

    If the two are alike, each difference ``one[i] - other[i]`` may as well have the other sign. The value is the share
    of all ``2**n`` patterns of signs whose mean is at least as far from zero as the mean that was seen (Fisher 1935,
    The Design of Experiments, section 21). With n pairs it is never below ``2 / 2**n``.

    Args:
        one: Results, one for each pair.
        other: Those that they are compared with, in the same order.

    Raises:
        ValueError: The lengths differ, a value is not finite, or there are more than 20 pairs.
    """
    differences = _differences(one, other)
    if len(differences) > MOST_PAIRS:
        raise ValueError(f"the exact test takes at most {MOST_PAIRS} pairs, got {len(differences)}")
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    seen = abs(differences.sum())
    rounding = 1e-12 * np.abs(differences).sum()  # sums of the same numbers in another order are ties
    return float(np.mean(np.abs(sums) >= seen - rounding))


def is_significant(one: ArrayLike, other: ArrayLike, *, level: float = 0.95) -> bool:
    """Return whether a difference is more than chance: by the bootstrap, and by the exact test.

    The bootstrap alone is too bold with few pairs, and the exact test alone can never reach 5 % with fewer than six. So
    zero must be outside the interval, and the p-value at most ``1 - level``, or the smallest that the number of pairs
    allows: all differences have then one sign.

    >>> is_significant([0.52, 0.53, 0.51], [0.50, 0.52, 0.50]), is_significant([0.52, 0.53, 0.50], [0.50, 0.50, 0.51])
    (True, False)
    """
    smallest = 2.0 ** (1 - len(_differences(one, other)))
    outside = not paired_bootstrap(one, other, level=level).has_zero
    return outside and sign_flip_test(one, other) <= max(1 - level, smallest)


def interquartile_mean(values: ArrayLike) -> float:
    """Return the mean of the middle half: a quarter of the weight is taken from each end.

    Where a quarter of the number is no whole number, the values at the edges count in part, so that the middle half
    weighs exactly ``n / 2`` (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, section 4.3).

    Raises:
        ValueError: There are no values, or one is not finite.

    >>> interquartile_mean([1.0, 2.0, 3.0, 100.0])
    2.5
    """
    data = np.sort(_finite("values", values))
    edges = np.arange(len(data) + 1, dtype=float)
    inside = np.clip(edges, len(data) / 4, 3 * len(data) / 4)
    return float(np.average(data, weights=np.diff(inside)))


def _differences(one: ArrayLike, other: ArrayLike) -> np.ndarray:
    first, second = _finite("one", one), _finite("other", other)
    if len(first) != len(second):
        raise ValueError(f"one and other must be pairs, got {len(first)} and {len(second)} values")
    return first - second


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or not data.size:
        raise ValueError(f"{name} must hold at least one number, in one dimension, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(f"{name} must be finite, got {data.tolist()}: leave runs that diverged out, with their pairs")
    return data
