"""Bootstrap intervals of any statistic of rows.

    quantiles q of the statistic v over rows drawn with replacement, tail = alpha / 2:
    percentile [q_tail, q_{1-tail}], basic [2 v - q_{1-tail}, 2 v - q_tail]

Reference: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy import typing as npt

from threats.statistics import interval

Method = Literal["percentile", "basic"]
METHODS = ("percentile", "basic")


def bootstrap(
    statistic: Callable[..., float],
    *arrays: npt.ArrayLike,
    seed: int = 0,
    replicates: int = 1000,
    confidence: float = 0.95,
    method: Method = "percentile",
    bounds: tuple[float, float] | None = None,
) -> interval.Interval:
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
    interval.check_confidence(confidence)
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
    return interval.Interval(value, float(low), float(high), count)


def _quantiles(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    defined = resampled[~np.isnan(resampled)]
    if 2 * defined.size < resampled.size:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):  # a quantile between infinities is NaN
        return tuple(np.quantile(defined, (tail, 1 - tail)))
