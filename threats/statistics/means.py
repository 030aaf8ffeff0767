"""Student's t interval of a mean and of paired differences, and one that rare large values do not deceive.

Student      mean +- t_{n-1} s / sqrt(n)
all equal    v -+ (1 - alpha^(1/n)) (distance from v to each bound),   alpha = 1 - confidence
bounded      as of one stratum, see `stratified`
"""

import math

import numpy as np
from numpy import typing as npt
from scipy import stats

from threats.statistics import interval, proportions, stratified


def mean(
    values: npt.ArrayLike, *, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> interval.Interval:
    """Student's t interval of a mean, such as a loss over images; for an accuracy over fault trials see `bounded_mean`.

    Equal values have no spread, but do not prove that no other value exists. If a share q of all trials gave anything
    else than v, n trials would all give v with probability (1 - q)^n; that is at least alpha = 1 - confidence up to
    q = 1 - alpha^(1/n), the exact bound of zero failures (about 3 / n at 95 %). With `bounds`, the interval is q times
    the distance from v to each bound. Without, it has no width: for a proportion use `wilson`.

    Args:
      values: [n] independent observations. One value says nothing of the spread and none says nothing at all: the
        interval is then infinite, or `bounds`.
      confidence: in (0, 1).
      bounds: the range that the values are known to lie in, such as (0, 1), up to float32 rounding; the interval
        is cut to it, and has a width even if all values are equal.

    Raises:
      ValueError: if `values` is not one-dimensional, lies outside of `bounds`, or `confidence` is out of range.
    """
    interval.check_confidence(confidence)
    values = interval.rows("values", values)
    smallest, largest = (-math.inf, math.inf) if bounds is None else bounds
    values = interval.within(values, (smallest, largest))
    if values.size == 0:
        return interval.Interval(math.nan, smallest, largest, 0)
    with np.errstate(invalid="ignore"):  # inf - inf: the NaN is the answer
        centre = float(values.mean())
        half = math.inf if values.size == 1 else _half_width(values, confidence)
        if bounds is not None and values.size > 1 and values.min() == values.max():
            centre = float(values[0])
            others = 1 - (1 - confidence) ** (1 / values.size)
            low, high = centre - others * (centre - smallest), centre + others * (largest - centre)
        else:
            low, high = np.clip((centre - half, centre + half), smallest, largest)
    return interval.Interval(centre, float(low), float(high), values.size)


def bounded_mean(
    values: npt.ArrayLike, *, bounds: tuple[float, float] = (0.0, 1.0), confidence: float = 0.95
) -> interval.Interval:
    """Mean of values within bounds of which most are alike and few far off, such as an accuracy over fault trials.

    Of such values Student's interval holds in 87 to 95 % of the cases that ask for 95 %: often none of the rare ones
    was drawn. This one adds about four observations at the ends of the range, as Agresti and Coull do for shares; of
    values that are all 0 or 1 it is Wilson's.

    Args:
      values: [n] independent observations, n >= 1.
      bounds: (low, high), finite: the range that the values are known to lie in, up to float32 rounding.
      confidence: in (0, 1).

    Raises:
      ValueError: as `stratified.stratified_mean` does.
    """
    values = interval.rows("values", values)
    if bounds == (0.0, 1.0) and np.all((values == 0) | (values == 1)):
        return proportions.wilson(int(values.sum()), values.size, confidence=confidence)
    return stratified.stratified_mean({"": values}, {"": 1.0}, bounds=bounds, confidence=confidence)


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> interval.Interval:
    """Student's t interval of mean(a - b) where a[i] and b[i] belong to the same image or trial.

    What the pairs have in common cancels, so it is narrower than comparing two separate intervals.

    Args:
      a: [n] observations.
      b: [n] observations of the same n things.
      confidence: in (0, 1).
      bounds: range that the differences are known to lie in, such as (-1, 1) for accuracies.

    Raises:
      ValueError: if the lengths differ, or as `mean` does.
    """
    a, b = interval.rows("a", a), interval.rows("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same length, got {a.size} and {b.size}")
    with np.errstate(invalid="ignore"):  # inf - inf: the NaN is the answer
        difference = a - b
    return mean(difference, confidence=confidence, bounds=bounds)


def _half_width(values: np.ndarray, confidence: float) -> float:
    quantile = stats.t.isf((1 - confidence) / 2, values.size - 1)
    return float(quantile * values.std(ddof=1) / math.sqrt(values.size))
