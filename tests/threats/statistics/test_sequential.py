"""Confidence sequences: against a plain loop over the definition, coverage over whole paths, independence of chunks."""

import math

import numpy as np
import pytest

from threats import statistics
from threats.statistics import sequential


def by_definition(values, candidates, alpha):
    """Every candidate's capital, value by value, in Python floats: what Ville's inequality leaves of the candidates."""
    low, high = 0.0, 1.0
    for number in range(1, candidates + 1):
        mean = (1 - math.cos(math.pi * number / (candidates + 1))) / 2
        above, below = sequential.WEIGHTS.tolist(), sequential.WEIGHTS.tolist()
        for value in values:
            for k, fraction in enumerate(sequential.FRACTIONS.tolist()):
                above[k] *= 1 + fraction / mean * (value - mean)
                below[k] *= 1 - fraction / (1 - mean) * (value - mean)
            if sum(above) >= 2 / alpha:
                low = max(low, mean)
            if sum(below) >= 2 / alpha:
                high = min(high, mean)
    return low, high


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("kind", ["decisions", "shares", "zeros"])
def test_sequence_agrees_with_a_loop_over_the_definition(kind, confidence):
    rng = np.random.default_rng(0)
    values = {"decisions": rng.random(150) < 0.2, "shares": rng.beta(0.3, 0.9, 150), "zeros": np.zeros(150)}[kind]
    found = statistics.ConfidenceSequence(confidence=confidence, candidates=60).update(values)
    low, high = by_definition(values.astype(float).tolist(), 60, 1 - confidence)
    np.testing.assert_allclose(found, (values.mean(), low, high, 150), rtol=1e-12)
    assert high < 0.6
    assert low > 0 or kind == "zeros"


def test_weights_are_the_capital_at_the_start():
    assert sequential.WEIGHTS.sum() == pytest.approx(1.0, rel=1e-15)
    assert 0 < sequential.FRACTIONS.min() < sequential.FRACTIONS.max() < 1


def excluded(draw, mean, *, looks, campaigns):
    """Share of campaigns in which the mean is left out at any of the looks, one after every value."""
    means, enough = np.full(campaigns, mean), 2 / 0.05
    above = below = np.repeat(sequential.WEIGHTS[:, None], campaigns, axis=1)
    ever = np.zeros(campaigns, bool)
    for _ in range(looks // 100):
        values = draw((100, campaigns))
        won, above = sequential.wealth(values, means, above)
        lost, below = sequential.wealth(1 - values, 1 - means, below)
        ever |= np.any((won >= enough) | (lost >= enough), axis=0)
    return ever.mean()


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.1, 0.5])
def test_whole_paths_contain_the_rate(rate):
    """2,000 campaigns of 2,000 looks. 5 % may lose it, 1 % to 3 % do: the bound is for looking on without end.

    The mean itself is the candidate here. The class has its candidates left and right of it and ends at the next one
    outside, so it contains the mean where this does.
    """
    rng = np.random.default_rng(1)
    found = excluded(lambda shape: (rng.random(shape) < rate).astype(float), rate, looks=2_000, campaigns=2_000)
    assert found <= 0.05


def test_whole_paths_contain_the_mean_of_values_between():
    """Shares of images whose answer changes: nearly always none, sometimes a few, rarely all."""
    rng = np.random.default_rng(2)

    def draw(shape):
        return np.where(rng.random(shape) < 0.05, rng.beta(0.5, 0.5, shape), 0.0)

    assert excluded(draw, 0.025, looks=2_000, campaigns=1_000) <= 0.05


def test_the_promise_is_nearly_used_up():
    """Over 20,000 looks about 3 % of campaigns lose a rate of 0.5; a standard error of 300 campaigns is 1 point."""
    rng = np.random.default_rng(3)
    found = excluded(lambda shape: (rng.random(shape) < 0.5).astype(float), 0.5, looks=20_000, campaigns=300)
    assert 0.01 <= found <= 0.07


def test_stopping_when_it_suits_keeps_the_promise_and_breaks_that_of_a_fixed_number():
    """A campaign that stops as soon as its interval leaves out 0.1, the truth: 80 campaigns of 25 looks."""
    rng = np.random.default_rng(4)
    fooled = {"sequence": 0, "wilson": 0}
    for _ in range(80):
        flags = rng.random(1_000) < 0.1
        sequence = statistics.ConfidenceSequence(candidates=500)
        looks = [sequence.update(chunk) for chunk in flags.reshape(-1, 40)]
        fooled["sequence"] += any(not one.low <= 0.1 <= one.high for one in looks)
        looks = [statistics.wilson(int(flags[:count].sum()), count) for count in range(40, 1_001, 40)]
        fooled["wilson"] += any(not one.low <= 0.1 <= one.high for one in looks)
    assert fooled["sequence"] <= 4
    assert fooled["wilson"] >= 12


@pytest.mark.parametrize("size", [1, 7, 100, 333])
def test_chunks_do_not_matter(size):
    rng = np.random.default_rng(5)
    values = np.where(rng.random(333) < 0.1, rng.random(333), 0.0)
    whole, cut = statistics.ConfidenceSequence(), statistics.ConfidenceSequence()
    expected = whole.update(values)
    for start in range(0, 333, size):
        found = cut.update(values[start : start + size])
    assert found == expected
    assert cut.update([]) == expected
    values = np.where(rng.random(100) < 0.1, rng.random(100), 0.0)
    assert cut.update(values) == whole.update(values), "and go on alike"
    assert expected.high < 0.2, "otherwise nothing was learnt"


def test_intervals_lie_within_each_other_around_the_value():
    rng = np.random.default_rng(6)
    sequence, before = statistics.ConfidenceSequence(), (0.0, 1.0)
    for count, chunk in enumerate((rng.random((40, 25)) < 0.3).astype(float), start=1):
        found = sequence.update(chunk)
        assert before[0] <= found.low <= found.value <= found.high <= before[1]
        assert found.count == 25 * count
        before = found.low, found.high
    assert before[1] - before[0] < 0.12


def test_width_is_near_that_of_a_fixed_number():
    """The price of looking at any time: 1.5 to 1.7 times Wilson's interval, which may be looked at once."""
    rng = np.random.default_rng(7)
    for count, rate in ((100, 0.02), (1_000, 0.02), (1_000, 0.3), (10_000, 0.3)):
        found = [statistics.ConfidenceSequence().update(rng.random(count) < rate) for _ in range(3)]
        fixed = statistics.wilson(round(count * rate), count)
        ratio = np.mean([one.high - one.low for one in found]) / (fixed.high - fixed.low)
        assert 1.2 < ratio < 1.9


def empirical_bernstein(values, alpha):
    """Theorem 2 of the same paper, the predictable plug-in, with its suggested bets and the running intersection."""
    number = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (number + 1)
    variances = np.append(0.25, (0.25 + np.cumsum((values - means) ** 2)) / (number + 1))[:-1]
    bets = np.minimum(np.sqrt(2 * np.log(2 / alpha) / (variances * number * np.log(1 + number))), 0.5)
    squares = 4 * (values - np.append(0.5, means)[:-1]) ** 2
    half = np.log(2 / alpha) + np.cumsum(squares * (-np.log1p(-bets) - bets) / 4)
    centre = np.cumsum(bets * values) / np.cumsum(bets)
    return max(0.0, np.max(centre - half / np.cumsum(bets))), np.min(centre + half / np.cumsum(bets))


@pytest.mark.parametrize(("count", "rate"), [(100, 0.02), (1_000, 0.3), (10_000, 0.3)])
def test_narrower_than_the_empirical_bernstein_sequence(count, rate):
    values = (np.random.default_rng(8).random(count) < rate).astype(float)
    found, (low, high) = statistics.ConfidenceSequence().update(values), empirical_bernstein(values, 0.05)
    assert low <= rate <= high
    assert found.high - found.low < 0.95 * (high - low)


def test_values_of_little_spread_give_a_narrow_interval():
    """It sees the variance: shares around a quarter are known far better than decisions with that rate."""
    rng = np.random.default_rng(9)
    little = statistics.ConfidenceSequence().update(rng.beta(10, 30, 1_000))
    much = statistics.ConfidenceSequence().update(rng.random(1_000) < 0.25)
    assert little.high - little.low < 0.25 * (much.high - much.low)
    assert little.low <= 0.25 <= little.high


def test_bounds_shift_and_scale():
    values = np.random.default_rng(10).random(200)
    unit = statistics.ConfidenceSequence().update(values)
    moved = statistics.ConfidenceSequence(bounds=(-1, 3)).update(4 * values - 1)
    np.testing.assert_allclose(moved[:3], 4 * np.array(unit[:3]) - 1, rtol=1e-9)


def test_before_the_first_value_all_is_possible():
    found = statistics.ConfidenceSequence(bounds=(-1, 1)).update([])
    assert math.isnan(found.value)
    assert found[1:] == (-1, 1, 0)


def test_nan_is_not_hidden():
    sequence = statistics.ConfidenceSequence()
    sequence.update(np.zeros(50))
    assert np.isnan(sequence.update([math.nan])[:3]).all()
    assert np.isnan(sequence.update(np.zeros(50))[:3]).all()


@pytest.mark.parametrize("size", [1, 50, 600])
def test_values_without_one_mean_leave_nothing(size):
    sequence, values = statistics.ConfidenceSequence(candidates=100), np.repeat([0.0, 1.0], 300)
    for start in range(0, 600, size):
        found = sequence.update(values[start : start + size])
    assert found.value == 0.5
    assert np.isnan(found[1:3]).all()
    assert not statistics.reached(found, half_width=0.5)


def test_refused_values_change_nothing():
    sequence = statistics.ConfidenceSequence()
    before = sequence.update([0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match=r"values must lie within bounds = \(0.0, 1.0\), got 0.0 to 2.0"):
        sequence.update([0.0, 2.0])
    assert sequence.update([]) == before


def test_reached():
    interval = statistics.Interval(0.5, 0.25, 0.75, 10)
    assert statistics.reached(interval, half_width=0.25)
    assert not statistics.reached(interval, half_width=0.2499)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.ConfidenceSequence(confidence=95), r"confidence must lie in \(0, 1\), got 95"),
        (lambda: statistics.ConfidenceSequence(bounds=(0, math.inf)), r"bounds must be finite .* got \(0, inf\)"),
        (lambda: statistics.ConfidenceSequence(bounds=(1, 1)), r"with low < high, got \(1, 1\)"),
        (lambda: statistics.ConfidenceSequence(candidates=0), "candidates must be a whole number >= 1, got 0"),
        (lambda: statistics.ConfidenceSequence().update([[1.0]]), "values must be one-dimensional"),
        (lambda: statistics.reached(statistics.wilson(1, 2), half_width=0), "half_width must be positive, got 0"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
