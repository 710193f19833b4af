"""Statistics of paired runs."""

import itertools
import math
import re
from statistics import fmean

import numpy as np
import pytest

from optizoo.lab.statistics import (
    Interval,
    expected_best,
    interquartile_mean,
    is_significant,
    paired_bootstrap,
    paired_interval,
    paired_p_value,
    sign_flip_test,
    standings,
    verdict,
)


def test_bootstrap_of_two_pairs_is_the_law():
    """Two pairs give their mean with probability 1/2 and each of themselves with 1/4: the interval is known."""
    found = paired_bootstrap([1.0, 3.0], [0.0, 0.0])
    assert found == Interval(2.0, 1.0, 3.0)
    assert paired_bootstrap([1.0, 3.0], [0.0, 0.0], level=0.4) == Interval(2.0, 2.0, 2.0)


def test_bootstrap_covers_the_mean():
    """Of many samples of 30 normal differences, about 95 % of the intervals hold the true mean."""
    samples = np.random.default_rng(0).normal(0.3, 1, size=(300, 30))
    found = [paired_bootstrap(sample, np.zeros(30), draws=400) for sample in samples]
    hits = sum(each.low <= 0.3 <= each.high for each in found)
    assert 0.90 * 300 <= hits <= 0.98 * 300


def test_bootstrap_is_paired():
    """What both of a pair share cancels, however large it is."""
    shared = np.random.default_rng(1).normal(0, 100, size=5)
    found = paired_bootstrap(shared + 1, shared)
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1))
    assert not found.has_zero
    assert paired_bootstrap([1.0, -1.0], [0.0, 0.0]).has_zero


def test_bootstrap_turns_with_its_arguments():
    """Exchanged arguments give the negative interval, up to the samples' chance; the seed alone decides them."""
    one, other = [0.5, 0.7, 0.6, 0.9], [0.4, 0.8, 0.3, 0.5]
    there, back = paired_bootstrap(one, other), paired_bootstrap(other, one)
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.01)
    assert paired_bootstrap(one, other) == there
    assert paired_bootstrap(one, other, level=0.5).high < there.high


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_sign_flips_against_enumeration(n: int):
    """The p-value is the share of all sign patterns whose mean is as far from zero, counted one by one."""
    differences = np.random.default_rng(n).normal(0.5, 1, size=n)
    signs = itertools.product((1, -1), repeat=n)
    patterns = [fmean(differences * np.array(pattern)) for pattern in signs]
    expected = fmean(abs(mean) >= abs(differences.mean()) - 1e-12 for mean in patterns)
    assert sign_flip_test(differences, np.zeros(n)) == expected


def test_sign_flips_of_one_sign():
    """Where all differences have one sign, only two patterns of 2**n are as extreme; without differences all are."""
    assert sign_flip_test([1.1, 2.1, 3.1, 4.1, 5.1], [1, 2, 3, 4, 5]) == 2 / 32
    assert sign_flip_test([1, 2, 3], [1, 2, 3]) == 1


def test_few_pairs_must_agree():
    """With few pairs, an interval without zero is not enough: one small difference of the other sign speaks against."""
    ones, zeros = [1.0, 1.1, 0.9, 1.2, -0.1], [0.0] * 5
    assert not paired_bootstrap(ones, zeros).has_zero
    assert not is_significant(ones, zeros)
    assert is_significant([*ones[:4], 0.1], zeros)
    assert is_significant(ones * 2, zeros * 2)  # ten pairs bear two of the other sign
    assert not is_significant([0.0] * 5, zeros)


def test_interquartile_mean():
    """A quarter of the weight is cut from each end, in part where it is no whole number; outliers do not count."""
    assert interquartile_mean([5.0]) == 5
    assert interquartile_mean([4.0, 1.0, math.pi * 1e6, 2.0, 3.0, -1e9, 4.0, 3.0]) == 3.0
    assert interquartile_mean([0.0, 1.0, 5.0]) == pytest.approx((0.25 * 0 + 1 + 0.25 * 5) / 1.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "must be pairs, got 1 and 2 values"),
        (lambda: paired_bootstrap([], []), "one must hold at least one number"),
        (lambda: sign_flip_test([1.0, math.nan], [1.0, 2.0]), "one must be finite, got [1.0, nan]: leave runs that"),
        (lambda: sign_flip_test([1.0] * 21, [1.0] * 21), "at most 20 pairs, got 21"),
        (lambda: paired_bootstrap([1.0], [1.0], level=95), "level must be above 0 and below 1, got 95"),
        (lambda: paired_bootstrap([1.0], [1.0], draws=0), "draws must be at least 1, got 0"),
        (lambda: interquartile_mean([math.inf]), "values must be finite"),
    ],
)
def test_mistakes(call, message: str):
    """What cannot be computed is an error that names the argument and shows the value."""
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# Standings ------------------------------------------------------------------------------------------------------------


def seeds(mean: float, *noise: float) -> dict[int, float]:
    return {seed: mean + each for seed, each in enumerate(noise)}


NOISE = (0.006, -0.004, 0.001, -0.006, 0.003)
OTHER = (-0.002, 0.005, -0.006, 0.004, -0.001)


@pytest.mark.parametrize(
    ("values", "groups", "words"),
    [
        pytest.param({"a": seeds(0.6, *NOISE), "b": seeds(0.5, *NOISE)}, ["a", "b"], "a is best", id="clear"),
        pytest.param(
            {"b": seeds(0.5005, *OTHER), "a": seeds(0.5, *NOISE)}, ["a", "a"], "b and a cannot be", id="noise"
        ),
        pytest.param({"a": seeds(0.5, *NOISE), "b": seeds(0.5, *NOISE)}, ["a", "a"], "a and b cannot be", id="equal"),
        pytest.param({"a": seeds(0.501, *NOISE), "b": seeds(0.5, *NOISE)}, ["a", "b"], "a is best", id="paired"),
        pytest.param({"a": seeds(0.6, 0.0), "b": seeds(0.5, 0.0)}, ["a", "a"], "one seed tells nothing", id="one-seed"),
        pytest.param({"a": seeds(0.6, *NOISE), "b": {}}, ["a", ""], "a is best", id="no-result"),
        pytest.param({"a": {}}, [""], "No mean test accuracy", id="nothing"),
    ],
)
def test_no_winner_by_noise(values: dict[str, dict[int, float]], groups: list[str], words: str):
    """What is apart by more than chance, seed by seed, is told apart; what is not is said to be a tie."""
    found = standings(values)
    assert [each.groups for each in found] == groups
    assert words in verdict(found)


def test_groups_may_overlap():
    """One in the middle that can be told from neither end belongs to both groups, which the ends do not share."""
    top, middle, low = seeds(0.52, *NOISE), seeds(0.512, *OTHER), seeds(0.504, *NOISE)
    assert [each.groups for each in standings({"top": top, "middle": middle, "low": low})] == ["a", "ab", "b"]


def test_what_diverged_comes_last():
    """An optimizer with a run that diverged is in no group, however good the others of its runs were."""
    found = standings({"wild": seeds(0.9, 0.0, 0.01), "tame": seeds(0.5, 0.0, 0.01)}, {"wild": 1})
    assert [(each.label, each.groups, each.diverged) for each in found] == [("tame", "a", 0), ("wild", "", 1)]


def test_many_tests_need_more():
    """A difference that two alone would be told apart by is noise among the pairs of many."""
    pair = {"first": seeds(0.5, *NOISE), "second": seeds(0.489, *OTHER)}
    noise = np.random.default_rng(0).normal(0.0, 0.004, (8, 5))
    crowd = {f"other {index}": seeds(0.3, *each) for index, each in enumerate(noise.tolist())}
    assert [each.groups for each in standings(pair)] == ["a", "b"]
    assert [each.groups for each in standings({**pair, **crowd})][:2] == ["a", "a"]


def test_intervals_are_students():
    """The interval is that of the paired t-test, as textbooks have it: Student's sleep data of 1908."""
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    two = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_interval(two, one)
    assert (found.mean, found.low, found.high) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-7)
    assert paired_p_value(one, two) == pytest.approx(0.002832890, abs=1e-9)


def test_expected_best_is_that_of_all_subsets():
    """The expected best of k is the mean over all subsets of k."""
    values = [0.1, 0.5, 0.2, 0.9, 0.2]
    means = [fmean(max(each) for each in itertools.combinations(values, k)) for k in range(1, 6)]
    assert expected_best(values) == pytest.approx(means)
