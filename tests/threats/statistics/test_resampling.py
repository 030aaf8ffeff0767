"""Bootstrap intervals against SciPy, and what they say where a statistic is biased or has no value."""

import math

import numpy as np
import pytest
from scipy import stats

from threats import statistics


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(4)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)

    def correlation(x, y):
        return np.corrcoef(x, y)[0, 1]

    interval = statistics.bootstrap(correlation, x, y, seed=5, replicates=400, confidence=0.9)
    expected = stats.bootstrap(
        (x, y),
        correlation,
        paired=True,
        vectorized=False,
        n_resamples=400,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    np.testing.assert_allclose(interval[:3], (correlation(x, y), expected.low, expected.high), rtol=1e-12)
    assert interval.count == 40


def test_basic_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(4).gamma(2.0, size=40)
    interval = statistics.bootstrap(np.mean, values, seed=5, replicates=400, method="basic")
    options = {"n_resamples": 400, "method": "basic", "vectorized": False, "rng": np.random.default_rng(5)}
    expected = stats.bootstrap((values,), np.mean, **options).confidence_interval
    np.testing.assert_allclose(interval[1:3], (expected.low, expected.high), rtol=1e-12)
    cut = statistics.bootstrap(np.mean, values, seed=5, replicates=400, method="basic", bounds=(0, values.mean()))
    assert (cut.low, cut.high) == (interval.low, values.mean())


def test_basic_bootstrap_keeps_the_value_of_a_biased_statistic_inside():
    cells = np.random.default_rng(9).normal(size=400)

    def fullest_bin(values):
        return float(np.bincount(np.digitize(values, np.linspace(-3, 3, 400))).max() / 400)

    percentile = statistics.bootstrap(fullest_bin, cells, replicates=200)
    basic = statistics.bootstrap(fullest_bin, cells, replicates=200, method="basic")
    assert percentile.low > percentile.value, "otherwise the example shows nothing"
    assert basic.low < basic.value <= basic.high


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(6).normal(size=400)
    interval = statistics.bootstrap(np.mean, values, replicates=2000)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose(interval[:3], (values.mean(), values.mean() - half, values.mean() + half), atol=0.012)


def test_bootstrap_is_fixed_by_its_seed():
    values = np.random.default_rng(7).normal(size=30)
    first = statistics.bootstrap(np.median, values, seed=1)
    assert statistics.bootstrap(np.median, values, seed=1) == first
    assert statistics.bootstrap(np.median, values, seed=2) != first


def test_bootstrap_keeps_rows_together():
    """Arrays of other shapes go along, row by row: labels never leave their images."""
    images = np.arange(12.0).reshape(6, 2)
    difference = statistics.bootstrap(lambda x, y: np.abs(x[:, 0] - 2 * y).max(), images, np.arange(6), replicates=50)
    assert difference == (0.0, 0.0, 0.0, 6)


def test_bootstrap_leaves_out_resamples_without_a_value():
    labels = np.array([0, 0, 0, 0, 1])  # a third of the resamples have no 1

    def share_of_ones(labels):
        return labels.mean() if labels.any() else math.nan

    interval = statistics.bootstrap(share_of_ones, labels)
    assert interval.value == 0.2
    assert interval.low == 0.2  # not 0: none without a 1 is left
    assert 0.4 <= interval.high <= 0.8


def test_bootstrap_gives_no_bounds_where_most_resamples_have_no_value():
    one_in_many = np.arange(9) == 0

    def needs_two(flags):
        return 1.0 if flags.sum() == 2 else math.nan

    interval = statistics.bootstrap(needs_two, one_in_many, replicates=200)
    assert np.isnan(interval[:3]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.bootstrap(np.mean), r"arrays must share one length >= 1, got lengths \[\]"),
        (lambda: statistics.bootstrap(np.mean, []), r"arrays must share one length >= 1, got lengths \[0\]"),
        (lambda: statistics.bootstrap(np.dot, [1], [1, 2]), r"arrays must share one length .* \[1, 2\]"),
        (lambda: statistics.bootstrap(np.mean, [1], method="bca"), r"one of \('percentile', 'basic'\), got 'bca'"),
        (lambda: statistics.bootstrap(np.mean, [1], replicates=0), "replicates must be at least 1, got 0"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
