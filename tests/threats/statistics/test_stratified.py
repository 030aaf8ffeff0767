"""Stratified means: closed forms, coverage of rare events in simulated campaigns, two phases without bias."""

import math

import numpy as np
import pytest
from scipy import stats

from threats import statistics

# Shares, true rates and trials per stratum. Of each the comment says what is hard about it.
POPULATIONS = {
    "rare": ((0.6, 0.3, 0.08, 0.02), (0.001, 0.01, 0.3, 0.8), (120, 60, 16, 4)),  # most strata show nothing
    "large": ((0.6, 0.3, 0.08, 0.02), (0.001, 0.01, 0.3, 0.8), (600, 300, 80, 20)),
    "hidden": ((0.05,) * 20, (0.4,) + (0.0,) * 19, (10,) * 20),  # all that happens is in one of twenty
    "harmless": ((0.9, 0.09, 0.01), (0.005, 0.1, 0.5), (100, 200, 100)),  # the large stratum is drawn thinly
    "thin": ((0.9,) + (0.01,) * 10, (0.4,) + (0.0,) * 10, (4,) + (500,) * 10),  # nearly all rests on four trials
    "pairs": ((1 / 30,) * 30, (0.5,) * 30, (2,) * 30),  # one degree of freedom each
}


def named(values):
    return {f"stratum_{number}": value for number, value in enumerate(values)}


def coverage(draw, shares, truth, *, campaigns=2_000, **options):
    found = [statistics.stratified_mean(named(draw()), named(shares), **options) for _ in range(campaigns)]
    values, low, high = np.array(found)[:, :3].T
    assert np.all((low <= values) & (values <= high))
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(campaigns), "the estimate has no bias"
    return np.mean((low <= truth) & (truth <= high))


def by_definition(values, weights, unseen):
    """Stratum by stratum, from the equations of the module, for values in [0, 1] at 95 %."""
    z = stats.norm.ppf(0.975)
    largest = [f * w**2 / len(v) for v, w, f in zip(values, weights, unseen, strict=True)]
    value = centre = variance = freedom = 0.0
    for v, w, f, one in zip(values, weights, unseen, largest, strict=True):
        pseudo = f * z**2 / 2 * one / sum(largest)
        count = len(v) + 2 * pseudo
        mean = (sum(v) + pseudo) / count
        square = (sum((x - mean) ** 2 for x in v) + pseudo * mean**2 + pseudo * (1 - mean) ** 2) / (count - 1)
        value += w * sum(v) / len(v)
        centre += w * mean
        variance += f * w**2 * square / count
        freedom += (f * w**2 * square / count) ** 2 / (count - 1)
    half = stats.t.ppf(0.975, variance**2 / freedom) * math.sqrt(variance)
    return value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def test_the_interval_is_that_of_the_equations():
    rng = np.random.default_rng(7)
    values, shares = [rng.random(3).tolist(), rng.random(8).tolist(), [0.0, 0.0]], [0.2, 0.5, 0.3]
    found = statistics.stratified_mean(named(values), named(shares))
    np.testing.assert_allclose(found[:3], by_definition(values, shares, [1, 1, 1]), rtol=1e-12)
    sizes = [4, 100, 8]
    found = statistics.stratified_mean(named(values), named(shares), populations=named(sizes), without_replacement=True)
    np.testing.assert_allclose(found[:3], by_definition(values, shares, [1 / 4, 92 / 100, 6 / 8]), rtol=1e-12)


def test_two_phases_are_weighted_with_their_sizes():
    """6 values of 24, then 18: each stratum twice, with a quarter and three quarters of its share."""
    rng = np.random.default_rng(8)
    pilot, main = [rng.random(2).tolist(), rng.random(4).tolist()], [rng.random(15).tolist(), rng.random(3).tolist()]
    found = statistics.two_phase_mean(named(pilot), named(main), named([0.6, 0.4]))
    expected = by_definition(pilot + main, [0.15, 0.1, 0.45, 0.3], [1, 1, 1, 1])
    np.testing.assert_allclose(found[:3], expected, rtol=1e-12)
    assert found.count == 24


@pytest.mark.parametrize("population", POPULATIONS)
def test_rates_are_covered(population):
    """95 %, less the point that 2,000 campaigns can be off by chance (two standard errors)."""
    shares, rates, counts = POPULATIONS[population]
    rng = np.random.default_rng(0)

    def draw():
        return [rng.random(count) < rate for rate, count in zip(rates, counts, strict=True)]

    assert coverage(draw, shares, np.dot(shares, rates)) >= 0.94


def test_values_between_the_bounds_are_covered():
    """Losses from -1 to 1 that are nearly always 0, and otherwise anything up to 1."""
    rng = np.random.default_rng(1)

    def draw():
        return [(rng.random(100) < rate) * rng.random(100) for rate in (0.02, 0.1)]

    assert coverage(draw, (0.7, 0.3), 0.7 * 0.01 + 0.3 * 0.05, bounds=(-1, 1)) >= 0.94


def test_draws_without_replacement_are_covered_by_narrower_intervals():
    sizes, failures = np.array([1000, 200, 50]), (2, 10, 20)
    members = [np.arange(size) < number for size, number in zip(sizes, failures, strict=True)]
    shares, rng = sizes / sizes.sum(), np.random.default_rng(2)

    def draw():
        return [rng.permutation(all_)[:count] for all_, count in zip(members, (500, 100, 40), strict=True)]

    options = {"populations": named(sizes), "without_replacement": True}
    assert coverage(draw, shares, 32 / 1250, **options) >= 0.94
    values = named(draw())
    narrow = statistics.stratified_mean(values, named(shares), **options)
    wide = statistics.stratified_mean(values, named(shares))
    assert narrow.value == wide.value
    assert narrow.high - narrow.low < 0.8 * (wide.high - wide.low)


def test_one_stratum_of_many_values_is_students_interval():
    values = np.random.default_rng(3).random(100_000)
    interval = statistics.stratified_mean({"all": values}, {"all": 1.0})
    np.testing.assert_allclose(interval, statistics.mean(values), rtol=1e-4)


def test_one_stratum_of_decisions_is_agresti_and_coulls_interval():
    """The variance's divisor, one less than the count, and Student's quantile make it a little wider."""
    flags = np.arange(400) < 12
    centre, count = (12 + 1.96**2 / 2) / (400 + 1.96**2), 400 + 1.96**2
    half = 1.96 * math.sqrt(centre * (1 - centre) / count)
    interval = statistics.stratified_mean({"all": flags}, {"all": 1.0})
    np.testing.assert_allclose(interval[:3], (0.03, centre - half, centre + half), rtol=0.01)


def test_the_variance_is_the_textbooks_where_there_are_many_values():
    """sum_h W_h^2 s_h^2 / n_h (1 - n_h / N_h); pseudo-observations are lost among 40,000."""
    rng = np.random.default_rng(4)
    values, shares = [rng.random(10_000), rng.random(30_000) / 2], np.array([0.8, 0.2])
    unseen = 1 - np.array([10_000, 30_000]) / np.array([40_000, 31_000])
    variance = sum(shares**2 * [one.var(ddof=1) / one.size for one in values] * unseen)
    interval = statistics.stratified_mean(
        named(values), named(shares), populations=named([40_000, 31_000]), without_replacement=True
    )
    estimate = shares @ [one.mean() for one in values]
    expected = (estimate, estimate - 1.96 * variance**0.5, estimate + 1.96 * variance**0.5)
    np.testing.assert_allclose(interval[:3], expected, atol=2e-4)
    assert interval.count == 40_000


def test_equal_values_leave_room_for_what_was_not_seen():
    """Nothing happened in 200 trials: about what the exact interval says, however they are cut into strata."""
    exact = statistics.clopper_pearson(0, 200)
    for strata in (1, 5, 50):
        values = named([np.zeros(200 // strata)] * strata)
        interval = statistics.stratified_mean(values, named([1 / strata] * strata))
        assert (interval.value, interval.low) == (0.0, 0.0)
        assert exact.high < interval.high < 1.5 * exact.high
    thin = statistics.stratified_mean(named([np.zeros(2), np.zeros(1000)]), named([0.9, 0.1]))
    assert thin.high > 0.5, "two trials say little of nine tenths of the population"


def test_a_single_observation_is_given_the_largest_spread():
    assert statistics.stratified_mean({"all": [1.0]}, {"all": 1.0}) == (1.0, 0.0, 1.0, 1)
    singles = statistics.stratified_mean(named([[0.5]] * 30), named([1 / 30] * 30))
    np.testing.assert_allclose(singles.high - singles.value, 1.96 * 0.5 / math.sqrt(30), rtol=1e-3)


def test_all_of_the_population_leaves_no_doubt():
    values, shares = {"a": [0, 1, 1, 1], "b": [0.5], "none": []}, {"a": 0.8, "b": 0.2, "none": 0.0}
    interval = statistics.stratified_mean(values, shares, populations={"a": 4, "b": 1}, without_replacement=True)
    assert interval == pytest.approx((0.7, 0.7, 0.7, 5))


def test_bounds_shift_and_scale():
    rng = np.random.default_rng(5)
    values, shares = [rng.random(7), rng.random(9)], named([0.3, 0.7])
    unit = statistics.stratified_mean(named(values), shares)
    moved = statistics.stratified_mean(named([4 * one - 1 for one in values]), shares, bounds=(-1, 3))
    np.testing.assert_allclose(moved[:3], 4 * np.array(unit[:3]) - 1, rtol=1e-12)


def test_nan_is_not_hidden():
    interval = statistics.stratified_mean({"a": [0.1, math.nan], "b": [0.2, 0.3]}, {"a": 0.5, "b": 0.5})
    assert np.isnan(interval[:3]).all()


def two_phase_campaign(rng, shares, rates):
    pilot = named([(rng.random(10) < rate).astype(float) for rate in rates])
    counts = statistics.neyman_allocation(shares, statistics.smoothed_deviations(pilot), 100)
    main = {name: (rng.random(counts[name]) < rate).astype(float) for name, rate in zip(shares, rates, strict=True)}
    return pilot, main


def test_two_phases_have_no_bias_where_pooling_has():
    """Truth within 3.5 standard errors of 4,000 campaigns; the pooled mean is more than 5 below it."""
    shares, rates = named([0.5, 0.3, 0.2]), (0.05, 0.1, 0.5)
    truth, rng, found, pooled = np.dot(list(shares.values()), rates), np.random.default_rng(6), [], []
    for _ in range(4_000):
        pilot, main = two_phase_campaign(rng, shares, rates)
        found.append(statistics.two_phase_mean(pilot, main, shares))
        pooled.append(sum(share * np.append(pilot[name], main[name]).mean() for name, share in shares.items()))
    values, low, high = np.array(found)[:, :3].T
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - truth) < 3.5 * error
    assert np.mean(pooled) < truth - 5 * error
    assert np.mean((low <= truth) & (truth <= high)) >= 0.94
    assert found[0].count == 130


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f({"a": [0, 1]}, {"a": 0.5, "b": 0.5}), "values must have an observation .* got none of 'b'"),
        (lambda f: f({"a": [0, 1], "b": []}, {"a": 0.5, "b": 0.5}), "an observation of every .* got none of 'b'"),
        (lambda f: f({"a": [0, 1], "c": [1]}, {"a": 1.0}), r"shares must have every .* got none for \['c'\]"),
        (lambda f: f({"a": [0, 1]}, {"a": 0.9}), "shares must sum to 1, got 0.9; divide them by their sum"),
        (lambda f: f({"a": [0, 1]}, {"a": 1.5, "b": -0.5}), r"shares must lie in \[0, 1\], got 1.5 for stratum 'a'"),
        (lambda f: f({"a": [0, 2]}, {"a": 1.0}), r"values must lie within bounds = \(0.0, 1.0\), got 0.0 to 2.0"),
        (lambda f: f({"a": [[1.0]]}, {"a": 1.0}), r"values\['a'\] must be one-dimensional, got shape \(1, 1\)"),
        (lambda f: f({"a": [1]}, {"a": 1.0}, bounds=(0, math.inf)), r"bounds must be finite, got \(0, inf\)"),
        (lambda f: f({"a": [1]}, {"a": 1.0}, confidence=95), r"confidence must lie in \(0, 1\), got 95"),
        (lambda f: f({"a": [1]}, {"a": 1.0}, without_replacement=True), "populations must give the size .* got None"),
        (
            lambda f: f({"a": [1, 0]}, {"a": 1.0}, without_replacement=True, populations={"a": 1}),
            "populations must be at least .* got 1 for stratum 'a' with 2 observations",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(statistics.stratified_mean)


@pytest.mark.parametrize("missing", ["pilot", "main"])
def test_two_phases_need_every_stratum_in_both(missing):
    phases = {name: {"a": [0, 1], "b": [0, 1]} for name in ("pilot", "main")}
    phases[missing] = {"a": [0, 1]}
    with pytest.raises(ValueError, match=f"{missing} must have an observation of every .* got none of 'b'"):
        statistics.two_phase_mean(phases["pilot"], phases["main"], {"a": 0.5, "b": 0.5})
