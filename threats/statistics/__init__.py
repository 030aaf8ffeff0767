"""How sure a measured number is: confidence intervals, and how many trials a campaign needs.

Everything here runs on the host, in float64 with NumPy and SciPy; nothing of it can be jitted. Values that are not
finite are not hidden: what they touch becomes NaN or infinite.
"""

from threats.statistics.allocation import neyman_allocation, proportional_allocation, smoothed_deviations
from threats.statistics.differences import independent_difference
from threats.statistics.interval import Interval
from threats.statistics.means import bounded_mean, mean, paired_difference
from threats.statistics.pairs import paired_proportions
from threats.statistics.planning import sample_size
from threats.statistics.proportions import clopper_pearson, wilson
from threats.statistics.resampling import METHODS, Method, bootstrap
from threats.statistics.sequential import ConfidenceSequence, reached
from threats.statistics.stratified import stratified_mean, two_phase_mean

__all__ = [
    "METHODS",
    "ConfidenceSequence",
    "Interval",
    "Method",
    "bootstrap",
    "bounded_mean",
    "clopper_pearson",
    "independent_difference",
    "mean",
    "neyman_allocation",
    "paired_difference",
    "paired_proportions",
    "proportional_allocation",
    "reached",
    "sample_size",
    "smoothed_deviations",
    "stratified_mean",
    "two_phase_mean",
    "wilson",
]
