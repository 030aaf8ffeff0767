"""Trials per stratum: they sum to the total, keep the proportions and the least number, and Neyman's are the best."""

import math

import numpy as np
import pytest

from threats import statistics


def test_proportional_counts_are_the_quotas_where_these_are_whole():
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert statistics.proportional_allocation(shares, 10) == {"a": 5, "b": 3, "c": 2}
    assert list(statistics.proportional_allocation(shares, 1000).values()) == [500, 300, 200]


def test_the_largest_remainders_get_what_is_missing():
    """Quotas 4.5, 3.3 and 2.2 of 10: one is missing, and the first has the largest remainder; ties go to the first."""
    assert list(statistics.proportional_allocation({"a": 0.45, "b": 0.33, "c": 0.22}, 10).values()) == [5, 3, 2]
    assert list(statistics.proportional_allocation(dict.fromkeys("abc", 1 / 3), 11).values()) == [4, 4, 3]


def test_small_strata_are_raised_and_the_others_share_the_rest():
    shares = {"large": 0.6, "none": 0.0, "middle": 0.395, "small": 0.005}
    assert statistics.proportional_allocation(shares, 102) == {"large": 60, "none": 0, "middle": 40, "small": 2}
    assert statistics.proportional_allocation(shares, 6) == {"large": 2, "none": 0, "middle": 2, "small": 2}
    assert statistics.proportional_allocation(shares, 3, at_least=1)["small"] == 1


def test_sums_are_exact_and_no_stratum_is_short():
    rng = np.random.default_rng(0)
    for strata in (1, 7, 150):
        for concentration in (0.05, 1.0, 50.0):
            shares = dict(enumerate(rng.dirichlet([concentration] * strata)))
            deviations = dict(enumerate(rng.random(strata)))
            for total in (2 * strata, 2 * strata + 1, 9 * strata + 5, 20_000):
                for counts in (
                    statistics.proportional_allocation(shares, total),
                    statistics.neyman_allocation(shares, deviations, total),
                ):
                    assert sum(counts.values()) == total
                    assert list(counts) == list(shares)
                    assert min(counts.values()) >= 2
                    assert all(isinstance(count, int) for count in counts.values())


def test_counts_stay_within_one_of_the_quota_where_none_is_raised():
    shares = dict(enumerate(np.random.default_rng(1).dirichlet([20.0] * 12)))
    counts = statistics.proportional_allocation(shares, 5_000)
    assert all(abs(counts[name] - 5_000 * share) < 1 for name, share in shares.items())


def test_the_smallest_total_gives_each_stratum_its_least_number():
    """Quotas that are whole but for rounding: 20 times 1 / 20 of 20 is less than 1."""
    for strata in range(1, 60):
        shares = dict.fromkeys(range(strata), 1 / strata)
        for at_least in (1, 2, 3):
            counts = statistics.proportional_allocation(shares, at_least * strata, at_least=at_least)
            assert set(counts.values()) == {at_least}


def test_neyman_is_proportional_to_share_times_deviation():
    shares, deviations = {"a": 0.5, "b": 0.5}, {"a": 0.1, "b": 0.4}
    assert statistics.neyman_allocation(shares, deviations, 100) == {"a": 20, "b": 80}
    assert statistics.neyman_allocation(shares, {"a": 0.0, "b": 0.4}, 100) == {"a": 2, "b": 98}


def test_no_other_allocation_has_a_smaller_variance():
    shares, deviations = {"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 0.05, "b": 0.3, "c": 0.5}
    spread = np.array([shares[name] * deviations[name] for name in shares]) ** 2
    best = np.sum(spread / list(statistics.neyman_allocation(shares, deviations, 60).values()))
    others = [np.sum(spread / (a, b, 60 - a - b)) for a in range(2, 56) for b in range(2, 59 - a)]
    assert best <= min(others) * 1.001
    assert best < 0.9 * np.sum(spread / list(statistics.proportional_allocation(shares, 60).values()))


def test_smoothed_deviations():
    """Of k successes in n: the deviation at Jeffreys' rate (k + 1/2) / (n + 1)."""
    found = statistics.smoothed_deviations({"never": np.zeros(10), "some": [0, 1, 1, 0], "unseen": []})
    rates = np.array([0.5 / 11, 2.5 / 5, 0.5])
    np.testing.assert_allclose(list(found.values()), np.sqrt(rates * (1 - rates)), rtol=1e-12)
    many = np.random.default_rng(2).normal(0.2, 0.3, 100_000).clip(-1, 3)
    assert statistics.smoothed_deviations({"a": many}, bounds=(-1, 3))["a"] == pytest.approx(many.std(), rel=1e-3)


def test_a_pilot_without_variance_still_gets_its_trials():
    pilot = {"quiet": np.zeros(10), "loud": np.arange(10) % 2}
    counts = statistics.neyman_allocation({"quiet": 0.5, "loud": 0.5}, statistics.smoothed_deviations(pilot), 100)
    assert counts["loud"] > counts["quiet"] > 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.proportional_allocation({"a": 0.5, "b": 0.5}, 3), r"total must be .* >= 4 \(at_least = 2"),
        (lambda: statistics.proportional_allocation({"a": 1.0}, 2.5), "total must be a whole number .* got 2.5"),
        (lambda: statistics.proportional_allocation({"a": 1.0}, 5, at_least=0), "at_least must be .* >= 1, got 0"),
        (lambda: statistics.proportional_allocation({"a": 0.4}, 5), "shares must sum to 1, got 0.4"),
        (lambda: statistics.proportional_allocation({"a": math.nan}, 5), r"shares must lie in \[0, 1\], got nan"),
        (lambda: statistics.neyman_allocation({"a": 1.0}, {}, 5), "deviations must be finite .* got nan for .* 'a'"),
        (lambda: statistics.neyman_allocation({"a": 1.0}, {"a": -1}, 5), "deviations must be .* got -1 for .* 'a'"),
        (lambda: statistics.neyman_allocation({"a": 1.0}, {"a": 0}, 5), "must not all be 0; use smoothed_deviations"),
        (lambda: statistics.smoothed_deviations({"a": [2.0]}), r"within bounds = \(0.0, 1.0\), got 2.0 to 2.0"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
