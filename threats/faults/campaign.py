"""Many fault trials of one model, compiled once: inject, evaluate on every image, compare with the fault-free run.

A trial is one draw of k flipped bits. Its outcome over n images with logits z' against the fault-free z:

    accuracy = mean_i [decision(z'_i) = y_i and z'_i finite]
    SDC rate = mean_i [decision(z'_i) != decision(z_i) and z'_i finite]     (silent data corruption)
    non-finite rate = mean_i [some logit of z'_i is NaN or infinite]        (detected: DUE)

and the AUC of all z' (`outcomes.auc`).

What a trial's faults cannot change is computed once and kept (see `reuse`). Trials run in groups of `trials_at_once`
under `jax.vmap`. On a CPU one trial at a time is fastest, on as many threads as there are cores: faulty weights under
`vmap` turn convolutions into grouped ones. Images go through the model in batches of `images_at_once`. Several devices
share a group (see `devices`).
`trial_outcomes` is the whole model for every trial in one traceable function, to be jitted, exported or scanned.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from threats import outcomes
from threats.faults import batching, devices, injection, sites, slots, staged

Apply = Callable[..., Any]


class TrialResult(NamedTuple):
    """What each of t trials did.

    accuracy: [t] float32, mean over the images; a non-finite row is wrong.
    loss: [t] float32, mean over the images; not finite where a row's is not.
    sdc: [t] float32, share of images whose decision differs from the fault-free one and whose logits are finite.
    nonfinite: [t] float32, share of images with a NaN or infinite logit.
    auc: [t] float32, over the images, see `outcomes.auc`.
    before: [t, k] float32, each slot's fault-free value: the weight, or the activation or state at image 0; NaN if
      unused.
    after: [t, k] float32, the value with every flip of the trial in that element.
    """

    accuracy: jax.Array
    loss: jax.Array
    sdc: jax.Array
    nonfinite: jax.Array
    auc: jax.Array
    before: jax.Array
    after: jax.Array


class _Batches(NamedTuple):
    """The data in m batches of b rows, see `batching.split`; copies are not valid."""

    images: jax.Array
    labels: jax.Array
    reference: jax.Array
    valid: jax.Array


def run_trials(
    apply: Apply,
    variables: injection.Variables,
    images: jax.Array,
    labels: jax.Array,
    table: sites.SiteTable,
    faults: slots.Faults,
    *,
    task: outcomes.Task = "multi-class",
    strategy: batching.Strategy = "auto",
    trials_at_once: int | None = None,
    images_at_once: int | None = None,
    reference: jax.Array | None = None,
) -> TrialResult:
    """Runs every trial of `faults` once; compiled anew at each call, see `make_trial_fn` for many calls.

    Args:
      apply: (variables, images) -> logits [b, ...].
      variables: nested dict of collections, fault-free.
      images: [n, h, w, c] float32 in [0, 1].
      labels: [n] int32, [n, k] 0/1 where the task is multi-label, or the task's own.
      table: the sites that `faults` points into.
      faults: [t, k].
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      strategy: "vmap" (a group of trials at once), "map" (one after another), or "auto": "map" on a CPU, else "vmap".
      trials_at_once: size of a group; by default 1 with "map", at most 16 with "vmap" (see `batching.default_trials`).
      images_at_once: images per forward pass; by default 256, fewer above 32 px.
      reference: [n, ...] fault-free logits, where they are already known.

    Raises:
      ValueError: an unknown task or strategy, a size below 1, or arrays that do not fit together.
    """
    make = functools.partial(make_trial_fn, apply, images, labels, table, task=task, strategy=strategy)
    trial_fn = make(trials_at_once=trials_at_once, images_at_once=images_at_once, reference=reference)
    return trial_fn(variables, faults)


def make_trial_fn(
    apply: Apply,
    images: jax.Array,
    labels: jax.Array,
    table: sites.SiteTable,
    *,
    task: outcomes.Task = "multi-class",
    strategy: batching.Strategy = "auto",
    trials_at_once: int | None = None,
    images_at_once: int | None = None,
    reference: jax.Array | None = None,
    trials_per_call: int | None = None,
    expected_trials: int | None = None,
    reuse: bool = True,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[injection.Variables, slots.Faults], TrialResult]:
    """A function of (variables, faults) for a campaign in chunks: compiled programs and fault-free values are kept.

    Args:
      reuse: whether trials evaluate only what their faults can change, see `reuse`; the values of the fault-free run
        are kept on the device, in up to an eighth of its memory. Otherwise, and for a model that has a tap of the
        table inside a loop, every trial evaluates the whole model. Both agree to rounding, where XLA fuses differently.
      trials_per_call: trials in each call; a shorter chunk is filled up with fault-free trials, whose results are cut
        off. By default a call runs what it is given, and another number of trials compiles again.
      expected_trials: in all calls together; so many decide how many programs pay for being compiled. By default those
        of the first call. Results agree to rounding whatever it is, and bit for bit if it is the same.
      reference: [n, ...] fault-free logits (`fault_free_logits`); without it every call computes them, at the cost of
        about one trial.
      mesh: devices that share the trials (`trial_mesh`), `trials_at_once` on each at a time; by default one device has
        them all. Results agree to rounding on any number of devices.
      Others as in `run_trials`.

    Returns:
      fn(variables, faults [t, k]) -> TrialResult of t trials.

    Raises:
      ValueError: as in `run_trials`; by `fn`, faults that point outside the table.
    """
    options = {"task": task, "strategy": strategy, "trials_at_once": trials_at_once, "images_at_once": images_at_once}
    check(images, labels, reference, **options)
    mesh = devices.check(mesh)
    compiled = jax.jit(functools.partial(trial_outcomes, apply, table=table, mesh=mesh, **options))
    data = {"images": jnp.asarray(images), "labels": jnp.asarray(labels), "reference": reference}
    data = devices.whole(data, mesh)

    traced = any(isinstance(x, jax.core.Tracer) for x in (images, labels, reference))
    stages = None
    if reuse and not traced:
        stages = staged.Stages(
            apply,
            images,
            labels,
            reference,
            table,
            task=task,
            images_at_once=images_at_once or batching.default_images(images),
            trials_at_once=trials_at_once or batching.default_trials(table, strategy),
            trials=expected_trials,
            mesh=mesh,
        )

    def trial_fn(variables: injection.Variables, faults: slots.Faults) -> TrialResult:
        slots.check(faults, table)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((variables, faults)))
        if stages and not traced and stages.prepare(variables, len(faults.site)):
            means, before, after = stages(faults)
            return TrialResult(*map(jnp.asarray, (*means.T, before, after)))
        count = faults.site.shape[0]
        filled = faults if trials_per_call is None else slots.pad(faults, trials_per_call)
        result = compiled(devices.whole(variables, mesh), faults=filled, **data)
        return jax.tree.map(lambda values: values[:count], result)

    return trial_fn


def trial_outcomes(
    apply: Apply,
    variables: injection.Variables,
    images: jax.Array,
    labels: jax.Array,
    table: sites.SiteTable,
    faults: slots.Faults,
    *,
    task: outcomes.Task = "multi-class",
    strategy: batching.Strategy = "auto",
    trials_at_once: int | None = None,
    images_at_once: int | None = None,
    reference: jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> TrialResult:
    """`run_trials` as one traceable function, every trial by the whole model: for the caller to jit, export or scan.

    With a mesh as in `make_trial_fn`; to be called under `jax.jit`.
    """
    check(images, labels, reference, task, strategy, trials_at_once, images_at_once)
    if reference is None:
        reference = fault_free_logits(apply, variables, images, images_at_once=images_at_once)
    batches = _batched(images, labels, reference, images_at_once or batching.default_images(images))
    tapped = sites.table_values(apply, variables, images[:1], table)

    def trial(fault: slots.Faults) -> TrialResult:
        faulty, before, after = injection.inject_and_read(variables, table, fault, tapped=tapped)
        means, logits = _mean_outcomes(apply, faulty, batches, images.shape[0], task)
        return TrialResult(*means, outcomes.auc(logits, labels, task), before, after)

    return batching.in_groups(trial, faults, trials_at_once or batching.default_trials(table, strategy), mesh)


def fault_free_logits(
    apply: Apply, variables: injection.Variables, images: jax.Array, *, images_at_once: int | None = None
) -> jax.Array:
    """[n, ...] logits, computed in batches of `images_at_once` (by default 256, fewer above 32 px)."""
    split = batching.split(images, images_at_once or batching.default_images(images))
    logits = jax.lax.map(lambda batch: apply(variables, batch), split)
    return logits.reshape(-1, *logits.shape[2:])[: images.shape[0]]


def check(
    images: jax.Array,
    labels: jax.Array,
    reference: jax.Array | None,
    task: str,
    strategy: str,
    trials_at_once: int | None,
    images_at_once: int | None,
) -> None:
    """Raises ValueError for arguments that `run_trials` does not take."""
    outcomes.check_task(task)
    if strategy not in batching.STRATEGIES:
        raise ValueError(f"strategy must be one of {batching.STRATEGIES}, got {strategy!r}")
    for name, value in (("trials_at_once", trials_at_once), ("images_at_once", images_at_once)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, or None to choose it, got {value}")
    for name, rows in (("labels", labels), ("reference", reference)):
        if rows is not None and rows.shape[0] != images.shape[0]:
            raise ValueError(f"{name} must have one row per image, got {rows.shape[0]} for {images.shape[0]} images")
    if not images.shape[0]:
        raise ValueError("images must hold at least one image, got none")


def _mean_outcomes(
    apply: Apply, variables: injection.Variables, batches: _Batches, count: int, task: outcomes.Task
) -> tuple[jax.Array, jax.Array]:
    """[4] float32: accuracy, loss, SDC rate, non-finite rate over the valid rows; and their logits [count, ...]."""

    def sums(batch: _Batches) -> tuple[jax.Array, jax.Array]:
        logits = apply(variables, batch.images)
        return outcomes.sums(logits, batch.labels, batch.reference, batch.valid, task), logits

    if batches.valid.shape[0] == 1:
        total, logits = sums(jax.tree.map(lambda rows: rows[0], batches))
    else:
        found, logits = jax.lax.map(sums, batches)
        total, logits = jnp.sum(found, axis=0), logits.reshape(-1, *logits.shape[2:])
    return total / count, logits[:count]


def _batched(images: jax.Array, labels: jax.Array, reference: jax.Array, size: int) -> _Batches:
    split = [batching.split(jnp.asarray(rows), size) for rows in (images, labels, reference)]
    return _Batches(*split, batching.valid(images.shape[0], size))
