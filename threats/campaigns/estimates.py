"""What the trials of a campaign say: rates and means with intervals, overall and by layer, field, bit and kind.

Trials that were drawn alike give Wilson's (or Clopper and Pearson's) interval of a share. Means are mostly those of a
constant with rare, large losses, of which Student's interval holds in 87 to 95 % of the campaigns that ask for 95 %;
they have that of `statistics.bounded_mean`, or of `statistics.stratified_mean`. Of a stratified campaign a
layer that was hit more often does not count for more. An exhaustive campaign has seen every fault there is: its figures
have no sampling error.
"""

from collections.abc import Callable

import numpy as np

from threats import faults, statistics
from threats.campaigns import drawing as drawings
from threats.campaigns import trials

GROUPS = ("kind", "layer", "field", "cell", "bit")
Group = str | Callable[[faults.Site], str]


def values(found: trials.Trials, metric: str, *, accuracy: float) -> np.ndarray:
    """[t] float64 in [0, 1], one value per trial, of which the mean is the metric.

    Args:
      found: the trials.
      metric: one of `spec.METRICS`.
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
        return _exact(each)
    if not drawing.strata:
        return of(each, confidence=spec.confidence, exact=exact)
    groups = [_by_stratum(each[rows], found.stratum[rows], drawing) for rows in (slice(pilot), slice(pilot, None))]
    options = {"bounds": (0.0, 1.0), "confidence": spec.confidence}
    if not pilot:
        return statistics.stratified_mean(groups[1], drawings.shares(drawing), **options)
    if spec.half_width is not None:  # how many trials followed depends on the pilot: it must not count
        return statistics.stratified_mean(groups[1], drawings.shares(drawing), **options)
    return statistics.two_phase_mean(*groups, drawings.shares(drawing), **options)


def of(
    each: np.ndarray, *, confidence: float, bounds: tuple[float, float] = (0.0, 1.0), exact: bool = False
) -> statistics.Interval:
    """`statistics.bounded_mean`; of shares, if exact, with Clopper and Pearson's interval."""
    if exact and bounds == (0.0, 1.0) and np.all((each == 0) | (each == 1)):
        return statistics.clopper_pearson(int(each.sum()), len(each), confidence=confidence)
    return statistics.bounded_mean(each, bounds=bounds, confidence=confidence)


def paired_difference(
    a: trials.Trials, b: trials.Trials, metric: str, *, accuracy: tuple[float, float], confidence: float
) -> statistics.Interval:
    """The mean difference a - b of a metric over the trials whose numbers both have.

    Args:
      a, b: trials that were drawn alike, in order of their numbers.
      metric: one of `spec.METRICS`.
      accuracy: fault-free, of a and of b, as in `values`.
      confidence: in (0, 1).

    Raises:
      ValueError: they have no trial in common.
    """
    pairs = zip(in_common(a, b), accuracy, strict=True)
    of_a, of_b = (values(found, metric, accuracy=own) for found, own in pairs)
    return of(of_a - of_b, confidence=confidence, bounds=(-1.0, 1.0))


def in_common(a: trials.Trials, b: trials.Trials) -> tuple[trials.Trials, trials.Trials]:
    """Of both, the trials whose numbers the other has too; a ValueError if there are none."""
    _, of_a, of_b = np.intersect1d(a.number, b.number, return_indices=True)
    if not len(of_a):
        raise ValueError("the campaigns have no trial in common")
    return trials.take(a, of_a), trials.take(b, of_b)


def by(
    found: trials.Trials,
    drawing: drawings.Drawing,
    group: Group,
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
      group: one of `GROUPS`, a cell being a layer and a field, `LAYER:FIELD`; or a function that names a site's group.

    Raises:
      ValueError: an unknown group, trials that hit several bits, or bits of a stratified campaign, which are not drawn
        as often as there are of them.
    """
    if not callable(group) and group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS}, got {group!r}")
    if drawing.width > 1 or drawing.spec.bit_error_rate is not None:
        raise ValueError(f"estimates by {group} need trials with one hit each, these have none to {drawing.width}")
    if group == "bit" and drawing.strata:
        raise ValueError("a stratified campaign has no estimate by bit: draw over bits, or take the fields")
    found = trials.take(found, slice(pilot, None))
    each, names = values(found, metric, accuracy=accuracy), labels(found, drawing.table, group)
    confidence = drawing.spec.confidence
    order = _ordered(names, found)
    if drawing.spec.drawing == "exhaustive":
        return {name: _exact(each[names == name]) for name in order}
    if drawing.strata:
        return {name: _by_strata(each, found, drawing, names == name, name, group) for name in order}
    return {name: of(each[names == name], confidence=confidence, exact=exact) for name in order}


def labels(found: trials.Trials, table: faults.SiteTable, group: Group) -> np.ndarray:
    """[t] what each trial's first hit belongs to, by a group of `GROUPS` or as a function names its site."""
    pairs = zip(found.faults.site[:, 0], found.faults.bit[:, 0], strict=True)
    return np.array([_name(table[int(site)], int(bit), group) for site, bit in pairs])


def _name(site: faults.Site, bit: int, group: Group) -> str:
    if callable(group):
        return group(site)
    if group in ("layer", "kind"):
        return site.layer if group == "layer" else kind(site)
    if group == "bit":
        return str(bit)
    field = faults.field_of(bit, site.dtype)
    return field if group == "field" else f"{site.layer}:{field}"


def kind(site: faults.Site) -> str:
    """What a site is, in the words of `CampaignSpec.kinds`."""
    if site.kind == "weight":
        return {"batch_stats": "statistics", "scales": "scales"}.get(site.collection, "weights")
    return {"activation": "activations", "state": "states"}[site.kind]


def _by_strata(
    each: np.ndarray, found: trials.Trials, drawing: drawings.Drawing, own: np.ndarray, name: str, group: Group
) -> statistics.Interval:
    """Of the trials `own`: each stratum counts by its bits that belong to the group, which may be a part of them."""
    sizes = {
        stratum.name: size for stratum, size in zip(drawing.strata, _sizes(drawing, name, group), strict=True) if size
    }
    shares = {stratum: size / sum(sizes.values()) for stratum, size in sizes.items()}
    values = _by_stratum(each[own], found.stratum[own], drawing)
    return statistics.stratified_mean(
        {stratum: values[stratum] for stratum in shares}, shares, confidence=drawing.spec.confidence
    )


def _sizes(drawing: drawings.Drawing, name: str, group: Group) -> list[int]:
    """How many bits of each stratum belong to the group of that name."""
    counts = dict.fromkeys((stratum.name for stratum in drawing.strata), 0)
    for index, site in enumerate(drawing.table):
        for field, positions in faults.fields(site.dtype).items():
            inside = [bit for bit in drawing.allowed[index] if bit in positions]
            if inside and _name(site, inside[0], group) == name:
                counts[f"{site.layer}:{field}"] += site.size * len(inside)
    return list(counts.values())


def _exact(each: np.ndarray) -> statistics.Interval:
    value = float(each.mean())
    return statistics.Interval(value, value, value, len(each))


def _by_stratum(each: np.ndarray, stratum: np.ndarray, drawing: drawings.Drawing) -> dict[str, np.ndarray]:
    return {entry.name: each[stratum == index] for index, entry in enumerate(drawing.strata)}


def _ordered(names: np.ndarray, found: trials.Trials) -> list[str]:
    """The distinct names in the order of the table, the highest bit of a site first."""
    site, bit = found.faults.site[:, 0], found.faults.bit[:, 0]
    return list(dict.fromkeys(names[np.lexsort((-bit, site))].tolist()))
