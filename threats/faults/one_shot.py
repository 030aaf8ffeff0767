"""Faults that are there for one inference: each trial hits one image, all of them in one compiled call.

A trial is a fault and an image. Faults in activations alone leave the weights as they are, so that a group of trials is
one forward pass in which every image has a fault of its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from threats import outcomes
from threats.faults import batching, campaign, devices, injection, sites, slots

_SHOTS_AT_ONCE = 128  # one after another


def make_one_shot_fn(
    apply: Callable[..., Any],
    images: jax.Array,
    labels: jax.Array,
    table: sites.SiteTable,
    reference: jax.Array,
    *,
    task: outcomes.Task = "multi-class",
    strategy: batching.Strategy = "auto",
    trials_at_once: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[injection.Variables, slots.Faults, np.ndarray], campaign.TrialResult]:
    """A function of (variables, faults [t, k], image numbers [t]) that evaluates trial i on its image alone.

    Args:
      apply: (variables, images) -> logits [b, ...].
      images: [n, h, w, c].
      labels: [n] or [n, k].
      table: the sites that faults point into.
      reference: [n, ...] fault-free logits.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      strategy: as in `campaign.run_trials`, for faults in weights and states.
      trials_at_once: in one call; by default, where only activations are hit, as many as images of a forward pass, else
        as in `campaign.run_trials`.
      mesh: devices that share the trials, as in `campaign.make_trial_fn`.

    Returns:
      fn -> `TrialResult`: accuracy, SDC and non-finite rate are 0 or 1 (in multi-label, accuracy is the share of right
      labels), AUC is NaN, values before and after are those at the trial's own image.
    """
    campaign.check(images, labels, reference, task, strategy, trials_at_once, None)
    mesh = devices.check(mesh)
    activations = all(site.kind == "activation" for site in table)
    size = batching.default_images(images) if activations else batching.default_trials(table, strategy)
    size = trials_at_once or size
    data = devices.whole(tuple(jnp.asarray(rows) for rows in (images, labels, reference)), mesh)

    def shot(variables, argument):
        fault, image, label, clean = argument
        values = sites.table_values(apply, variables, image[None], table)
        faulty, before, after = injection.inject_and_read(variables, table, fault, tapped=values)
        logits = apply(faulty, image[None])
        found = outcomes.sums(logits, label[None], clean[None], jnp.ones((1,), bool), task)
        return campaign.TrialResult(*found, jnp.float32(jnp.nan), before, after)

    def shots(variables, data, faults, numbers):
        arguments = (faults, *(rows[numbers] for rows in data))
        if size == 1:
            return jax.lax.map(functools.partial(shot, variables), arguments)
        return jax.vmap(functools.partial(shot, variables))(arguments)

    group = jax.jit(devices.spread(shots, mesh, False, False, True, True))

    def run(variables: injection.Variables, faults: slots.Faults, numbers: np.ndarray) -> campaign.TrialResult:
        slots.check(faults, table)
        variables = devices.whole(variables, mesh)
        count, at_once = len(numbers), (size if size > 1 else _SHOTS_AT_ONCE) * devices.count(mesh)
        found = []
        for start in range(0, count, at_once):
            some = slots.pad(jax.tree.map(lambda x, start=start: x[start : start + at_once], faults), at_once)
            own = np.resize(numbers[start : start + at_once], at_once)
            found.append(group(variables, data, *devices.cut((some, own), mesh)))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:count], *found)

    return run
