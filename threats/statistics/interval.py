"""What every estimate is returned as, and what all of them ask of their arguments."""

from typing import NamedTuple

import numpy as np
from numpy import typing as npt


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


def rows(name: str, values: npt.ArrayLike) -> np.ndarray:
    """[n] float64 of anything one-dimensional; the ValueError otherwise calls it `name`."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {values.shape}")
    return values


def within(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """`values` cut to `bounds` = (low, high), which they may leave by float32 rounding only; NaN stays NaN.

    Raises:
      ValueError: if the bounds are in the wrong order, or a value lies further outside.
    """
    smallest, largest = bounds
    if not smallest <= largest:
        raise ValueError(f"bounds must be (low, high) with low <= high, got {bounds}")
    below = values < smallest - 1e-6 * max(1.0, abs(smallest))
    above = values > largest + 1e-6 * max(1.0, abs(largest))
    if np.any(below | above):
        raise ValueError(f"values must lie within bounds = {bounds}, got {values.min()} to {values.max()}")
    return np.clip(values, smallest, largest)


def check_confidence(confidence: float) -> None:
    """Raises a ValueError unless `confidence` lies in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
