"""Intervals of a proportion: how often something happened in independent trials.

    Wilson       centre = (p + z^2 / 2n) / (1 + z^2 / n),
                 half   = z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2),   p = successes / n
    exact        B(alpha/2; k, n - k + 1) to B(1 - alpha/2; k + 1, n - k),   B the quantile of a Beta distribution,
                 k = successes, alpha = 1 - confidence

Wilson's coverage is near the nominal one on average over all rates; at a single rate it goes a little above and below,
most at rates near 0 and 1. The exact interval covers at least as often as it says at every rate, and is wider for it.

References: Wilson, "Probable inference, the law of succession, and statistical inference", 1927. Clopper and Pearson,
"The use of confidence or fiducial limits illustrated in the case of the binomial", 1934.
"""

import math

from scipy import stats

from threats.statistics import interval


def wilson(successes: int, count: int, *, confidence: float = 0.95) -> interval.Interval:
    """Wilson's score interval of a proportion, such as an accuracy; sound for few trials and near 0 and 1.

    Args:
      successes: whole number in [0, count].
      count: number of independent trials, >= 0. With none the interval is [0, 1] and the value NaN.
      confidence: in (0, 1).

    Raises:
      ValueError: if a number is out of its range or not whole.
    """
    _check(successes, count, confidence)
    if count == 0:
        return interval.Interval(math.nan, 0.0, 1.0, 0)
    n, p = int(count), int(successes) / int(count)
    z = stats.norm.isf((1 - confidence) / 2)
    shrink = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At 0 and at n successes the bound is p itself, up to rounding.
    low = 0.0 if p == 0 else centre - half
    high = 1.0 if p == 1 else centre + half
    return interval.Interval(p, float(low), float(high), n)


def clopper_pearson(successes: int, count: int, *, confidence: float = 0.95) -> interval.Interval:
    """Exact interval of a proportion: covers at least as often as `confidence` says, whatever the true rate.

    Args:
      successes: whole number in [0, count].
      count: number of independent trials, >= 0. With none the interval is [0, 1] and the value NaN.
      confidence: in (0, 1).

    Raises:
      ValueError: if a number is out of its range or not whole.
    """
    _check(successes, count, confidence)
    if count == 0:
        return interval.Interval(math.nan, 0.0, 1.0, 0)
    k, n, tail = int(successes), int(count), (1 - confidence) / 2
    low = stats.beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0
    high = stats.beta.isf(tail, k + 1, n - k) if k < n else 1.0
    return interval.Interval(k / n, float(low), float(high), n)


def _check(successes: int, count: int, confidence: float) -> None:
    interval.check_confidence(confidence)
    if count < 0 or count != int(count):
        raise ValueError(f"count must be a whole number >= 0, got {count}")
    if not 0 <= successes <= count or successes != int(successes):
        raise ValueError(f"successes must be a whole number from 0 to count = {count}, got {successes}")
