"""How sure a measured number is: confidence intervals, and how many trials a campaign needs.

    Wilson       centre = (p + z^2 / 2n) / (1 + z^2 / n),
                 half   = z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2),   p = successes / n
    Student      mean +- t_{n-1} s / sqrt(n)
    all equal    v -+ (1 - alpha^(1/n)) (distance from v to each bound),   alpha = 1 - confidence
    bootstrap    quantiles q of the statistic v over rows drawn with replacement, tail = alpha / 2: percentile
                 [q_tail, q_{1-tail}], basic [2 v - q_{1-tail}, 2 v - q_tail]
    sample size  n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p)))

Everything here runs on the host, in float64 with NumPy and SciPy; nothing of it can be jitted. Values that are not
finite are not hidden: what they touch becomes NaN or infinite.

References: Wilson, "Probable inference, the law of succession, and statistical inference", 1927. Efron and Tibshirani,
"An Introduction to the Bootstrap", 1993, chapter 13. Leveugle, Calvez, Maistri and Vanhauwaert, "Statistical Fault
Injection: Quantified Error and Confidence", DATE 2009, equation 1.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy import typing as npt
from scipy import stats

Method = Literal["percentile", "basic"]
METHODS = ("percentile", "basic")


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
      value: the point estimate; NaN where there was nothing to estimate from.
      low: lower bound.
      high: upper bound.
      count: how many observations it rests on (images, trials).
    """

    value: float
    low: float
    high: float
    count: int


def wilson(successes: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, such as an accuracy; sound for few trials and near 0 and 1.

    Args:
      successes: whole number in [0, count].
      count: number of independent trials, >= 0. With none the interval is [0, 1] and the value NaN.
      confidence: in (0, 1).

    Raises:
      ValueError: if a number is out of its range or not whole.
    """
    _check_confidence(confidence)
    if count < 0 or count != int(count):
        raise ValueError(f"count must be a whole number >= 0, got {count}")
    if not 0 <= successes <= count or successes != int(successes):
        raise ValueError(f"successes must be a whole number from 0 to count = {count}, got {successes}")
    if count == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    n, p = int(count), int(successes) / int(count)
    z = stats.norm.isf((1 - confidence) / 2)
    shrink = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At 0 and at n successes the bound is p itself, up to rounding.
    low = 0.0 if p == 0 else centre - half
    high = 1.0 if p == 1 else centre + half
    return Interval(p, float(low), float(high), n)


def mean(values: npt.ArrayLike, *, confidence: float = 0.95, bounds: tuple[float, float] | None = None) -> Interval:
    """Student's t interval of a mean, such as a loss over images or an accuracy over trials.

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
    _check_confidence(confidence)
    values = _rows("values", values)
    smallest, largest = (-math.inf, math.inf) if bounds is None else bounds
    if not smallest <= largest:
        raise ValueError(f"bounds must be (low, high) with low <= high, got {bounds}")
    below = values < smallest - 1e-6 * max(1.0, abs(smallest))
    above = values > largest + 1e-6 * max(1.0, abs(largest))
    if np.any(below | above):
        raise ValueError(f"values must lie within bounds = {bounds}, got {values.min()} to {values.max()}")
    values = np.clip(values, smallest, largest)
    if values.size == 0:
        return Interval(math.nan, smallest, largest, 0)
    with np.errstate(invalid="ignore"):  # inf - inf: the NaN is the answer
        centre = float(values.mean())
        half = math.inf if values.size == 1 else _half_width(values, confidence)
        if bounds is not None and values.size > 1 and values.min() == values.max():
            centre = float(values[0])
            others = 1 - (1 - confidence) ** (1 / values.size)
            low, high = centre - others * (centre - smallest), centre + others * (largest - centre)
        else:
            low, high = np.clip((centre - half, centre + half), smallest, largest)
    return Interval(centre, float(low), float(high), values.size)


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> Interval:
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
    a, b = _rows("a", a), _rows("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same length, got {a.size} and {b.size}")
    with np.errstate(invalid="ignore"):  # inf - inf: the NaN is the answer
        difference = a - b
    return mean(difference, confidence=confidence, bounds=bounds)


def bootstrap(
    statistic: Callable[..., float],
    *arrays: npt.ArrayLike,
    seed: int = 0,
    replicates: int = 1000,
    confidence: float = 0.95,
    method: Method = "percentile",
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Bootstrap interval of any statistic of rows, such as an AUC or a balanced accuracy.

    "percentile" suits a statistic without bias. One that grows with noise, such as a calibration error (a mean of
    absolute values), is larger in resamples than in the sample, as it is larger in the sample than in truth: its
    percentiles lie above its own value. "basic" (reverse percentile) subtracts that bias once. Where the bias exceeds
    the spread, even that ends below the value; it is then extended to the value, which therefore always lies inside.

    A resample for which the statistic is NaN (an AUC without one of the classes) is left out, so the interval holds
    given that the statistic exists; if more than half are NaN, the bounds are NaN.

    Args:
      statistic: `(*arrays) -> float`.
      *arrays: each [n, ...] with n >= 1, resampled together by rows.
      seed: of the resampling; the same seed gives the same interval.
      replicates: number of resamples, >= 1.
      confidence: in (0, 1).
      method: one of `METHODS`.
      bounds: the range of the statistic, such as (0, 1); the interval is cut to it.

    Raises:
      ValueError: if there is no array, the arrays' lengths differ or are 0, or an option is out of range.
    """
    _check_confidence(confidence)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    arrays = tuple(np.asarray(array) for array in arrays)
    lengths = {len(array) if array.ndim else 0 for array in arrays}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"arrays must share one length >= 1, got lengths {sorted(lengths)}")
    count = lengths.pop()
    rng = np.random.default_rng(seed)
    rows = (rng.integers(0, count, count) for _ in range(replicates))
    resampled = np.array([float(statistic(*(array[row] for array in arrays))) for row in rows])
    value = float(statistic(*arrays))
    low, high = _quantiles(resampled, confidence)
    if method == "basic":
        with np.errstate(invalid="ignore"):  # inf - inf: the NaN is the answer
            low, high = np.minimum(2 * value - high, value), np.maximum(2 * value - low, value)
    if bounds is not None:
        low, high = np.clip((low, high), *bounds)
    return Interval(value, float(low), float(high), count)


def sample_size(population: int, *, half_width: float, confidence: float = 0.95, p: float = 0.5) -> int:
    """How many of all possible faults to inject, drawn without replacement, to know a proportion to +- `half_width`.

    n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p))), with t to three decimals and n to the nearest whole number, as the
    published figures are: for the 464,000,000 bits of 14.5 M float32 weights 384 faults (5 % at 95 %), 9,604 (1 % at
    95 %), 16,589 (1 % at 99 %).

    Args:
      population: number N of possible faults, e.g. bits, >= 1.
      half_width: e, of the interval, in (0, 1): 0.01 is one percentage point.
      confidence: in (0, 1).
      p: the expected proportion in (0, 1); 0.5 is the worst case.

    Raises:
      ValueError: if an option is out of range.

    Reference: Leveugle, Calvez, Maistri and Vanhauwaert, "Statistical Fault Injection: Quantified Error and
    Confidence", DATE 2009, equation 1.
    """
    _check_confidence(confidence)
    if population < 1:
        raise ValueError(f"population must be at least 1, got {population}")
    if not 0 < half_width < 1:
        raise ValueError(f"half_width must lie in (0, 1), got {half_width}")
    if not 0 < p < 1:
        raise ValueError(f"p must lie in (0, 1), got {p}")
    t = max(round(float(stats.norm.isf((1 - confidence) / 2)), 3), 0.001)
    size = population / (1 + half_width**2 * (population - 1) / (t**2 * p * (1 - p)))
    return max(1, round(size))


def _half_width(values: np.ndarray, confidence: float) -> float:
    quantile = stats.t.isf((1 - confidence) / 2, values.size - 1)
    return float(quantile * values.std(ddof=1) / math.sqrt(values.size))


def _quantiles(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    defined = resampled[~np.isnan(resampled)]
    if 2 * defined.size < resampled.size:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):  # a quantile between infinities is NaN
        return tuple(np.quantile(defined, (tail, 1 - tail)))


def _rows(name: str, values: npt.ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {values.shape}")
    return values


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
