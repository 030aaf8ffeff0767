"""Flipped bits in weights and activations: at random, layer by layer, and the worst that a search finds.

Every trial becomes a row of `faults.csv`; the stage's own rows are what the trials of a campaign add up to.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.settings import config
from experiments.stages import campaign, context, measures, trials, worst_case
from experiments.storage import records
from mamba_jax import data
from threats import faults, outcomes, statistics
from threats.faults import batching

_TRIALS_PER_FILE = 32
_CONTROLS = 32


def run(ctx: context.Context) -> list[records.Measurement] | None:
    """Runs every campaign, or goes on where an earlier call was stopped; None where a shard leaves trials to others."""
    rows = []
    subjects = list(_subjects(ctx))  # refuses patterns that match no site before anything runs
    if "campaign" in ctx.config.fault.modes:
        of_campaign = campaign.run(ctx)
        if of_campaign is None:
            return None
        rows += of_campaign
    if subjects:
        rows += _single_faults(ctx, subjects)
    return rows


def _single_faults(ctx: context.Context, subjects: list["_Subject"]) -> list[records.Measurement]:
    """Random, layer-wise and worst-case faults, a row of `faults.csv` each."""
    split = ctx.test_images(ctx.config.fault.images)
    frames, rows = [], []
    for subject in subjects:
        bench = _bench(ctx, subject, split)
        right = np.asarray(outcomes.accuracy(bench.logits, bench.labels, ctx.task))
        campaigns = list(_campaigns(ctx, subject, bench))
        with ctx.bar(sum(len(c.faults.site) for c in campaigns), f"faults in {subject.target}", "trials") as bar:
            for some in campaigns:
                frames.append(_trials(ctx, some, bench, float(right.mean()), bar.update))
        if "worst" in subject.modes:
            flips = worst_case.campaign(ctx, subject.target, bench)
            found = _trials(ctx, flips, bench, float(right.mean()), lambda count: None)
            frames.append(found)
            rows += _after_flips(subject.target, found, right)
    table = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    records.write(table, ctx.folder.root / "faults.csv")
    return [*_random(table), *_layerwise(table), *rows]


class _Subject(NamedTuple):
    """What is hit, and how: target as in the rows, modes of `config.FAULT_MODES`, the model and its sites."""

    target: str
    modes: tuple[str, ...]
    apply: Any
    variables: Any
    table: faults.SiteTable


def _subjects(ctx: context.Context) -> Iterator[_Subject]:
    """Weights and activations as they are; the worst case of weights in each further number format too.

    Raises:
      ValueError: the sites of the worst case match nothing.
    """
    chosen = ctx.config.fault
    modes = tuple(mode for mode in chosen.modes if mode != "campaign")
    for target in chosen.targets if modes else ():
        if target != "weights" or "float32" in chosen.number_formats or modes != ("worst",):
            for some in _together(chosen, modes):
                yield _subject(ctx, target, some, ctx.model.apply, ctx.variables)
    if "weights" in chosen.targets and "worst" in modes:
        for number_format in (name for name in chosen.number_formats if name != "float32"):
            apply, stored = faults.apply_stored(ctx.model.apply), faults.store(ctx.variables, number_format)
            yield _subject(ctx, f"weights_{number_format}", ("worst",), apply, stored)


def _together(chosen: config.FaultConfig, modes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The modes that hit the same sites, the search last."""
    others = tuple(mode for mode in modes if mode != "worst")
    if chosen.restricts and others and others != modes:
        return [others, ("worst",)]
    return [modes]


def _subject(ctx: context.Context, target: str, modes: tuple[str, ...], apply: Any, variables: Any) -> _Subject:
    chosen = ctx.config.fault
    find = faults.weight_sites
    if target == "activations":
        image = data.to_float(ctx.dataset.splits["test"].images[:1])
        find = lambda variables, **patterns: faults.activation_sites(apply, variables, image, **patterns)  # noqa: E731
    if "worst" not in modes or not chosen.restricts:
        return _Subject(target, modes, apply, variables, find(variables))
    try:
        table = find(variables, include=chosen.worst_include, exclude=chosen.worst_exclude)
    except ValueError as error:
        raise ValueError(f"worst case in {target}: {error}") from error
    return _Subject(target, modes, apply, variables, table)


def _bench(ctx: context.Context, subject: _Subject, split: data.Split) -> trials.Bench:
    chosen, apply, variables, table = ctx.config.fault, subject.apply, subject.variables, subject.table
    images, labels = data.to_float(split.images), jnp.asarray(split.labels)
    width = max(chosen.flips) if "random" in subject.modes else 1
    width = max(width, chosen.worst_flips) if "worst" in subject.modes else width
    at_once = ctx.run.trials_at_once or batching.default_trials(table, ctx.run.trial_strategy)
    plain = apply is ctx.model.apply
    logits = (
        ctx.clean_logits(split)
        if plain
        else jax.jit(faults.fault_free_logits, static_argnums=0)(apply, variables, images)
    )
    fn = faults.make_trial_fn(
        apply,
        images,
        labels,
        table,
        task=ctx.task,
        strategy=ctx.run.trial_strategy,
        reference=jnp.asarray(logits),
        trials_at_once=at_once,
        images_at_once=ctx.run.images_at_once,
        expected_trials=_expected(ctx, subject, table),
    )
    chunk = _TRIALS_PER_FILE * at_once  # trials that run at once share a part of the program: enough to fill groups
    run = functools.partial(fn, variables)
    return trials.Bench(apply, variables, images, labels, np.asarray(logits), table, width, run, chunk)


def _expected(ctx: context.Context, subject: _Subject, table: faults.SiteTable) -> int:
    """How many trials the campaigns of one target are together, however many of them have finished before."""
    chosen = ctx.config.fault
    fields = sum(len(faults.fields(site.dtype)) for site in {site.layer: site for site in table}.values())
    of_mode = {
        "random": 2 * len(chosen.flips) * chosen.trials,
        "layerwise": fields * chosen.layer_trials,
        "worst": chosen.worst_flips * (_CONTROLS + 1),
    }
    return sum(of_mode[mode] for mode in subject.modes)


def _campaigns(ctx: context.Context, subject: _Subject, bench: trials.Bench) -> Iterator[trials.Campaign]:
    chosen, target = ctx.config.fault, subject.target
    if "random" in subject.modes:
        for flips in chosen.flips:
            for law in ("bits", "layers"):
                key = ctx.key("fault", target, law, flips)
                drawn = faults.random_faults(key, bench.table, trials=chosen.trials, flips=flips, over=law)
                yield trials.Campaign(target, "random", law, flips, faults.widen(drawn, bench.width))
    if "layerwise" in subject.modes:
        key = ctx.key("fault", target, "layerwise")
        drawn = faults.layerwise_faults(key, bench.table, trials_per_cell=chosen.layer_trials)
        yield trials.Campaign(target, "layerwise", "field", 1, faults.widen(drawn.faults, bench.width))
    if "worst" in subject.modes:
        key = ctx.key("fault", target, "control")
        drawn = faults.random_faults(key, bench.table, trials=_CONTROLS, flips=chosen.worst_flips)
        for flips in range(1, chosen.worst_flips + 1):
            few = jax.tree.map(lambda leaf, flips=flips: leaf[:, :flips], drawn)
            yield trials.Campaign(target, "control", "bits", flips, faults.widen(few, bench.width))


def _trials(ctx: context.Context, some: trials.Campaign, bench: trials.Bench, before: float, advance) -> pd.DataFrame:
    return trials.run_in_chunks(
        some,
        bench.run,
        bench.table,
        common=trials.common(ctx, before, len(bench.images)),
        parts=ctx.folder.fault_parts,
        chunk=bench.chunk,
        advance=advance,
    )


def _random(table: pd.DataFrame) -> Iterator[records.Measurement]:
    chosen = records.select(table, mode=("random", "control"))
    for (target, mode, law, flips), part in chosen.groupby(["target", "mode", "drawing", "flips"], sort=False):
        method = f"random_{law}" if mode == "random" else "random_control"
        for metric, interval in trials.summarise(part).items():
            yield records.Measurement(target, method, flips, metric, interval)


def _layerwise(table: pd.DataFrame) -> Iterator[records.Measurement]:
    chosen = records.select(table, mode="layerwise")
    for (target, field, layer), part in chosen.groupby(["target", "field", "layer"], sort=False):
        found = trials.summarise(part)
        for metric in ("accuracy_loss", "critical_1", "nonfinite"):
            yield records.Measurement(target, f"layerwise/{field}/{layer}", 1, metric, found[metric])


def _after_flips(target: str, found: pd.DataFrame, right: np.ndarray) -> Iterator[records.Measurement]:
    """Accuracy after each flip that the search found, over test images it has not seen; fault-free as flip 0."""
    for method in ("worst", "random_control"):
        yield records.Measurement(target, method, 0, "accuracy", measures.of_images(right))
    for row in found.itertuples():
        # In multi-label an image's share of right labels varies less than right or wrong would: the interval is safe.
        interval = statistics.wilson(round(row.accuracy * len(right)), len(right))._replace(value=row.accuracy)
        yield records.Measurement(target, "worst", row.flips, "accuracy", interval)
