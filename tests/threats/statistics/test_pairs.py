"""The interval of the difference of paired proportions against published examples and its own coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from threats import statistics


def _pairs(both: int, first: int, second: int, neither: int):
    """a and b [n] of a table of counts."""
    a = [1] * (both + first) + [0] * (second + neither)
    b = [1] * both + [0] * first + [1] * second + [0] * neither
    return a, b


# Cavo et al. 2012 and Bentur et al. 2009, as Fagerland, Lydersen and Laake print them.
@pytest.mark.parametrize(
    ("table", "expected"),
    [((59, 6, 16, 80), (-0.0621, -0.1186, -0.0046)), ((1, 1, 7, 12), (-0.286, -0.507, -0.026))],
)
def test_published_examples(table, expected):
    found = statistics.paired_proportions(*_pairs(*table))
    digits = 4 if table[0] == 59 else 3
    assert tuple(round(x, digits) for x in found[:3]) == expected
    assert found.count == sum(table)


def test_mirrored_when_the_two_change_places():
    a, b = _pairs(7, 5, 2, 9)
    found, mirrored = statistics.paired_proportions(a, b), statistics.paired_proportions(b, a)
    np.testing.assert_allclose(mirrored[:3], (-found.value, -found.high, -found.low), atol=1e-12)


def test_without_correlation_it_is_the_interval_of_independent_proportions():
    # eh = fg, so that phi is 0.
    a, b = _pairs(6, 6, 3, 3)
    found = statistics.paired_proportions(a, b)
    alone = statistics.independent_difference(statistics.wilson(12, 18), statistics.wilson(9, 18))
    np.testing.assert_allclose(found[:3], alone[:3], atol=1e-12)


def test_pairs_that_agree_narrow_it_but_leave_a_width():
    a, b = _pairs(20, 2, 1, 9)
    found = statistics.paired_proportions(a, b)
    alone = statistics.independent_difference(statistics.wilson(22, 32), statistics.wilson(21, 32))
    assert found.high - found.low < 0.7 * (alone.high - alone.low)
    equal = statistics.paired_proportions(*_pairs(20, 0, 0, 12))
    assert equal.value == 0
    assert equal.low < -0.03
    assert equal.high > 0.03


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1, 0.3), (0.1, 0.3, 0.05, 0.55), (0.8, 0.02, 0.1, 0.08)])
def test_covers_as_often_as_it_says(shares):
    """Exactly, over all tables of 30 pairs: near 95 %, and where few pairs differ, above."""
    count, truth, covered = 30, shares[1] - shares[2], 0.0
    for both, first, second in itertools.product(range(count + 1), repeat=3):
        neither = count - both - first - second
        if neither < 0:
            continue
        table = (both, first, second, neither)
        chance = stats.multinomial.pmf(table, count, shares)
        if chance > 1e-7:
            found = statistics.paired_proportions(*_pairs(*table))
            covered += chance * (found.low <= truth <= found.high)
    assert 0.935 < covered < 0.99


def test_no_pairs():
    found = statistics.paired_proportions([], [])
    assert math.isnan(found.value)
    assert tuple(found[1:]) == (-1.0, 1.0, 0)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [([1, 0], [1], "same length"), ([1, 0.5], [1, 0], "0 and 1 alone"), ([[1]], [[1]], "one-dimensional")],
)
def test_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        statistics.paired_proportions(a, b)
    with pytest.raises(ValueError, match="confidence"):
        statistics.paired_proportions([1], [1], confidence=1.0)
