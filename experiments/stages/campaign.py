"""A fault campaign on the run's model: held in one number format after another, resumable, and summed up in rows.

Its trials lie in the folder `fault_parts/campaign_FORMAT`, see `storage.parts`. Formats share the random numbers of
their draws: trial n hits, as far as two formats have the same sites, the same element and the same place in its bits.
"""

import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import blocks, processes
from experiments.stages import context, measures
from experiments.storage import fingerprint, parts, records
from mamba_jax import data
from threats import campaigns, faults, outcomes
from threats.faults import batching

_IMAGE_METRICS = ("accuracy", "sdc", "nonfinite")
_GROUP_METRICS = ("accuracy", "sdc", "critical_5")
_PLACES = {
    "stage": lambda site: blocks.stage(site.layer),
    "branch": lambda site: blocks.branch(site.layer),
    "part": lambda site: blocks.split(site.layer)[1],
}


class Prepared(NamedTuple):
    """A campaign in one number format, ready to run.

    number_format, campaign: see there. root: folder of its trials. identity: their fingerprint. right: [n] fault-free.
    """

    number_format: str
    campaign: campaigns.Campaign
    root: pathlib.Path
    identity: dict[str, Any]
    right: np.ndarray

    def store(self) -> parts.PartFolder:
        """Where its trials are kept."""
        return parts.PartFolder(self.root, self.identity, self.campaign.drawing.table)


def run(ctx: context.Context) -> list[records.Measurement] | None:
    """Runs the campaign in every format; None where a shard leaves trials to others.

    Raises:
      ValueError: the folder's trials are of another campaign, or a part of them cannot be read.
    """
    results: dict[str, campaigns.CampaignResult] = {}
    rows: list[records.Measurement] = []
    for number_format in ctx.config.fault.number_formats:
        ready = prepare(ctx, number_format)
        found = _conduct(ctx, ready)
        if found is None:
            continue
        results[number_format] = found
        rows += _clean(ready)
        rows += _figures(number_format, found)
    if len(results) < len(ctx.config.fault.number_formats):
        return None
    return [*rows, *_differences(results)]


def run_together(ctx: context.Context) -> None:
    """Runs the trials in every format, this process its share, and keeps them; process 0 shows how it gets on.

    What they say is for `run`, which finds them all.

    Raises:
      ValueError: as in `run`, or another process has stopped.
    """
    for number_format in ctx.config.fault.number_formats:
        with processes.together():
            ready = prepare(ctx, number_format)
            if processes.is_main():
                ready.store()  # the others find it made
        with processes.together():
            ready.store()
        _run_trials(ctx, ready, shard=processes.shard(), together=processes.together)


def prepare(ctx: context.Context, number_format: str) -> Prepared:
    """The campaign in one format; nothing runs but the model without a fault."""
    spec, split = ctx.config.fault.campaign, ctx.test_images(ctx.config.fault.images)
    images, labels = data.to_float(split.images), jnp.asarray(split.labels)
    apply, variables = ctx.model.apply, ctx.variables
    if number_format != "float32":
        apply, variables = faults.apply_stored(apply), faults.store(variables, number_format)
    root = ctx.folder.fault_parts / f"campaign_{number_format}"
    options = {"task": ctx.task, "mesh": _mesh(ctx)}
    batches = {} if spec.one_shot else _batches(ctx, root, (apply, variables, images, labels), options)
    campaign = campaigns.prepare(
        apply,
        variables,
        images,
        labels,
        spec,
        key=ctx.key("fault", "campaign"),
        strategy=ctx.run.trial_strategy,
        **options,
        **(batches or {"trials_at_once": ctx.run.trials_at_once}),
    )
    identity = fingerprint.fingerprint(apply, variables, images, labels, campaign, task=ctx.task) | batches
    right = np.asarray(outcomes.accuracy(campaign.reference, labels, ctx.task))
    return Prepared(number_format, campaign, root, identity, right)


def _batches(
    ctx: context.Context, root: pathlib.Path, problem: tuple[Any, ...], options: dict[str, Any]
) -> dict[str, int]:
    """`trials_at_once` and `images_at_once`: as given, as the campaign in that folder has had them, or as chosen.

    They decide how sums are rounded, so that a campaign keeps them.
    """
    given = {name: getattr(ctx.run, name) for name in ("trials_at_once", "images_at_once")}
    kept = parts.read_identity(root) if (root / "campaign.json").is_file() else {}
    given = {name: value or kept.get(name) for name, value in given.items()}
    if all(given.values()):
        return given
    apply, variables, images, _ = problem
    table = campaigns.sites_of(apply, variables, images, ctx.config.fault.campaign)
    at_once = batching.default_trials(table, ctx.run.trial_strategy), batching.default_images(images)
    if ctx.run.measure:
        with ctx.bar(0, "measuring how many trials and images at once", "ways tried") as bar:
            at_once = faults.measure(*problem, table, watch=lambda found: bar.update(), **options)[:2]
        print(f"fastest of the ways tried: {at_once[0]} trials and {at_once[1]} images at once")
    return {name: value or chosen for (name, value), chosen in zip(given.items(), at_once, strict=True)}


def _mesh(ctx: context.Context) -> jax.sharding.Mesh | None:
    """The devices that share the trials: as many as are asked for; by default all of an accelerator, one of a CPU."""
    count = ctx.run.devices or (1 if jax.default_backend() == "cpu" else jax.local_device_count())
    if count > jax.local_device_count():
        raise ValueError(f"devices must be at most {jax.local_device_count()}, as many as there are here, got {count}")
    return faults.trial_mesh(jax.local_devices()[:count]) if count > 1 else None


def plan(ctx: context.Context) -> Iterator[str]:
    """Lines that say how many trials there are and how long they take, by running a chunk twice in each format."""
    for number_format in ctx.config.fault.number_formats:
        campaign = prepare(ctx, number_format).campaign
        drawing, chunk = campaign.drawing, min(campaign.chunk, campaign.planned)
        yield (
            f"{number_format}: {drawing.population:,} possible faults at {len(drawing.table)} sites, "
            f"{campaign.planned:,} trials{' at most' if drawing.spec.half_width is not None else ''}"
        )
        seconds = []
        for _ in range(2):
            begun = time.monotonic()
            campaign.run(np.arange(chunk), np.arange(chunk) % max(1, len(drawing.strata)))
            seconds.append(time.monotonic() - begun)
        more = max(0, campaign.planned - chunk)
        total = seconds[0] + more / chunk * seconds[1]
        yield (
            f"{number_format}: {chunk / seconds[1]:.3g} trials/s once compiled (one chunk of {chunk}), "
            f"about {_duration(total)} in all"
        )


def replay(ctx: context.Context, number: int) -> Iterator[str]:
    """Lines that show one trial and whether it runs as its row says, in every format.

    Raises:
      ValueError: the trial has not run.
    """
    for number_format in ctx.config.fault.number_formats:
        ready = prepare(ctx, number_format)
        if not ready.root.is_dir():
            raise ValueError(f"{ctx.folder.root} holds no campaign in {number_format}: run it first")
        kept = ready.store().load_all()
        again = campaigns.replay(ready.campaign, kept, number)
        row = campaigns.take(kept, kept.number == number)
        yield f"{number_format}: trial {number}"
        table = ready.campaign.drawing.table
        for site, element, bit, action in zip(*(x[0] for x in row.faults), strict=True):
            if site >= 0:
                field = faults.field_of(int(bit), table[int(site)].dtype)
                yield f"  {faults.ACTIONS[action]} bit {bit} ({field}) of element {element} of {table[int(site)].path}"
        for name in ("before", "after", "accuracy", "loss", "sdc", "nonfinite", "auc"):
            was, now = (getattr(trial.result, name)[0] for trial in (row, again))
            same = "bit for bit" if was.tobytes() == now.tobytes() else f"DIFFERS: now {now}"
            yield f"  {name}: {was}, {same}"


def _conduct(ctx: context.Context, ready: Prepared) -> campaigns.CampaignResult | None:
    """The whole campaign, or None where trials are missing that are not this shard's."""
    found = _run_trials(ctx, ready, shard=ctx.run.shard)
    if not found.complete:
        return None
    spec = found.drawing.spec
    if spec.half_width is not None:
        _, low, high, _ = found.overall(spec.metric)
        if (high - low) / 2 > spec.half_width:
            reached, count = f"{(high - low) / 2:.4f}", f"{found.trials.count:,}"
            print(
                f"{ready.number_format}: the half-width of {spec.metric} is {reached} after the {count} trials "
                f"that were planned, more than the {spec.half_width:g} asked for"
            )
    return found


def _run_trials(ctx: context.Context, ready: Prepared, **shared: Any) -> campaigns.CampaignResult:
    """Those that are not kept yet, of `shared` as `campaigns.conduct` takes it; process 0 shows how it gets on."""
    conduct = functools.partial(campaigns.conduct, ready.campaign, store=ready.store(), **shared)
    if not processes.is_main():
        return conduct()
    with ctx.bar(ready.campaign.planned, f"campaign, {ready.number_format}", "trials") as bar:
        return conduct(watch=functools.partial(_show, bar, ctx.config.fault.campaign.metric))


def _show(bar: tqdm.tqdm, metric: str, progress: campaigns.Progress) -> None:
    bar.total = progress.planned
    if not progress.fresh:
        bar.initial += progress.done - bar.n  # what was read counts as done, not in the rate
    estimate = records.interval_text(*progress.estimate[:3])
    bar.set_postfix_str(f"{metric} {estimate}", refresh=False)
    bar.update(progress.done - bar.n)


def _clean(ready: Prepared) -> Iterator[records.Measurement]:
    accuracy = measures.of_images(ready.right)
    yield records.Measurement("campaign", ready.number_format, 0, "clean_accuracy", accuracy)


def _figures(number_format: str, found: campaigns.CampaignResult) -> Iterator[records.Measurement]:
    one_shot = found.drawing.spec.one_shot
    for metric in _IMAGE_METRICS if one_shot else campaigns.METRICS:
        yield records.Measurement("campaign", number_format, 1, metric, found.overall(metric))
    if found.drawing.width > 1 or found.drawing.spec.bit_error_rate is not None:
        return  # a trial's outcome belongs to no single hit
    groups = {group: group for group in campaigns.GROUPS} | _PLACES
    for group, of_site in groups.items():
        if group == ("bit" if found.drawing.strata else "cell"):
            continue  # no estimate of the one; of the other, trials that are not stratified have few or none each
        for metric in _GROUP_METRICS if not one_shot else _IMAGE_METRICS:
            for name, interval in found.by(of_site, metric).items():
                yield records.Measurement("campaign", f"{number_format}/{group}/{name}", 1, metric, interval)


def _differences(results: dict[str, campaigns.CampaignResult]) -> Iterator[records.Measurement]:
    """Of each further format against the first, over the trials that both have run."""
    first, *others = results
    if results[first].drawing.strata:
        return  # each format's pilot decides which trials follow
    for other in others:
        for metric in ("accuracy", "sdc"):
            interval = campaigns.difference(results[other], results[first], metric)
            yield records.Measurement("campaign", f"{other} - {first}", 1, metric, interval)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
