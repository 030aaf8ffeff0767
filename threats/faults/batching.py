"""How many trials and images are computed at a time, so that one compilation serves and memory stays bounded."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from threats.faults import devices, memory, sites, slots

Strategy = Literal["auto", "vmap", "map"]
STRATEGIES = ("auto", "vmap", "map")

_IMAGES_AT_ONCE = 256
_PIXELS_AT_ONCE = 64 * 64 * 64
_TRIALS_AT_ONCE = 16
_OWN_SHARE = 1 / 16  # of the memory: 1 GiB of 16


def in_groups(
    trial: Callable[[slots.Faults], Any], faults: slots.Faults, size: int, mesh: jax.sharding.Mesh | None = None
) -> Any:
    """`trial` over every trial: groups of `size` under vmap, one group after another, one compilation of the model.

    Args:
      trial: from one trial's faults [k] to a pytree of arrays.
      faults: [t, k].
      size: trials in a group; the last one is filled up with fault-free trials.
      mesh: devices that share the trials, see `devices`; each runs its own groups.

    Returns:
      The pytree with a leading axis [t].
    """
    each = devices.spread(lambda own: _in_groups(trial, own, size), mesh, True)
    if mesh is None:
        return each(faults)
    count = faults.site.shape[0]
    filled = slots.pad(faults, -(-count // mesh.size) * mesh.size)
    return jax.tree.map(lambda x: x[:count], each(filled))


def _in_groups(trial: Callable[[slots.Faults], Any], faults: slots.Faults, size: int) -> Any:
    count = faults.site.shape[0]
    size = min(size, count)
    if size == 1:
        return jax.lax.map(trial, faults)
    if size == count:
        return jax.vmap(trial)(faults)
    groups = -(-count // size)
    grouped = jax.tree.map(lambda x: x.reshape(groups, size, -1), slots.pad(faults, groups * size))
    results = jax.lax.map(jax.vmap(trial), grouped)
    return jax.tree.map(lambda x: x.reshape(groups * size, *x.shape[2:])[:count], results)


def split(rows: jax.Array, size: int) -> jax.Array:
    """[n, ...] to [m, b, ...] with b = min(size, n); copies of the last row fill up the last batch.

    Copies, not zeros: an image that is not among the data must not count in what a fault does.
    """
    count = rows.shape[0]
    size = min(size, count)
    batches = -(-count // size)
    fill = [(0, batches * size - count)] + [(0, 0)] * (rows.ndim - 1)
    return jnp.pad(rows, fill, mode="edge").reshape(batches, size, *rows.shape[1:])


def valid(count: int, size: int) -> jax.Array:
    """[m, b] bool: which rows of a `split` of n = `count` rows are the data's own, not copies."""
    size = min(size, count)
    batches = -(-count // size)
    return (jnp.arange(batches * size) < count).reshape(batches, size)


def default_images(images: jax.Array) -> int:
    """Images per forward pass: 256, and fewer above 32 px, in proportion to the pixels."""
    pixels = images.shape[1] * images.shape[2] if images.ndim == 4 else 1
    return max(1, min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // pixels))


def default_trials(table: sites.SiteTable, strategy: Strategy) -> int:
    """Trials at once: 1 with "map"; with "vmap" 16, or fewer where memory holds no more (`most_trials`)."""
    if strategy == "map" or (strategy == "auto" and jax.default_backend() == "cpu"):
        return 1
    return min(_TRIALS_AT_ONCE, most_trials(table))


def most_trials(table: sites.SiteTable) -> int:
    """As many as have a sixteenth of the memory for the table's weights of their own, and for the masks of its states.

    Masks are twice as large as the states.
    """
    copies = {"weight": 1, "activation": 0, "state": 2}
    own_bytes = sum(copies[site.kind] * site.size * site.width // 8 for site in table)
    return max(1, memory.budget(_OWN_SHARE) // max(1, own_bytes))
