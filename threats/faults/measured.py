"""How many trials and images at a time are fastest here: a short measurement.

On a CPU one trial at a time on every core is mostly fastest, on an accelerator many at once; how many, the model and
the device decide. Each candidate runs the same trial over and over on one batch of images, so that one or two programs
are compiled for it. Results do not depend on the choice but to rounding.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import outcomes
from threats.faults import batching, campaign, devices, sites, slots

_TRIALS = {"cpu": (1, 4), "other": (4, 16, 64)}
_IMAGES = (0.5, 1, 2)  # of the default
_CALLS = 3
_GROUPS_PER_CALL = 8


class Measured(NamedTuple):
    """A way to run trials: so many and so many images at a time, and how many trials with one image it did a second."""

    trials_at_once: int
    images_at_once: int
    per_second: float


def measure(
    apply: Callable[..., Any],
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    table: sites.SiteTable,
    *,
    task: outcomes.Task = "multi-class",
    mesh: jax.sharding.Mesh | None = None,
    trials: Sequence[int] | None = None,
    watch: Callable[[Measured], object] = lambda found: None,
) -> Measured:
    """The fastest of some ways to run trials: first how many trials at a time, then how many images.

    Takes a few compilations and runs: seconds to a minute. A candidate that runs out of memory is left out.

    Args:
      apply, variables, images, labels, table, task, mesh: as in `campaign.make_trial_fn`.
      trials: how many at a time are tried, at most as many as `batching.default_trials` has memory for; by default 1
        and 4 on a CPU, 4, 16 and 64 elsewhere.
      watch: told of every candidate.

    Raises:
      ValueError: no candidate fits into memory.
    """
    default = min(batching.default_images(images), len(images))
    most = batching.most_trials(table)
    given = trials or _TRIALS.get(jax.default_backend(), _TRIALS["other"])

    def fastest(candidates: Iterator[tuple[int, int]]) -> Measured | None:
        found = []
        for at_once, size in dict.fromkeys(candidates):
            rate = _rate(apply, variables, images[:size], labels[:size], table, at_once, task=task, mesh=mesh)
            if rate is not None:
                found.append(Measured(at_once, size, rate))
                watch(found[-1])
        return max(found, key=lambda one: one.per_second, default=None)

    first = fastest((min(count, most), default) for count in given)
    if first is None:
        raise ValueError(f"no trial fits into memory with {default} images at once: give fewer")
    sizes = (max(1, min(len(images), int(default * factor))) for factor in _IMAGES)
    others = fastest((first.trials_at_once, size) for size in sizes if size != default)
    return max((one for one in (first, others) if one), key=lambda one: one.per_second)


def _rate(apply, variables, images, labels, table, at_once, *, task, mesh) -> float | None:
    """Trials times images per second; None without enough memory."""
    count = at_once * devices.count(mesh) * _GROUPS_PER_CALL
    options = {"trials_at_once": at_once, "images_at_once": len(images), "expected_trials": count}
    try:
        run = campaign.make_trial_fn(apply, images, labels, table, task=task, mesh=mesh, **options)
        faults = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, 1)), _median(table))
        seconds = []
        for _ in range(_CALLS + 1):
            begun = time.perf_counter()
            jax.block_until_ready(run(variables, faults))
            seconds.append(time.perf_counter() - begun)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return count * len(images) / min(seconds[1:])  # the first one compiles


def _median(table: sites.SiteTable) -> slots.Faults:
    """One fault [] in the site that half of all bits come before."""
    bits = np.cumsum([float(site.size * site.width) for site in table])
    site = int(np.searchsorted(bits, bits[-1] / 2))
    return slots.Faults(*(jnp.asarray(value, jnp.int32) for value in (site, 0, 0)))
