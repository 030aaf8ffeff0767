"""Intervals against SciPy, closed forms and their promised coverage; sample sizes against the published figures."""

import math

import numpy as np
import pytest
from scipy import stats

from threats import statistics


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (0, 20), (20, 20), (13, 156), (3350, 3421)])
def test_wilson_agrees_with_scipy(successes, count, confidence):
    interval = statistics.wilson(successes, count, confidence=confidence)
    expected = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose((interval.low, interval.high), (expected.low, expected.high), atol=1e-12)
    assert interval.value == successes / count
    assert interval.count == count
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_wilson_solves_the_score_equation():
    """Both bounds are the p at which the observed share is exactly z standard errors away."""
    interval = statistics.wilson(7, 40)
    bounds = np.array([interval.low, interval.high])
    distance = (7 / 40 - bounds) / np.sqrt(bounds * (1 - bounds) / 40)
    np.testing.assert_allclose(distance, [1.959964, -1.959964], atol=1e-5)


@pytest.mark.parametrize("count", [20, 156])
def test_wilson_covers(count):
    table = np.array([statistics.wilson(successes, count)[1:3] for successes in range(count + 1)])
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.02, 0.98, 40_000)
    low, high = table[rng.binomial(count, truth)].T
    assert abs(np.mean((low <= truth) & (truth <= high)) - 0.95) < 0.01


def test_nothing_observed_says_nothing():
    empty = statistics.wilson(0, 0)
    assert math.isnan(empty.value)
    assert empty[1:] == (0.0, 1.0, 0)
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
    ("half_width", "confidence", "faults"), [(0.05, 0.95, 384), (0.01, 0.95, 9_604), (0.01, 0.99, 16_589)]
)
def test_sample_size_of_the_published_example(half_width, confidence, faults):
    assert statistics.sample_size(14_500_000 * 32, half_width=half_width, confidence=confidence) == faults


def test_sample_size_solves_the_equation_it_comes_from():
    """The half-width of n drawn of N without replacement: e = t sqrt(p (1 - p) / n (N - n) / (N - 1))."""
    for population in (1_000, 30_000):
        n = statistics.sample_size(population, half_width=0.02, p=0.3)
        half_width = 1.96 * math.sqrt(0.3 * 0.7 / n * (population - n) / (population - 1))
        assert abs(half_width - 0.02) < 1e-4


def test_sample_size_stays_within_the_population():
    assert [statistics.sample_size(population, half_width=0.01) for population in (1, 2, 10)] == [1, 2, 10]
    assert statistics.sample_size(10**12, half_width=0.99) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.wilson(1, 10, confidence=95), r"confidence must lie in \(0, 1\), got 95"),
        (lambda: statistics.wilson(11, 10), "successes must be a whole number from 0 to count = 10, got 11"),
        (lambda: statistics.wilson(-1, 10), "successes must be .* got -1"),
        (lambda: statistics.wilson(0.5, 10), "successes must be .* got 0.5"),
        (lambda: statistics.wilson(math.nan, 10), "successes must be .* got nan"),
        (lambda: statistics.wilson(0, -1), "count must be a whole number >= 0, got -1"),
        (lambda: statistics.mean([[1.0]]), r"values must be one-dimensional, got shape \(1, 1\)"),
        (lambda: statistics.mean([0.5, 2.0], bounds=(0, 1)), r"within bounds = \(0, 1\), got 0.5 to 2.0"),
        (lambda: statistics.mean([-0.5], bounds=(0, math.inf)), r"within bounds = \(0, inf\), got -0.5 to -0.5"),
        (lambda: statistics.mean([0.5], bounds=(1, 0)), r"bounds must be \(low, high\) .* got \(1, 0\)"),
        (lambda: statistics.mean([0.5], confidence=0), "confidence must lie in .* got 0"),
        (lambda: statistics.paired_difference([1, 2], [1]), "a and b must have the same length, got 2 and 1"),
        (lambda: statistics.sample_size(0, half_width=0.1), "population must be at least 1, got 0"),
        (lambda: statistics.sample_size(10, half_width=5), r"half_width must lie in \(0, 1\), got 5"),
        (lambda: statistics.sample_size(10, half_width=0.1, p=1), r"p must lie in \(0, 1\), got 1"),
        (lambda: statistics.sample_size(10, half_width=0.1, confidence=1), "confidence must lie in .* got 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
