"""How many trials each stratum gets.

    proportional   n_h ~ W_h           as many as it has of the population: never worse than drawing without strata
    Neyman         n_h ~ W_h S_h       the smallest variance of the stratified mean for a given total; S_h: deviation

Counts are whole and sum to the total exactly: each quota is rounded down, and what is missing goes to the largest
remainders, the first in order among equal ones. Strata below `at_least` are raised to it first, and the others share
what is left.

Reference: Neyman, "On the two different aspects of the representative method", 1934. Cochran, "Sampling Techniques",
3rd edition, 1977, equation 5.26.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy import typing as npt

from threats.statistics import interval, stratified


def proportional_allocation(shares: Mapping[str, float], total: int, *, at_least: int = 2) -> dict[str, int]:
    """Trials per stratum, in proportion to its share of the population.

    Args:
      shares: stratum -> its share W_h of the population, >= 0, with sum 1. Strata of share 0 get no trial.
      total: number of trials, at least `at_least` for every stratum with a share.
      at_least: trials that every stratum with a share gets, >= 1; two are needed to see a spread.

    Returns:
      stratum -> number of trials, in the order of `shares`, with sum `total`.

    Raises:
      ValueError: if the shares do not sum to 1, the total is too small, or a number is not whole.
    """
    stratified.check_shares(shares)
    return _apportion(dict(shares), shares, total, at_least)


def neyman_allocation(
    shares: Mapping[str, float], deviations: Mapping[str, float], total: int, *, at_least: int = 2
) -> dict[str, int]:
    """Trials per stratum that give the stratified mean the smallest variance.

    Args:
      shares: stratum -> its share W_h of the population, >= 0, with sum 1. Strata of share 0 get no trial.
      deviations: stratum -> standard deviation S_h >= 0 of its values, as expected from a pilot; take
        `smoothed_deviations`, since with S_h = 0 a stratum gets no more than `at_least`.
      total: number of trials, at least `at_least` for every stratum with a share.
      at_least: trials that every stratum with a share gets, >= 1.

    Returns:
      stratum -> number of trials, in the order of `shares`, with sum `total`.

    Raises:
      ValueError: if a deviation is missing, negative or not finite, all are 0, or as `proportional_allocation` does.
    """
    stratified.check_shares(shares)
    quotas = {}
    for name, share in shares.items():
        deviation = deviations.get(name, math.nan) if share > 0 else 0.0
        if not 0 <= deviation < math.inf:
            raise ValueError(f"deviations must be finite and at least 0, got {deviation} for stratum {name!r}")
        quotas[name] = share * deviation
    if not any(quotas.values()):
        raise ValueError("deviations must not all be 0; use smoothed_deviations or proportional_allocation")
    return _apportion(quotas, shares, total, at_least)


def smoothed_deviations(
    values: Mapping[str, npt.ArrayLike], *, bounds: tuple[float, float] = (0.0, 1.0)
) -> dict[str, float]:
    """Standard deviations in which a pilot that saw nothing happen does not mean that nothing can.

    Half an observation is added at each end of the range (for counts of successes, Jeffreys' prior): n equal values at
    an end give about sqrt(1 / 2n) of the range rather than 0, and no value at all gives half the range, the largest.

    Args:
      values: stratum -> [n_h] observations of the pilot, n_h >= 0.
      bounds: (low, high), finite: the range that the values are known to lie in.

    Raises:
      ValueError: if values are not one-dimensional, or outside of `bounds`.
    """
    ends = np.array(bounds, np.float64)
    smoothed = {}
    for name, observed in values.items():
        observed = interval.within(interval.rows(f"values[{name!r}]", observed), bounds)
        mean = (observed.sum() + ends.sum() / 2) / (observed.size + 1)
        squares = np.sum((observed - mean) ** 2) + np.sum((ends - mean) ** 2) / 2
        smoothed[name] = math.sqrt(squares / (observed.size + 1))
    return smoothed


def _apportion(sizes: dict[str, float], shares: Mapping[str, float], total: int, at_least: int) -> dict[str, int]:
    """Whole numbers with sum `total`, in proportion to the sizes of the strata with a share, none below `at_least`."""
    names = [name for name, share in shares.items() if share > 0]
    if at_least < 1 or at_least != int(at_least):
        raise ValueError(f"at_least must be a whole number >= 1, got {at_least}")
    if total < at_least * len(names) or total != int(total):
        raise ValueError(
            f"total must be a whole number >= {at_least * len(names)} (at_least = {at_least} for each of {len(names)} "
            f"strata), got {total}"
        )
    weights = np.array([sizes[name] for name in names])
    raised = np.zeros(len(names), bool)
    while True:
        left = total - at_least * raised.sum()
        quotas = np.where(raised, at_least, left * weights / weights[~raised].sum())
        low = quotas < at_least - 1e-9  # a quota that is whole but for rounding counts as whole
        if not low.any():
            break
        raised |= low
    counts = np.floor(quotas).astype(int)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: int(total) - counts.sum()]] += 1
    found = dict(zip(names, counts.tolist(), strict=True))
    return {name: found.get(name, 0) for name in shares}
