"""Interval of the difference of two estimates that were drawn apart, made from the interval of each.

    low  = (a - b) - sqrt((a - low_a)^2 + (high_b - b)^2)
    high = (a - b) + sqrt((high_a - a)^2 + (b - low_b)^2)

Of two proportions with Wilson's intervals this is Newcombe's, his method 10. The same holds of any two estimates whose
intervals hold: the squared distance from each to its bound is its variance as it is near that bound, and variances of
what is independent add up. So a skewed interval gives a skewed difference, and exact figures an exact one.

References: Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven
methods", 1998. Zou and Donner, "Construction of confidence limits about effect measures: a general approach", 2008.
"""

import math

from threats.statistics import interval


def independent_difference(a: interval.Interval, b: interval.Interval) -> interval.Interval:
    """The difference a - b of two independent estimates; of the same things there is `paired_difference`.

    Args:
      a, b: with intervals at one confidence, which is then that of the difference.

    Returns:
      The difference, inside of its interval; its count is that of both together. What is not a number stays so.
    """
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return interval.Interval(value, low, high, a.count + b.count)
