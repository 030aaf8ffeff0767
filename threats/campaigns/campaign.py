"""Fault campaigns: any number of trials of any model, resumable, split over processes, stopped when enough is known.

A campaign is the model, the data, a spec and a key. Its trials are numbered, each drawn from its own number, and run in
chunks that a store may keep. What is estimated from them, and when to stop, depends on the trials in the order of their
numbers alone: not on chunks that were read again, nor on devices or processes.

Example:
  >>> spec = campaigns.CampaignSpec(kinds=("weights", "activations"), half_width=0.01, metric="critical_5")
  >>> found = threats.run_campaign(model.apply, variables, images, labels, spec, key=jax.random.key(0))
  >>> found.overall("critical_5"), found.by("layer", "critical_5")
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from threats import outcomes, statistics
from threats.campaigns import course, estimates, prepared, schedule, trials
from threats.campaigns import drawing as drawings
from threats.campaigns import spec as specs


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
        """A metric of `METRICS` over all faults; of the one that decides when to stop, anytime-valid."""
        if metric == self.drawing.spec.metric and course.sequential(self.drawing):
            return _final(self.drawing, self.trials, self.accuracy, self.stopped)
        options = {"accuracy": self.accuracy, "pilot": self.pilot, "exact": exact}
        return estimates.overall(self.trials, self.drawing, metric, **options)

    def by(self, group: estimates.Group, metric: str, *, exact: bool = False) -> dict[str, statistics.Interval]:
        """The same by `estimates.GROUPS` (kind, layer, field, cell, bit), or by what a function says of each site."""
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
    together: course.Together | None = None,
    watch: Callable[[course.Progress], object] = lambda progress: None,
    **options: Any,
) -> CampaignResult:
    """Runs a campaign, or goes on with one.

    Args:
      apply: (variables, images) -> logits [b, ...].
      variables: nested dict of collections, fault-free. For another number format see `faults.formats`.
      images: [n, h, w, c] float32 in [0, 1].
      labels: [n] int32, [n, k] 0/1 where the task is multi-label, or the task's own.
      spec: what is asked.
      key: typed; consumed.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      store: where finished chunks are kept; by default nowhere. What belongs to another campaign is the store's to
        refuse.
      shard: (i, n): run the i-th of n parts only, i from 1; trials of other parts are taken from the store where they
        are there. A campaign with `half_width` cannot be split so, as when to stop depends on all trials.
      together: makes one campaign of n processes that run at the same time, each with its `shard`, and keep their
        chunks in one store: the block `with together():` is entered by all of them, and left by none before all have
        come to its end, as in `experiments.processes.together`. They share the pilot, stop after the same trial, and
        each has all trials in the end. All have equally many devices. The store may keep chunks after the last that
        counts.
      watch: told after every chunk that this process has run or read.
      **options: of `faults.make_trial_fn`: strategy, trials_at_once, images_at_once, reuse, mesh. With a mesh (of
        `faults.trial_mesh`) the devices of this process share the trials.

    Raises:
      ValueError: the spec does not fit the model, or as in `faults.run_trials`.
    """
    campaign = prepared.prepare(apply, variables, images, labels, spec, key=key, task=task, **options)
    return conduct(campaign, store=store, shard=shard, together=together, watch=watch)


def conduct(
    campaign: prepared.Campaign,
    *,
    store: trials.Store | None = None,
    shard: tuple[int, int] = (1, 1),
    together: course.Together | None = None,
    watch: Callable[[course.Progress], object] = lambda progress: None,
) -> CampaignResult:
    """Runs a prepared campaign; arguments as in `run_campaign`."""
    spec, drawing = campaign.drawing.spec, campaign.drawing
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be (i, n) with 1 <= i <= n, got {shard}")
    if shard[1] > 1 and spec.half_width is not None and not together:
        raise ValueError("a campaign with half_width cannot be split without `together`: give trials instead")
    if together and store is None:
        raise ValueError("processes that run a campaign together need a store that all of them see: give store")
    under_way = course.Course(campaign, store, together, watch)
    pilot = schedule.pilot(drawing)
    if pilot:  # what follows needs all of it: whoever is by himself runs it all
        under_way.run(0, np.arange(pilot) % len(drawing.strata), shard if together else (1, 1))
    order = schedule.after_pilot(drawing, campaign.planned, under_way.by_stratum() if pilot else None)
    under_way.planned = pilot + len(order)
    under_way.run(pilot, order, shard)
    if not under_way.parts:
        raise ValueError(
            f"shard {shard[0]} of {shard[1]} has no trials, there are {under_way.planned}: use fewer shards"
        )
    found = trials.join([part for _, part in sorted(under_way.parts.items())])
    complete = under_way.stopped or found.count == under_way.planned
    return CampaignResult(drawing, found, campaign.accuracy, campaign.auc, pilot, under_way.stopped, complete)


def replay(campaign: prepared.Campaign, found: trials.Trials, number: int) -> trials.Trials:
    """Runs one trial again, from what its row says was hit; equal bit for bit on the same machine and versions.

    Where trials run in groups, under `jax.vmap` or on several devices, all that ran in one call with it run again, as
    rounding may depend on the group. (Where some of these had been read from a store, equal to rounding.)

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
        size = campaign.chunk * campaign.chunks_at_once
        first, last = schedule.piece_of(number, schedule.pilot(campaign.drawing), size)
    rows = (first <= found.number) & (found.number < last)
    same = trials.take(found, rows)
    again = campaign.run(same.number, same.stratum, given=same)
    return trials.take(again, again.number == number)


def difference(a: CampaignResult, b: CampaignResult, metric: str) -> statistics.Interval:
    """The mean difference a - b of a metric over trials of the same numbers.

    The campaigns must share their key and their spec, so that trial n of both comes from the same random numbers: two
    models of one architecture are then hit by the same faults; two number formats at the same elements, at the same
    place in the order of their bits, as far as their sites have the same shares of all bits.

    Args:
      a, b: results over the same images; trials that only one has run are left out.
      metric: one of `METRICS`.

    Raises:
      ValueError: they have no trial in common, are of different specs or keys, or are stratified: a stratum gets other
        trials where its pilot shows other values.
    """
    same_key = np.array_equal(*(jax.random.key_data(found.drawing.key) for found in (a, b)))
    if a.drawing.spec != b.drawing.spec or not same_key:
        raise ValueError("a difference is of two campaigns with one spec and one key: these differ")
    if a.drawing.strata:
        raise ValueError("a difference is of trials drawn alike, these are stratified: draw over bits or layers")
    options = {"accuracy": (a.accuracy, b.accuracy), "confidence": a.drawing.spec.confidence}
    return estimates.paired_difference(a.trials, b.trials, metric, **options)


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
