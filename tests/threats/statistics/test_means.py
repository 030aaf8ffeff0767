"""Student's interval against SciPy, what equal values say, and coverage of rare disasters."""

import math

import numpy as np
import pytest
from scipy import stats

from threats import statistics


def test_nothing_observed_says_nothing():
    empty = statistics.mean([], bounds=(0, 1))
    assert math.isnan(empty.value)
    assert empty[1:] == (0.0, 1.0, 0)


def test_mean_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=31)
    interval = statistics.mean(values, confidence=0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(interval[:3], (values.mean(), expected.low, expected.high), rtol=1e-12)
    assert interval.count == 31


def test_mean_accumulates_in_float64():
    values = np.full(2**20, 0.1, np.float32)
    assert abs(statistics.mean(values).value - float(np.float32(0.1))) < 1e-12


def test_mean_covers_small_normal_samples():
    samples = np.random.default_rng(2).normal(3.0, 2.0, size=(4_000, 4))
    intervals = np.array([statistics.mean(sample) for sample in samples])
    assert abs(np.mean((intervals[:, 1] <= 3) & (intervals[:, 2] >= 3)) - 0.95) < 0.015


def test_mean_of_one_value_has_no_bounds_but_the_known_ones():
    assert statistics.mean([0.7]) == (0.7, -math.inf, math.inf, 1)
    assert statistics.mean([0.7], bounds=(0, 1)) == (0.7, 0.0, 1.0, 1)


def test_mean_is_cut_to_its_bounds():
    values = [0.0, 1.0, 1.0]
    free, cut = statistics.mean(values), statistics.mean(values, bounds=(0, 1))
    assert free.low < 0
    assert free.high > 1
    assert cut == (free.value, 0.0, 1.0, 3)
    above_by_rounding = np.nextafter(np.ones(3, np.float32), np.float32(2))
    interval = statistics.mean(above_by_rounding, bounds=(0, 1))
    assert (interval.value, interval.high) == (1.0, 1.0)


def test_equal_values_within_bounds_leave_room_for_what_was_not_seen():
    """The width is that of the exact (Clopper-Pearson, one-sided) bound of zero failures."""
    share = stats.binomtest(0, 20, alternative="less").proportion_ci(0.95).high
    interval = statistics.mean(np.full(20, 0.8), bounds=(0, 1))
    np.testing.assert_allclose(interval, (0.8, 0.8 * (1 - share), 0.8 + 0.2 * share, 20), rtol=1e-12)
    assert statistics.mean(np.full(20, 0.8)) == pytest.approx((0.8, 0.8, 0.8, 20))
    assert statistics.mean(np.zeros(20), bounds=(0, math.inf)) == (0.0, 0.0, math.inf, 20)
    wider = statistics.mean(np.full(5, 0.8), bounds=(0, 1))
    assert wider.low < interval.low
    assert wider.high > interval.high


def test_rare_disasters_are_covered():
    """Trials cost nothing but one in fifty, which costs all: Student's t alone would miss the mean in most samples."""
    samples = (np.random.default_rng(8).random((2_000, 20)) > 0.02).astype(float)
    intervals = np.array([statistics.mean(sample, bounds=(0, 1)) for sample in samples])
    assert np.mean((intervals[:, 1] <= 0.98) & (intervals[:, 2] >= 0.98)) > 0.95


def test_mean_never_hides_what_is_not_finite():
    assert np.isnan(statistics.mean([1.0, np.nan, 2.0])[:3]).all()
    assert statistics.mean([1.0, np.inf, 2.0]).value == math.inf
    assert np.isnan(statistics.mean([0.5, np.nan], bounds=(0, 1))[:3]).all()


def test_paired_difference_agrees_with_scipy_and_is_narrower():
    rng = np.random.default_rng(3)
    common = rng.normal(size=50)
    a, b = common + 0.1 * rng.normal(size=50), common + 0.1 * rng.normal(size=50) - 0.3
    interval = statistics.paired_difference(a, b)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose(interval[:3], ((a - b).mean(), expected.low, expected.high), rtol=1e-10)
    assert interval.low > 0
    assert interval.high - interval.low < statistics.mean(a).high - statistics.mean(a).low


def test_paired_difference_of_decisions():
    right, under_attack = np.array([True, True, True, False]), np.array([True, False, False, False])
    interval = statistics.paired_difference(right, under_attack, bounds=(-1, 1))
    assert interval.value == 0.5
    assert -1 <= interval.low < interval.high <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.mean([[1.0]]), r"values must be one-dimensional, got shape \(1, 1\)"),
        (lambda: statistics.mean([0.5, 2.0], bounds=(0, 1)), r"within bounds = \(0, 1\), got 0.5 to 2.0"),
        (lambda: statistics.mean([-0.5], bounds=(0, math.inf)), r"within bounds = \(0, inf\), got -0.5 to -0.5"),
        (lambda: statistics.mean([0.5], bounds=(1, 0)), r"bounds must be \(low, high\) .* got \(1, 0\)"),
        (lambda: statistics.mean([0.5], confidence=0), "confidence must lie in .* got 0"),
        (lambda: statistics.paired_difference([1, 2], [1]), "a and b must have the same length, got 2 and 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("chance", "count"), [(0.01, 100), (0.02, 384), (0.1, 32)])
def test_bounded_mean_covers_rare_losses_where_students_does_not(chance, count):
    """An accuracy of 0.9 that one trial in some takes to between 0.1 and 0.9: the mean of 2,000 campaigns."""
    draw = np.random.default_rng(3)
    hit, left = draw.uniform(size=(2_000, count)) < chance, draw.uniform(0.1, 0.9, (2_000, count))
    truth = 0.9 - chance * 0.4
    found = {}
    for name, estimate in (("bounded", statistics.bounded_mean), ("student", statistics.mean)):
        _, low, high, _ = np.array([estimate(values, bounds=(0, 1)) for values in np.where(hit, left, 0.9)]).T
        found[name] = np.mean((low <= truth) & (truth <= high))
    assert found["student"] < 0.94 < found["bounded"], found


def test_bounded_mean_of_shares_is_wilsons():
    assert statistics.bounded_mean([0, 1, 1, 0, 1]) == statistics.wilson(3, 5)
    assert statistics.bounded_mean([0.5, 0.5, 0.6]).value == pytest.approx(1.6 / 3)
