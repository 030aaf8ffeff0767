"""Sample sizes against the published figures and the equation they solve."""

import math

import pytest

from threats import statistics


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
        (lambda: statistics.sample_size(0, half_width=0.1), "population must be at least 1, got 0"),
        (lambda: statistics.sample_size(10, half_width=5), r"half_width must lie in \(0, 1\), got 5"),
        (lambda: statistics.sample_size(10, half_width=0.1, p=1), r"p must lie in \(0, 1\), got 1"),
        (lambda: statistics.sample_size(10, half_width=0.1, confidence=1), "confidence must lie in .* got 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
