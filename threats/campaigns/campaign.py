"""Fault campaigns: any number of trials of any model, resumable, split over processes, stopped when enough is known.

A campaign is the model, the data, a spec and a key. Its trials are numbered, each drawn from its own number, and run in
chunks that a store may keep. What is estimated from them, and when to stop, depends on the trials in the order of their
numbers alone: not on chunks that were read again, nor on devices or processes.

Example:
  >>> spec = campaigns.CampaignSpec(kinds=("weights", "activations"), half_width=0.01, metric="critical_5")
  >>> found = threats.run_campaign(model.apply, variables, images, labels, spec, key=jax.random.key(0))
  >>> found.overall("critical_5"), found.by("layer", "critical_5")
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from threats import outcomes, statistics
from threats.campaigns import drawing as drawings
from threats.campaigns import estimates, prepared, schedule, trials
from threats.campaigns import spec as specs


class Progress(NamedTuple):
    """How far a campaign is.

    done, planned: trials. estimate: of the spec's metric, so far; of a stratified campaign, among the trials as they
    were drawn. fresh: trials of the chunk that ran now, 0 if it was read from the store.
    """

    done: int
    planned: int
    estimate: statistics.Interval
    fresh: int


class CampaignResult(NamedTuple):
    """The trials of a campaign and what they are measured against.

    drawing: the spec, the table of sites and the strata. trials: all of them, in order. accuracy, auc: fault-free, on
    the same images. pilot: trials of the pilot that decided the allocation. stopped: whether the half-width asked for
    was reached before the planned number. complete: whether no trial is missing that other shards have yet to run.
    """

    drawing: drawings.Drawing
    trials: trials.Trials
    accuracy: float
    auc: float
    pilot: int
    stopped: bool
    complete: bool

    def overall(self, metric: str, *, exact: bool = False) -> statistics.Interval:
        """A metric of `estimates.METRICS` over all faults; of the one that decides when to stop, anytime-valid."""
        if metric == self.drawing.spec.metric and _sequential(self.drawing):
            return _final(self.drawing, self.trials, self.accuracy, self.stopped)
        options = {"accuracy": self.accuracy, "pilot": self.pilot, "exact": exact}
        return estimates.overall(self.trials, self.drawing, metric, **options)

    def by(self, group: str, metric: str, *, exact: bool = False) -> dict[str, statistics.Interval]:
        """The same by `estimates.GROUPS`: kind, layer, field or bit."""
        options = {"accuracy": self.accuracy, "pilot": self.pilot, "exact": exact}
        return estimates.by(self.trials, self.drawing, group, metric, **options)


def run_campaign(
    apply: Callable[..., Any],
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    spec: specs.CampaignSpec,
    *,
    key: jax.Array,
    task: outcomes.Task = "multi-class",
    store: trials.Store | None = None,
    shard: tuple[int, int] = (1, 1),
    watch: Callable[[Progress], object] = lambda progress: None,
    **options: Any,
) -> CampaignResult:
    """Runs a campaign, or goes on with one.

    Args:
      apply: (variables, images) -> logits [b, c].
      variables: nested dict of collections, fault-free. For another number format see `faults.formats`.
      images: [n, h, w, c] float32 in [0, 1].
      labels: [n] int32, or [n, k] 0/1 where the task is multi-label.
      spec: what is asked.
      key: typed; consumed.
      task: one of `outcomes.TASKS`.
      store: where finished chunks are kept; by default nowhere. What belongs to another campaign is the store's to
        refuse.
      shard: (i, n): run the i-th of n parts only, i from 1; trials of other parts are taken from the store where they
        are there. A campaign with `half_width` cannot be split, as when to stop depends on all trials.
      watch: told after every chunk.
      **options: of `faults.make_trial_fn`: strategy, trials_at_once, images_at_once, reuse, devices.

    Raises:
      ValueError: the spec does not fit the model, or as in `faults.run_trials`.
    """
    campaign = prepared.prepare(apply, variables, images, labels, spec, key=key, task=task, **options)
    return conduct(campaign, store=store, shard=shard, watch=watch)


def conduct(
    campaign: prepared.Campaign,
    *,
    store: trials.Store | None = None,
    shard: tuple[int, int] = (1, 1),
    watch: Callable[[Progress], object] = lambda progress: None,
) -> CampaignResult:
    """Runs a prepared campaign; arguments as in `run_campaign`."""
    spec, drawing = campaign.drawing.spec, campaign.drawing
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be (i, n) with 1 <= i <= n, got {shard}")
    if shard[1] > 1 and spec.half_width is not None:
        raise ValueError("a campaign with half_width cannot be split: give trials instead")
    course = _Course(campaign, store, watch)
    pilot = schedule.pilot(drawing)
    for start, stop in schedule.chunks(0, pilot, campaign.chunk):
        course.take(start, stop, np.arange(start, stop) % len(drawing.strata), run=True)
    order = schedule.after_pilot(drawing, campaign.planned, course.by_stratum() if pilot else None)
    course.planned = pilot + len(order)
    for number, (start, stop) in enumerate(schedule.chunks(pilot, course.planned, campaign.chunk)):
        course.take(start, stop, order[start - pilot : stop - pilot], run=number % shard[1] == shard[0] - 1)
        if course.stopped:
            break
    if not course.parts:
        raise ValueError(f"shard {shard[0]} of {shard[1]} has no trials, there are {course.planned}: use fewer shards")
    found = trials.join(course.parts)
    complete = course.stopped or found.count == course.planned
    return CampaignResult(drawing, found, campaign.accuracy, campaign.auc, pilot, course.stopped, complete)


@dataclasses.dataclass
class _Course:
    """A campaign under way: what has run or was read, in the order of the trials' numbers."""

    campaign: prepared.Campaign
    store: trials.Store | None
    watch: Callable[[Progress], object]
    planned: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self.planned = self.campaign.planned
        self.parts: list[trials.Trials] = []
        self.values: list[np.ndarray] = []
        spec = self.campaign.drawing.spec
        adaptive = _sequential(self.campaign.drawing)
        self.sequence = statistics.ConfidenceSequence(confidence=(1 + spec.confidence) / 2) if adaptive else None

    def take(self, start: int, stop: int, strata: np.ndarray, *, run: bool) -> None:
        """Reads a chunk, or runs and keeps it if it is this one's to run."""
        found = self.store.load(start, stop) if self.store else None
        fresh = 0
        if found is None:
            if not run:
                return
            found = self.campaign.run(np.arange(start, stop), strata)
            fresh = found.count
            if self.store:
                self.store.save(found)
        self.parts.append(found)
        spec = self.campaign.drawing.spec
        self.values.append(estimates.values(found, spec.metric, accuracy=self.campaign.accuracy))
        if self.sequence:
            estimate = self.sequence.update(self.values[-1])
            self.stopped = statistics.reached(estimate, half_width=spec.half_width)
        else:
            estimate = estimates.of(np.concatenate(self.values), confidence=spec.confidence)
        self.watch(Progress(sum(map(len, self.values)), self.planned, estimate, fresh))

    def by_stratum(self) -> dict[str, np.ndarray]:
        """The values of the metric so far by the name of the stratum."""
        stratum, values = np.concatenate([part.stratum for part in self.parts]), np.concatenate(self.values)
        return {entry.name: values[stratum == i] for i, entry in enumerate(self.campaign.drawing.strata)}


def replay(campaign: prepared.Campaign, found: trials.Trials, number: int) -> trials.Trials:
    """Runs one trial again, from what its row says was hit; equal bit for bit on the same machine and versions.

    Where trials run in groups under `jax.vmap`, the whole chunk that it was in runs again, as rounding may depend on
    the group.

    Args:
      campaign: prepared as when the trial ran.
      found: the campaign's trials.
      number: of the trial.

    Raises:
      ValueError: there is no such trial.
    """
    if number not in found.number:
        numbers = f"{found.number.min()} to {found.number.max()}"
        raise ValueError(f"trial {number} is not among the campaign's {found.count} trials (numbers {numbers})")
    first, last = number, number + 1
    if not campaign.alone:
        first, last = schedule.chunk_of(number, schedule.pilot(campaign.drawing), campaign.chunk)
    rows = (first <= found.number) & (found.number < last)
    same = trials.take(found, rows)
    again = campaign.run(same.number, same.stratum, given=same)
    return trials.take(again, again.number == number)


def difference(a: CampaignResult, b: CampaignResult, metric: str) -> statistics.Interval:
    """The mean difference a - b of a metric over trials of the same numbers, with Student's interval of pairs.

    The campaigns must share their key and their spec, so that trial n of both comes from the same random numbers: two
    models of one architecture are then hit by the same faults, two number formats at the same elements, at the same
    place in the order of their bits. Of a stratified campaign it is the difference among the trials as they were drawn.

    Args:
      a, b: results over the same images; trials that only one has run are left out.
      metric: one of `estimates.METRICS`.

    Raises:
      ValueError: they have no trial in common, or are of different specs or keys.
    """
    same_key = np.array_equal(*(jax.random.key_data(found.drawing.key) for found in (a, b)))
    if a.drawing.spec != b.drawing.spec or not same_key:
        raise ValueError("a difference is of two campaigns with one spec and one key: these differ")
    _, of_a, of_b = np.intersect1d(a.trials.number, b.trials.number, return_indices=True)
    if not len(of_a):
        raise ValueError("the campaigns have no trial in common")
    pairs = [
        estimates.values(trials.take(found.trials, rows), metric, accuracy=found.accuracy)
        for found, rows in ((a, of_a), (b, of_b))
    ]
    return statistics.paired_difference(*pairs, confidence=a.drawing.spec.confidence, bounds=(-1.0, 1.0))


def _sequential(drawing: drawings.Drawing) -> bool:
    return drawing.spec.half_width is not None and not drawing.strata


def _final(drawing: drawings.Drawing, found: trials.Trials, accuracy: float, stopped: bool) -> statistics.Interval:
    """The anytime-valid interval; after the planned number, cut with that of one look, each at half of the error."""
    confidence = (1 + drawing.spec.confidence) / 2
    each = estimates.values(found, drawing.spec.metric, accuracy=accuracy)
    anytime = statistics.ConfidenceSequence(confidence=confidence).update(each)
    if stopped:
        return anytime
    once = estimates.of(each, confidence=confidence)
    low, high = max(anytime.low, once.low), min(anytime.high, once.high)
    return statistics.Interval(once.value, low, high, once.count) if low <= once.value <= high else once
