"""Two models under one campaign, with the same spec and images: how a metric differs, and what its interval rests on.

    paired        trial n of both hit the same bit: the mean of the differences, trial by trial
    independent   other sites, or trials that do not pair: the difference of two samples, from the interval of each
    exhaustive    both have seen every fault there is: no sampling error

Each interval is over faults, given the images, as those of a campaign are.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from threats import statistics
from threats.campaigns import estimates, trials
from threats.campaigns import spec as specs


class Side(NamedTuple):
    """One of the two campaigns.

    sites: names its table of sites, a hash for instance: equal where, and only where, the tables are. accuracy:
    fault-free. figures: metric of `METRICS` -> its own estimate, at the spec's confidence. ran: the trials that these
    are of, in order of their numbers; needed where `may_pair`.
    """

    sites: str
    accuracy: float
    figures: Mapping[str, statistics.Interval]
    ran: trials.Trials | None = None


def may_pair(a: Side, b: Side, spec: specs.CampaignSpec) -> bool:
    """Whether trials of one number can have hit the same bit in both, which their trials have to show then."""
    return a.sites == b.sites and spec.drawing in ("bits", "layers")


def pairing(a: Side, b: Side, spec: specs.CampaignSpec) -> str:
    """What the difference rests on: "paired", "independent" or "exhaustive"."""
    if spec.drawing == "exhaustive":
        return "exhaustive"
    return "paired" if may_pair(a, b, spec) and _same_faults(a.ran, b.ran) else "independent"


def difference(a: Side, b: Side, metric: str, spec: specs.CampaignSpec) -> statistics.Interval:
    """A metric of a less that of b, with an interval at the spec's confidence; its count is of pairs, or of both.

    Where trials do not pair, `statistics.independent_difference` takes the interval of each: Newcombe's of rates. Two
    campaigns with one key hit the same bit positions in other sites, which can only make that interval too wide.
    """
    if pairing(a, b, spec) == "paired":
        options = {"accuracy": (a.accuracy, b.accuracy), "confidence": spec.confidence}
        return estimates.paired_difference(a.ran, b.ran, metric, **options)
    return statistics.independent_difference(a.figures[metric], b.figures[metric])


def _same_faults(a: trials.Trials, b: trials.Trials) -> bool:
    """Whether trials of the same number, of which there are some, hit the same bits of the same images."""
    of_a, of_b = ((found.faults, found.image) for found in estimates.in_common(a, b))
    return jax.tree.all(jax.tree.map(np.array_equal, of_a, of_b))
