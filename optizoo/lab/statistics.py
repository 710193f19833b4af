"""Statistics of runs that are paired by their seed: how large a difference is, and whether it is more than chance.

>>> ours, theirs = [0.52, 0.53, 0.51, 0.54, 0.52], [0.50, 0.52, 0.50, 0.51, 0.51]
>>> difference = paired_bootstrap(ours, theirs)
>>> print(f"{difference.mean:.3f}, from {difference.low:.3f} to {difference.high:.3f}")
0.016, from 0.010 to 0.024
>>> sign_flip_test(ours, theirs)  # with five pairs, no smaller one can be had
0.0625
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Interval",
    "Standing",
    "expected_best",
    "holm",
    "interquartile_mean",
    "is_significant",
    "paired_bootstrap",
    "paired_interval",
    "paired_p_value",
    "sign_flip_test",
    "standings",
    "verdict",
]

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


# Standings: which of several are better, and which cannot be told apart -----------------------------------------------


@dataclass(frozen=True)
class Standing:
    """Where one of several stands that were measured at the same seeds.

    Attributes:
        label: What it is.
        values: Its results by seed; runs that diverged are left out.
        diverged: Number of runs that diverged.
        mean: Mean of the values; ``None`` without one.
        std: Their sample standard deviation; ``None`` for fewer than two.
        behind: How far it is behind the best, paired by seed, with its 95 % interval; ``None`` for the best itself, and
            for fewer than two pairs.
        groups: Letters: two that share one cannot be told apart. Empty where a run diverged.
    """

    label: str
    values: dict[int, float]
    diverged: int
    mean: float | None
    std: float | None
    behind: Interval | None
    groups: str


def paired_interval(one: ArrayLike, other: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the mean of ``one[i] - other[i]`` with Student's interval, for two pairs or more.

    >>> paired_interval([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])
    Interval(mean=2.0, low=2.0, high=2.0)
    """
    differences = _differences(one, other)
    if len(differences) < 2:
        raise ValueError(f"an interval takes at least two pairs, got {len(differences)}")
    from scipy.stats import t

    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / len(differences) ** 0.5
    reach = float(t.ppf((1 + level) / 2, len(differences) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def paired_p_value(one: ArrayLike, other: ArrayLike) -> float:
    """Return the two-sided p-value of the paired t-test; 1 for fewer than two pairs.

    >>> paired_p_value([1.0, 2.0], [1.0, 2.0]), paired_p_value([3.0, 4.0], [1.0, 2.0])
    (1.0, 0.0)
    """
    differences = _differences(one, other)
    if len(differences) < 2 or not differences.any():
        return 1.0
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    if error <= 1e-12 * abs(differences.mean()):
        return 0.0
    from scipy.stats import t

    return float(2 * t.sf(abs(differences.mean()) / error, len(differences) - 1))


def holm(p_values: ArrayLike) -> list[float]:
    """Return the p-values of several tests, corrected for their number (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    corrected = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    result = np.empty_like(values)
    result[order] = corrected
    return result.tolist()


def standings(
    values: Mapping[str, Mapping[int, float]], diverged: Mapping[str, int] | None = None, *, level: float = 0.95
) -> list[Standing]:
    """Return where each stands, the best mean first; those with a run that diverged come last.

    Every two are held against each other by a paired t-test on the seeds that both have. The p-values are corrected for
    the number of tests (Holm), and groups of those that cannot be told apart get a letter each, ``a`` that of the best.

    Args:
        values: For each label its results by seed; the larger the better.
        diverged: Number of runs that diverged, where there were any.
        level: One minus the chance that any two are told apart that are alike.

    >>> one, two = {0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.3, 1: 0.41, 2: 0.5}
    >>> [(each.label, each.groups) for each in standings({"two": two, "one": one, "uno": one})]
    [('one', 'a'), ('uno', 'a'), ('two', 'b')]
    """
    lost = diverged or {}
    means = {label: float(np.mean([*each.values()])) if each else None for label, each in values.items()}
    order = sorted(values, key=lambda label: (lost.get(label, 0) > 0, -(means[label] or 0.0), means[label] is None))
    sound = [label for label in order if values[label] and not lost.get(label)]
    pairs = list(combinations(sound, 2))
    p_values = holm([paired_p_value(*_common(values[one], values[other])) for one, other in pairs])
    apart = {pair for pair, p in zip(pairs, p_values, strict=True) if p < 1 - level}
    letters = _letters(sound, apart)
    found = []
    for label in order:
        own = [*values[label].values()]
        both = _common(values[sound[0]], values[label]) if sound and label != sound[0] else ([], [])
        behind = paired_interval(*both, level=level) if len(both[0]) > 1 else None
        std = float(np.std(own, ddof=1)) if len(own) > 1 else None
        found.append(
            Standing(label, dict(values[label]), lost.get(label, 0), means[label], std, behind, letters.get(label, ""))
        )
    return found


def verdict(standings: Sequence[Standing], what: str = "mean test accuracy") -> str:
    """Return in a sentence who is best, if anybody is: what noise may have put first is said to be a tie.

    >>> one, two = {0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.3, 1: 0.41, 2: 0.5}
    >>> verdict(standings({"one": one, "two": two}))
    'one is best in mean test accuracy: 60.00 %, paired by 3 seeds.'
    >>> verdict(standings({"one": one, "uno": one, "two": two}))
    'one and uno cannot be told apart at the top: mean test accuracy 60.00 % to 60.00 %, paired by 3 seeds.'
    """
    sound = [each for each in standings if each.groups and each.mean is not None]
    if not sound:
        return f"No {what}: every optimizer diverged or has no result."
    best = sound[0]
    seeds = f"paired by {len(best.values)} seeds"
    if len(sound) > 1 and len(best.values) < 2:
        return f"{best.label} has the highest {what}, {100 * (best.mean or 0):.2f} %; one seed tells nothing apart."
    tied = [each for each in sound if {*each.groups} & {*best.groups}]
    if len(tied) == 1:
        return f"{best.label} is best in {what}: {100 * (best.mean or 0):.2f} %, {seeds}."
    low = min(each.mean or 0 for each in tied)
    names = ", ".join(each.label for each in tied[:-1]) + f" and {tied[-1].label}"
    return (
        f"{names} cannot be told apart at the top: {what} {100 * low:.2f} % to {100 * (best.mean or 0):.2f} %, {seeds}."
    )


def expected_best(values: Sequence[float]) -> list[float]:
    """Return the expected best of k of the values, drawn without replacement, for k = 1 to all of them.

    >>> expected_best([0.0, 1.0, 2.0])
    [1.0, 1.6666666666666667, 2.0]
    """
    data, n = sorted(values), len(values)
    return [sum(comb(i, k - 1) * data[i] for i in range(k - 1, n)) / comb(n, k) for k in range(1, n + 1)]


def _common(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[list[float], list[float]]:
    seeds = sorted({*one} & {*other})
    return ([one[seed] for seed in seeds], [other[seed] for seed in seeds]) if seeds else ([0.0], [0.0])


def _letters(order: Sequence[str], apart: Collection[tuple[str, str]]) -> dict[str, str]:
    """Return for each its groups, as letters: two have one in common if, and only if, they are not told apart."""
    groups: list[set[str]] = [{*order}] if order else []
    for one, other in apart:  # insert and absorb (Piepho 2004, https://doi.org/10.1198/1061860043515)
        for group in [group for group in groups if {one, other} <= group]:
            groups.remove(group)
            groups += [group - {one}, group - {other}]
        groups = [group for group in groups if not any(group < larger for larger in groups)]
        groups = [group for index, group in enumerate(groups) if group not in groups[:index]]
    groups.sort(key=lambda group: [order.index(label) for label in sorted(group, key=order.index)])
    names = [chr(ord("a") + index) if index < 26 else f"z{index}" for index in range(len(groups))]
    return {
        label: "".join(name for name, group in zip(names, groups, strict=True) if label in group) for label in order
    }
