"""Intervals that stay valid however often one looks, so that a campaign may stop as soon as it knows enough.

A confidence interval holds for a number of trials fixed beforehand. Looked at after every chunk, until it is narrow or
leaves out what one hoped it would, it misses the truth far more often than it says. A confidence sequence contains the
mean at all times at once with probability `confidence`.

For each candidate mean m, one gambler bets on values above m, and one on values below, each with capital 1:

    above(m) = sum_k w_k prod_i (1 + g_k (x_i / m - 1))
    below(m) = sum_k w_k prod_i (1 + g_k ((1 - x_i) / (1 - m) - 1))

for values x_i in [0, 1]. If m is the mean, each game is fair, and a fair game ever multiplies the capital by 2 / alpha
with probability at most alpha / 2 (Ville's inequality), alpha = 1 - confidence. So m is left out for good as soon as
one of the two has that. above(m) falls and below(m) grows with m, so what is left is an interval. Nothing is assumed
but the range, and that the mean of each value, given the ones before, is the same: as of trials drawn at random.

Each gambler divides the capital among fractions g_k that halve from 0.9 on: large ones find rare events and decide
among few values, small ones among many; the weights w_k favour the first. Measured on zeros and ones with rates from
0.002 to 0.3: 100 to 10,000 of them give an interval from a third narrower (rate 0.3, 10,000 values) to a tenth wider
(0.02, 300) than the reference's plug-in bets do, and never a wider one than its empirical-Bernstein sequence.

Reference: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024, theorem 3
(hedged capital), with its mixtures of bets on a grid ("hedged grid Kelly"), here a geometric one.
"""

import math

import numpy as np
from numpy import typing as npt

from threats.statistics import interval

FRACTIONS = 0.9 * 0.5 ** np.arange(10)
WEIGHTS = 0.75 ** np.arange(10) / np.sum(0.75 ** np.arange(10))
_BLOCK = 64  # values at a time, so that few are spent on candidates that are already left out


class ConfidenceSequence:
    """Anytime-valid interval of the mean of values in a known range, such as the rate of silent data corruptions.

    The intervals of a sequence lie within each other. They depend on the values and their order, not on how these were
    cut into updates: to resume a campaign, make a new sequence and give it the values again.

    Example:
      >>> sequence = statistics.ConfidenceSequence()
      >>> for chunk in chunks:
      ...     if statistics.reached(sequence.update(chunk), half_width=0.01):
      ...         break

    Args:
      confidence: in (0, 1).
      bounds: (low, high), finite, low < high: the range that the values are known to lie in.
      candidates: number of candidate means, closer near the ends of the range. The interval is extended to the next
        one, which adds a hundredth of its width for 10,000 values that are 0 or 1; values with less spread and longer
        campaigns need more.

    Raises:
      ValueError: if an option is out of its range.
    """

    def __init__(
        self, *, confidence: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0), candidates: int = 4096
    ) -> None:
        interval.check_confidence(confidence)
        if not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"bounds must be finite (low, high) with low < high, got {bounds}")
        if candidates < 1 or candidates != int(candidates):
            raise ValueError(f"candidates must be a whole number >= 1, got {candidates}")
        self._bounds = bounds
        self._enough = 2 / (1 - confidence)
        # As far apart as a standard error of zeros and ones, sqrt(m (1 - m)), is large.
        self._means = (1 - np.cos(np.pi * np.arange(1, candidates + 1) / (candidates + 1))) / 2
        self._above = np.repeat(WEIGHTS[:, None], candidates, axis=1)
        self._below = self._above.copy()
        self._low, self._high, self._sum, self._count = 0.0, 1.0, 0.0, 0

    def update(self, values: npt.ArrayLike) -> interval.Interval:
        """The interval after further values.

        Args:
          values: [n] observations within the bounds, up to float32 rounding; n may be 0.

        Returns:
          The interval so far; its value is the mean of all values, or the bound next to it if that lies outside. After
          a NaN all three are NaN. If no candidate is left, low and high are NaN for good: with probability of at most
          1 - confidence that happens by chance, and otherwise the values do not share one mean.

        Raises:
          ValueError: if `values` is not one-dimensional or outside of the bounds; nothing has changed then.
        """
        smallest, largest = self._bounds
        values = interval.within(interval.rows("values", values), self._bounds)
        values = (values - smallest) / (largest - smallest)
        for start in range(0, values.size, _BLOCK):
            self._bet(values[start : start + _BLOCK])
        # One after the other, as the capital: np.sum's order would depend on how many came at once.
        self._sum = float(np.cumsum(np.append(self._sum, values))[-1])
        self._count += values.size
        return self._interval()

    def _bet(self, values: np.ndarray) -> None:
        above, self._above = wealth(values[:, None], self._means, self._above)
        below, self._below = wealth(1 - values[:, None], 1 - self._means, self._below)
        self._low = float(np.max(self._means[np.any(above >= self._enough, axis=0)], initial=self._low))
        self._high = float(np.min(self._means[np.any(below >= self._enough, axis=0)], initial=self._high))
        # The outermost candidates go on being bet on: if one is left out on both sides, nothing is left between.
        kept = (self._low <= self._means) & (self._means <= self._high)
        self._means, self._above, self._below = self._means[kept], self._above[:, kept], self._below[:, kept]

    def _interval(self) -> interval.Interval:
        smallest, largest = self._bounds
        if self._count == 0:
            return interval.Interval(math.nan, smallest, largest, 0)
        mean, low, high = self._sum / self._count, self._low, self._high
        if math.isnan(mean) or low >= high:
            low = high = math.nan
        else:
            mean = min(max(mean, low), high)
        value, low, high = (smallest + (largest - smallest) * one for one in (mean, low, high))
        return interval.Interval(value, low, high, self._count)


def reached(found: interval.Interval, *, half_width: float) -> bool:
    """Whether an interval is as narrow as +- `half_width`; one with NaN never is.

    To stop a campaign by it, take a `ConfidenceSequence`: other intervals do not hold at a time that depends on them.

    Raises:
      ValueError: if `half_width` is not positive.
    """
    if not half_width > 0:
        raise ValueError(f"half_width must be positive, got {half_width}")
    return (found.high - found.low) / 2 <= half_width


def wealth(values: np.ndarray, means: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Capital of those who bet on values above each mean, after each value.

    Args:
      values: [t, 1 or c] in [0, 1].
      means: [c] in (0, 1).
      start: [k, c], what each has for each of the `FRACTIONS`.

    Returns:
      [t, c], the capital over time, and [k, c], what each has at the end for each fraction.
    """
    total, last = np.zeros((len(values), len(means))), np.empty_like(start)
    odds = values / means - 1
    with np.errstate(over="ignore"):  # a candidate far off; without limit is enough
        for number, fraction in enumerate(FRACTIONS):
            path = np.cumprod(np.concatenate([start[number : number + 1], 1 + fraction * odds]), axis=0)[1:]
            total += path
            last[number] = path[-1]
    return total, last
