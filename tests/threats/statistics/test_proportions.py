"""Intervals of a proportion against SciPy, the equations they solve and their promised coverage."""

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


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (0, 20), (20, 20), (13, 156), (3350, 3421)])
def test_clopper_pearson_agrees_with_scipy(successes, count, confidence):
    interval = statistics.clopper_pearson(successes, count, confidence=confidence)
    expected = stats.binomtest(successes, count).proportion_ci(confidence, method="exact")
    np.testing.assert_allclose((interval.low, interval.high), (expected.low, expected.high), rtol=1e-9)
    assert interval.value == successes / count
    assert interval.count == count


def covered(method, count, rates):
    """How often the interval contains each of the rates: exact, summed over every possible number of successes."""
    low, high = np.array([method(successes, count)[1:3] for successes in range(count + 1)]).T
    rates = np.asarray(rates)[:, None]
    chances = stats.binom.pmf(np.arange(count + 1), count, rates)
    return np.sum(chances * ((low <= rates) & (rates <= high)), axis=1)


@pytest.mark.parametrize("count", [20, 100, 1000])
def test_clopper_pearson_covers_every_rate(count):
    assert covered(statistics.clopper_pearson, count, [0.001, 0.02, 0.1, 0.3, 0.5, 0.9, 0.999]).min() >= 0.95


@pytest.mark.parametrize("count", [20, 156, 1000])
def test_wilson_covers_on_average_over_the_rates(count):
    """Its coverage jumps from one rate to the next, whatever the number of trials; the promise is about the average."""
    coverage = covered(statistics.wilson, count, np.linspace(0.005, 0.995, 397))
    assert abs(coverage.mean() - 0.95) < 0.01
    assert coverage.min() < 0.95


@pytest.mark.parametrize("method", [statistics.wilson, statistics.clopper_pearson])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_simulated_campaigns_are_covered(method, rate):
    """2,000 campaigns each. Wilson is at 93.6 % for rate 0.1, one of the rates at which it falls below its average."""
    successes = np.random.default_rng(1).binomial(100, rate, 2_000)
    intervals = np.array([method(one, 100) for one in successes])
    share = np.mean((intervals[:, 1] <= rate) & (rate <= intervals[:, 2]))
    assert abs(share - covered(method, 100, [rate])[0]) < 0.012
    assert share > (0.94 if method is statistics.clopper_pearson else 0.925)


def test_exact_is_wider_than_wilson_but_at_the_ends():
    for successes in (5, 50, 95):
        exact, score = statistics.clopper_pearson(successes, 100), statistics.wilson(successes, 100)
        assert exact.high - exact.low > score.high - score.low


def test_nothing_observed_says_nothing():
    empty = statistics.wilson(0, 0)
    assert math.isnan(empty.value)
    assert empty[1:] == (0.0, 1.0, 0)
    exact = statistics.clopper_pearson(0, 0)
    assert math.isnan(exact.value)
    assert exact[1:] == (0.0, 1.0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.wilson(1, 10, confidence=95), r"confidence must lie in \(0, 1\), got 95"),
        (lambda: statistics.wilson(11, 10), "successes must be a whole number from 0 to count = 10, got 11"),
        (lambda: statistics.wilson(-1, 10), "successes must be .* got -1"),
        (lambda: statistics.wilson(0.5, 10), "successes must be .* got 0.5"),
        (lambda: statistics.wilson(math.nan, 10), "successes must be .* got nan"),
        (lambda: statistics.clopper_pearson(11, 10), "successes must be .* count = 10, got 11"),
        (lambda: statistics.clopper_pearson(1, 10, confidence=1), "confidence must lie in .* got 1"),
        (lambda: statistics.wilson(0, -1), "count must be a whole number >= 0, got -1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
