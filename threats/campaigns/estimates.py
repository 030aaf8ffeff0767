"""What the trials of a campaign say: rates and means with intervals, overall and by layer, field, bit and kind.

Trials that were drawn alike give Wilson's (or Clopper and Pearson's) interval of a share and Student's of a mean;
stratified trials the stratified estimate, so that a layer that was hit more often does not count for more. An
exhaustive campaign has seen every fault there is: its figures have no sampling error.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from threats import faults, statistics
from threats.campaigns import drawing as drawings
from threats.campaigns import trials

METRICS = {
    "accuracy": "accuracy under fault",
    "auc": "AUC under fault",
    "sdc": "share of decisions that change silently",
    "nonfinite": "share of outputs that are not finite",
    "sdc_trial": "trials with a silent change of a decision",
    "due_trial": "trials with an output that is not finite (DUE)",
    "critical_1": "trials that lose more than 1 point of accuracy",
    "critical_5": "trials that lose more than 5 points of accuracy",
    "critical_10": "trials that lose more than 10 points of accuracy",
}
GROUPS = ("kind", "layer", "field", "cell", "bit")


def values(found: trials.Trials, metric: str, *, accuracy: float) -> np.ndarray:
    """[t] float64 in [0, 1], one value per trial, of which the mean is the metric.

    Args:
      found: the trials.
      metric: one of `METRICS`.
      accuracy: fault-free, on the same images; of one-shot trials, whatever it is, an image is right or wrong.
    """
    result = found.result
    if metric in ("accuracy", "auc", "sdc", "nonfinite"):
        return np.asarray(getattr(result, metric), np.float64)
    if metric == "sdc_trial":
        return (result.sdc > 0).astype(np.float64)
    if metric == "due_trial":
        return (result.nonfinite > 0).astype(np.float64)
    points = int(metric.removeprefix("critical_"))
    # Half an image above the limit in float32 is not above it.
    return (accuracy - np.asarray(result.accuracy, np.float64) > points / 100 + 1e-6).astype(np.float64)


def overall(
    found: trials.Trials,
    drawing: drawings.Drawing,
    metric: str,
    *,
    accuracy: float,
    pilot: int = 0,
    exact: bool = False,
) -> statistics.Interval:
    """The metric over the faults that the campaign is of, with its interval.

    Args:
      found: trials, in order of their numbers.
      drawing: that drew them.
      metric, accuracy: as in `values`.
      pilot: how many of the first trials were a pilot that decided how the others are spread over the strata.
      exact: Clopper and Pearson's interval for shares instead of Wilson's.
    """
    spec, each = drawing.spec, values(found, metric, accuracy=accuracy)
    if spec.drawing == "exhaustive":
        if found.count < drawing.population:
            raise ValueError(f"an exhaustive campaign has {drawing.population} trials, only {found.count} are there")
        return statistics.Interval(float(each.mean()), float(each.mean()), float(each.mean()), found.count)
    if not drawing.strata:
        return of(each, confidence=spec.confidence, exact=exact)
    groups = [_by_stratum(each[rows], found.stratum[rows], drawing) for rows in (slice(pilot), slice(pilot, None))]
    options = {"bounds": (0.0, 1.0), "confidence": spec.confidence}
    if not pilot:
        return statistics.stratified_mean(groups[1], drawings.shares(drawing), **options)
    if spec.half_width is not None:  # how many trials followed depends on the pilot: it must not count
        return statistics.stratified_mean(groups[1], drawings.shares(drawing), **options)
    return statistics.two_phase_mean(*groups, drawings.shares(drawing), **options)


def of(each: np.ndarray, *, confidence: float, exact: bool = False) -> statistics.Interval:
    """The mean of independent values [t] in [0, 1]: an interval of a share where all are 0 or 1, else Student's."""
    if np.all((each == 0) | (each == 1)):
        share = statistics.clopper_pearson if exact else statistics.wilson
        return share(int(each.sum()), len(each), confidence=confidence)
    return statistics.mean(each, confidence=confidence, bounds=(0.0, 1.0))


def by(
    found: trials.Trials,
    drawing: drawings.Drawing,
    group: str,
    metric: str,
    *,
    accuracy: float,
    pilot: int = 0,
    exact: bool = False,
) -> dict[str, statistics.Interval]:
    """The metric of single faults by what they hit, among faults as they were drawn there.

    In a stratified campaign a layer's (or kind's) fields count by their bits, and a field's layers likewise; the pilot
    is left out where it decided the allocation.

    Args:
      found: trials with one hit each.
      drawing, metric, accuracy, pilot, exact: as in `overall`.
      group: one of `GROUPS`; a cell is a layer and a field, `LAYER:FIELD`.

    Raises:
      ValueError: an unknown group, trials that hit several bits, or bits of a stratified campaign, which are not drawn
        as often as there are of them.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS}, got {group!r}")
    if drawing.width > 1:
        raise ValueError(f"estimates by {group} need trials with one hit, these have up to {drawing.width}")
    if group == "bit" and drawing.strata:
        raise ValueError("a stratified campaign has no estimate by bit: draw over bits, or take the fields")
    found = trials.take(found, slice(pilot, None))
    each, names = values(found, metric, accuracy=accuracy), labels(found, drawing.table, group)
    confidence = drawing.spec.confidence
    if drawing.strata:
        return _by_strata(each, found, drawing, names, confidence)
    return {name: of(each[names == name], confidence=confidence, exact=exact) for name in _ordered(names, group)}


def labels(found: trials.Trials, table: faults.SiteTable, group: str) -> np.ndarray:
    """[t] what each trial's first hit belongs to: its kind, layer, field, cell or bit position."""
    site, bit = found.faults.site[:, 0], found.faults.bit[:, 0]
    of_site: Mapping[str, Callable[[faults.Site], str]] = {"layer": lambda s: s.layer, "kind": kind}
    if group in of_site:
        return np.array([of_site[group](entry) for entry in table])[site]
    if group == "bit":
        return bit.astype(str)
    fields = np.array([faults.field_of(int(b), table[int(s)].dtype) for s, b in zip(site, bit, strict=True)])
    if group == "field":
        return fields
    return np.char.add(np.char.add(labels(found, table, "layer"), ":"), fields)


def kind(site: faults.Site) -> str:
    """What a site is, in the words of `CampaignSpec.kinds`."""
    if site.kind == "weight":
        return "statistics" if site.collection == "batch_stats" else "weights"
    return {"activation": "activations", "state": "states"}[site.kind]


def _by_strata(
    each: np.ndarray, found: trials.Trials, drawing: drawings.Drawing, names: np.ndarray, confidence: float
) -> dict[str, statistics.Interval]:
    intervals = {}
    for name in _ordered(names, ""):
        own = names == name
        inside = np.unique(found.stratum[own])
        sizes = {drawing.strata[i].name: drawing.strata[i].population for i in inside}
        shares = {stratum: size / sum(sizes.values()) for stratum, size in sizes.items()}
        groups = _by_stratum(each[own], found.stratum[own], drawing)
        intervals[name] = statistics.stratified_mean(
            {stratum: groups[stratum] for stratum in shares}, shares, confidence=confidence
        )
    return intervals


def _by_stratum(each: np.ndarray, stratum: np.ndarray, drawing: drawings.Drawing) -> dict[str, np.ndarray]:
    return {entry.name: each[stratum == index] for index, entry in enumerate(drawing.strata)}


def _ordered(names: np.ndarray, group: str) -> Sequence[str]:
    found = dict.fromkeys(names.tolist())
    return sorted(found, key=int, reverse=True) if group == "bit" else list(found)
