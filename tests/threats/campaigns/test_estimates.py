"""Intervals hold as often as they say, for values as faults make them: a constant, and rare large losses."""

import numpy as np
import pytest

from threats.campaigns import estimates

CAMPAIGNS = 2000


def _values(rng, count, chance):
    """[count] accuracies: 0.95, or with some chance 0.1 or 0.5; and their true mean."""
    lost = rng.random((CAMPAIGNS, count)) < chance
    values = np.where(lost, np.where(rng.random(lost.shape) < 0.5, 0.1, 0.5), 0.95)
    return values, 0.95 * (1 - chance) + 0.3 * chance


@pytest.mark.parametrize("count", [100, 400, 2000])
@pytest.mark.parametrize("chance", [0.001, 0.003, 0.01, 0.03])
def test_means_with_rare_losses_are_covered(count, chance):
    values, truth = _values(np.random.default_rng(count), count, chance)
    found = [estimates.of(each, confidence=0.95) for each in values]
    assert np.mean([interval.low <= truth <= interval.high for interval in found]) >= 0.95


@pytest.mark.parametrize("chance", [0.003, 0.03])
def test_differences_are_covered(chance):
    values, truth = _values(np.random.default_rng(1), 400, chance)
    found = [estimates.of(each - 0.95, confidence=0.95, bounds=(-1.0, 1.0)) for each in values]
    assert np.mean([interval.low <= truth - 0.95 <= interval.high for interval in found]) >= 0.95


def test_shares_have_a_share_s_interval():
    each = np.array([0.0, 1.0, 0.0, 0.0])
    wilson, exact = (estimates.of(each, confidence=0.95, exact=exact) for exact in (False, True))
    assert wilson.value == exact.value == 0.25
    assert exact.high - exact.low > wilson.high - wilson.low
