"""Means over strata, drawn with other shares than they have in the population.

    estimate       sum_h W_h mean_h                             W_h: share of stratum h in the population, n_h drawn
    variance       sum_h V_h,  V_h = f_h W_h^2 s_h^2 / m_h      f_h: 1, or 1 - n_h / N_h drawn without replacement
    interval       centre +- t_d sqrt(variance),  d = variance^2 / sum_h (V_h^2 / (m_h - 1))

A rare event is easily missed by all trials of a stratum, and s_h = 0 then says that nothing can happen there. So s_h
and the interval's centre (not the estimate, which stays unbiased) also count z^2 pseudo-observations, z the normal
quantile, half of them at each end of the known range. Wilson's interval has its centre there, and Agresti and Coull's
its width. Each stratum gets those in proportion to the largest variance that it could add:

    w_h = f_h z^2 / 2 a_h at each end,   a_h = (f_h W_h^2 / n_h) / sum_j (f_j W_j^2 / n_j),   m_h = n_h + 2 w_h

This assumes nothing about the values but their range, and costs width where they never come near its ends: 100 values
of 0.85 +- 0.02 get an interval of width 0.05 rather than Student's 0.008. Narrower bounds, if certain, give that back.
A stratum with a single observation shows no spread at all: it is given the largest, s_h^2 = (high - low)^2 / 4.

References: Cochran, "Sampling Techniques", 3rd edition, 1977, equations 5.6 and 5.16. Satterthwaite, "An approximate
distribution of estimates of variance components", 1946. Agresti and Coull, "Approximate is better than 'exact' for
interval estimation of binomial proportions", 1998. Price and Bonett, "An improved confidence interval for a linear
function of binomial proportions", 2004, who divide the pseudo-observations equally.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy import typing as npt
from scipy import special

from threats.statistics import interval


class _Part(NamedTuple):
    """Values of one stratum, the weight of their mean in the estimate, and the share of the stratum not yet seen."""

    values: np.ndarray
    weight: float
    unseen: float


def stratified_mean(
    values: Mapping[str, npt.ArrayLike],
    shares: Mapping[str, float],
    *,
    populations: Mapping[str, int] | None = None,
    without_replacement: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
) -> interval.Interval:
    """Mean over a population of strata, each drawn as often as one likes: rare but grave ones more, harmless ones less.

    How many are drawn of each stratum must not depend on the values themselves: for trials that were allocated after a
    look at a pilot there is `two_phase_mean`.

    Args:
      values: stratum -> [n_h] independent observations within `bounds`, n_h >= 1; n_h >= 2 shows their spread.
      shares: stratum -> its share W_h of the population, >= 0, with sum 1. Strata of share 0 are left out.
      populations: stratum -> its size N_h; needed without replacement, unused otherwise.
      without_replacement: whether no member was drawn twice. A stratum drawn completely then adds no uncertainty.
      bounds: (low, high), finite: the range that the values are known to lie in, up to float32 rounding.
      confidence: in (0, 1).

    Raises:
      ValueError: if a stratum with a share has no observation, a stratum has no share, the shares do not sum to 1, more
        were drawn than there are, or an option is out of range.
    """
    check_shares(shares)
    if without_replacement and populations is None:
        raise ValueError("populations must give the size of every stratum when without_replacement is True, got None")
    parts = _parts("values", values, shares, bounds)
    if without_replacement:
        parts = {name: part._replace(unseen=_unseen(name, part, populations)) for name, part in parts.items()}
    return _combine(list(parts.values()), bounds, confidence)


def two_phase_mean(
    pilot: Mapping[str, npt.ArrayLike],
    main: Mapping[str, npt.ArrayLike],
    shares: Mapping[str, float],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
) -> interval.Interval:
    """Stratified mean of a pilot and of the trials that were allocated after a look at it, such as by Neyman's rule.

    The values of both phases must not be pooled: a stratum whose pilot happened to show nothing gets few further
    trials, so its low mean stays low, while one whose pilot happened to show much gets many, and is put right. Pooled
    means of rare events are too low. Here each phase gives its own unbiased estimate, and these are weighted with
    n_pilot / n and n_main / n, which the pilot's values do not change. Given the pilot, the main estimate's mean is the
    true one, so the two are uncorrelated and variances add up: a stratified mean with each stratum twice.

    Args:
      pilot: stratum -> [n] observations, as in `stratified_mean`; sizes fixed before any was seen.
      main: stratum -> [n] observations, drawn independently of the pilot's, with replacement. How they are spread over
        the strata may depend on the pilot; how many they are in total must not.
      shares: stratum -> its share W_h of the population, >= 0, with sum 1.
      bounds: (low, high), finite: the range that the values are known to lie in.
      confidence: in (0, 1).

    Raises:
      ValueError: if a stratum with a share has no observation in one of the phases, or as `stratified_mean` does.
    """
    check_shares(shares)
    phases = [_parts("pilot", pilot, shares, bounds), _parts("main", main, shares, bounds)]
    counts = [sum(part.values.size for part in phase.values()) for phase in phases]
    parts = []
    for phase, count in zip(phases, counts, strict=True):
        parts += [part._replace(weight=part.weight * count / sum(counts)) for part in phase.values()]
    return _combine(parts, bounds, confidence)


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises a ValueError unless all shares are at least 0 and sum to 1, up to float32 rounding."""
    for name, share in shares.items():
        if not 0 <= share <= 1 + 1e-6:
            raise ValueError(f"shares must lie in [0, 1], got {share} for stratum {name!r}")
    total = math.fsum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"shares must sum to 1, got {total}; divide them by their sum")


def _parts(
    argument: str, values: Mapping[str, npt.ArrayLike], shares: Mapping[str, float], bounds: tuple[float, float]
) -> dict[str, _Part]:
    if not np.all(np.isfinite(bounds)):
        raise ValueError(f"bounds must be finite, got {bounds}; without a known range no rare value can be ruled out")
    if unknown := [name for name in values if name not in shares]:
        raise ValueError(f"shares must have every stratum of {argument}, got none for {unknown}")
    parts = {}
    for name, share in shares.items():
        if share == 0:
            continue
        observed = interval.within(interval.rows(f"{argument}[{name!r}]", values.get(name, ())), bounds)
        if observed.size == 0:
            raise ValueError(f"{argument} must have an observation of every stratum with a share, got none of {name!r}")
        parts[name] = _Part(observed, float(share), 1.0)
    return parts


def _unseen(name: str, part: _Part, populations: Mapping[str, int]) -> float:
    size = populations.get(name, 0)
    if size < part.values.size:
        raise ValueError(
            f"populations must be at least the number drawn without replacement, got {size} for stratum {name!r} "
            f"with {part.values.size} observations"
        )
    return 1 - part.values.size / size


def _combine(parts: list[_Part], bounds: tuple[float, float], confidence: float) -> interval.Interval:
    interval.check_confidence(confidence)
    tail = (1 - confidence) / 2
    counts, weights, unseen = np.array([(part.values.size, part.weight, part.unseen) for part in parts]).T
    value = math.fsum(part.weight * float(part.values.mean()) for part in parts)
    largest = unseen * weights**2 / counts
    if not largest.any():  # all was seen
        return interval.Interval(value, value, value, int(counts.sum()))
    pseudo = special.ndtri(tail) ** 2 / 2 * unseen * largest / largest.sum()
    centres, variances, freedom = np.array([_moments(*each, bounds) for each in zip(parts, pseudo, strict=True)]).T
    variances *= unseen * weights**2
    variance = variances.sum()
    uncertain = np.sum(variances**2 / freedom)
    quantile = -special.ndtri(tail) if uncertain == 0 else -special.stdtrit(variance**2 / uncertain, tail)
    centre, half = weights @ centres, quantile * math.sqrt(variance)
    low, high = np.clip((np.minimum(centre - half, value), np.maximum(centre + half, value)), *bounds)
    return interval.Interval(value, float(low), float(high), int(counts.sum()))


def _moments(part: _Part, pseudo: float, bounds: tuple[float, float]) -> tuple[float, float, float]:
    """Mean, variance of the mean and degrees of freedom, with `pseudo` observations added at each end of `bounds`."""
    ends, count = np.array(bounds, np.float64), part.values.size + 2 * pseudo
    mean = (part.values.sum() + pseudo * ends.sum()) / count
    if part.values.size == 1:
        return mean, (ends[1] - ends[0]) ** 2 / 4, math.inf
    squares = np.sum((part.values - mean) ** 2) + pseudo * np.sum((ends - mean) ** 2)
    return mean, squares / (count - 1) / count, count - 1
