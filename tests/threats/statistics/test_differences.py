"""The difference of two estimates drawn apart: published examples, coverage of rates and of rare, large losses."""

import math

import numpy as np
import pytest
from scipy import stats

from threats import statistics


def of_rates(of_a, count_a, of_b, count_b):
    return statistics.independent_difference(statistics.wilson(of_a, count_a), statistics.wilson(of_b, count_b))


@pytest.mark.parametrize(
    ("observed", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_newcombes_examples(observed, low, high):
    """Table II of Newcombe (1998), method 10."""
    found = of_rates(*observed)
    assert found.value == observed[0] / observed[1] - observed[2] / observed[3]
    np.testing.assert_allclose(found[1:3], (low, high), atol=5e-5)
    assert found.count == observed[1] + observed[3]


def test_the_other_way_round_is_the_opposite():
    there, back = of_rates(3, 50, 20, 80), of_rates(20, 80, 3, 50)
    np.testing.assert_allclose((there.value, there.low, there.high), (-back.value, -back.high, -back.low))


def test_of_means_of_many_values_it_is_welchs_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 0.2, 4000), rng.normal(0.1, 0.6, 1000)
    found = statistics.independent_difference(statistics.mean(a), statistics.mean(b))
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found[1:3], (expected.low, expected.high), rtol=1e-3)


def test_what_is_known_exactly_adds_nothing():
    exact, measured = statistics.Interval(0.5, 0.5, 0.5, 640), statistics.wilson(30, 100)
    found = statistics.independent_difference(exact, measured)
    np.testing.assert_allclose(found[:3], (0.2, 0.5 - measured.high, 0.5 - measured.low))
    assert statistics.independent_difference(exact, exact) == (0.0, 0.0, 0.0, 1280)


def test_what_is_not_a_number_stays_so():
    nothing = statistics.Interval(math.nan, math.nan, math.nan, 0)
    assert np.isnan(statistics.independent_difference(nothing, statistics.wilson(1, 2))[:3]).all()


@pytest.mark.parametrize("counts", [(40, 40), (60, 30)])
def test_rates_are_covered_on_average(counts):
    """Exactly, over every outcome; like Wilson's interval it jumps, so that the promise is about the average."""
    each = np.array(
        [[of_rates(i, counts[0], j, counts[1])[1:3] for j in range(counts[1] + 1)] for i in range(counts[0] + 1)]
    )
    coverage = []
    for p, q in np.random.default_rng(0).uniform(0.01, 0.99, (200, 2)):
        chances = np.outer(
            *(stats.binom.pmf(np.arange(n + 1), n, rate) for n, rate in zip(counts, (p, q), strict=True))
        )
        coverage.append(np.sum(chances * ((each[..., 0] <= p - q) & (p - q <= each[..., 1]))))
    assert abs(np.mean(coverage) - 0.95) < 0.01
    assert min(coverage) > 0.9


def test_means_of_rare_large_losses_are_covered():
    """Two campaigns of 200 trials, of which 1 in 50 and 1 in 20 lose anything up to all."""
    rng, covered = np.random.default_rng(1), []
    for _ in range(1_000):
        sides = ((rng.random(200) < rate) * rng.random(200) for rate in (0.02, 0.05))
        found = statistics.independent_difference(*(statistics.stratified_mean({"": x}, {"": 1.0}) for x in sides))
        covered.append(found.low <= (0.02 - 0.05) / 2 <= found.high)
    assert np.mean(covered) >= 0.94
