"""How many trials a campaign needs.

    n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p)))

Reference: Leveugle, Calvez, Maistri and Vanhauwaert, "Statistical Fault Injection: Quantified Error and Confidence",
DATE 2009, equation 1.
"""

from scipy import stats

from threats.statistics import interval


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
    """
    interval.check_confidence(confidence)
    if population < 1:
        raise ValueError(f"population must be at least 1, got {population}")
    if not 0 < half_width < 1:
        raise ValueError(f"half_width must lie in (0, 1), got {half_width}")
    if not 0 < p < 1:
        raise ValueError(f"p must lie in (0, 1), got {p}")
    t = max(round(float(stats.norm.isf((1 - confidence) / 2)), 3), 0.001)
    size = population / (1 + half_width**2 * (population - 1) / (t**2 * p * (1 - p)))
    return max(1, round(size))
