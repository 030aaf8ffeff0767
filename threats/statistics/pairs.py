"""Interval of the difference of two proportions counted on the same things, such as two models on one set of images.

    table     e of n right in both, f in a alone, g in b alone, h in neither
    low       D - sqrt(x^2 - 2 phi x y + y^2),   D = (f - g) / n,  x = p_a - low_a,  y = high_b - p_b
    high      D + sqrt(x^2 - 2 phi x y + y^2),   x = p_b - low_b,  y = high_a - p_a
    phi       c / sqrt((e + f) (g + h) (e + g) (f + h)),   c = max(eh - fg - n/2, 0) where eh >= fg, else eh - fg

with Wilson's bounds of either proportion. Without the correlation phi it is the interval of independent proportions.
Where nearly all pairs agree, Student's interval of paired differences is too narrow; this one stays about as wide as
that of a proportion near 0.

References: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired
data", 1998, method 10. Fagerland, Lydersen and Laake, "Recommended tests and confidence intervals for paired binomial
proportions", 2014.
"""

import math

import numpy as np
from numpy import typing as npt

from threats.statistics import interval, proportions


def paired_proportions(a: npt.ArrayLike, b: npt.ArrayLike, *, confidence: float = 0.95) -> interval.Interval:
    """The difference mean(a) - mean(b) where a[i] and b[i] are of the same image.

    Args:
      a, b: [n] of 0 and 1 (or bool), n independent pairs. With none the interval is [-1, 1] and the value NaN.
      confidence: in (0, 1).

    Returns:
      The difference in [-1, 1] with its interval; the count is n.

    Raises:
      ValueError: if the lengths differ, an entry is neither 0 nor 1, or `confidence` is out of range.

    Example:
      >>> paired_proportions([1, 1, 1, 0], [1, 0, 0, 0]).value
      0.5
    """
    interval.check_confidence(confidence)
    a, b = interval.rows("a", a), interval.rows("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same length, got {a.size} and {b.size}")
    if not np.isin((a, b), (0, 1)).all():
        raise ValueError("a and b must hold 0 and 1 alone")
    if a.size == 0:
        return interval.Interval(math.nan, -1.0, 1.0, 0)
    of_a, of_b = (proportions.wilson(int(x.sum()), x.size, confidence=confidence) for x in (a, b))
    phi, value = _correlation(a, b), of_a.value - of_b.value
    low = value - _side(of_a.value - of_a.low, of_b.high - of_b.value, phi)
    high = value + _side(of_b.value - of_b.low, of_a.high - of_a.value, phi)
    return interval.Interval(value, low, high, a.size)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """phi of the table, with the correction towards 0 where it is positive; 0 where a margin is empty."""
    both, neither = float(a @ b), float((1 - a) @ (1 - b))
    of_a, of_b, count = float(a.sum()), float(b.sum()), a.size
    product = of_a * (count - of_a) * of_b * (count - of_b)
    if product == 0:
        return 0.0
    cross = both * neither - (of_a - both) * (of_b - both)
    return (max(cross - count / 2, 0.0) if cross >= 0 else cross) / math.sqrt(product)


def _side(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(x**2 - 2 * phi * x * y + y**2, 0.0))
