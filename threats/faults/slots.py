"""Faults as arrays: which bits flip in each trial, in slots that point into a table of sites."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats.faults import sites


class Faults(NamedTuple):
    """Flipped bits of each trial, k slots per trial; a slot with site -1 is unused and flips nothing.

    site: [t, k] int32, index into a `sites.SiteTable`.
    element: [t, k] int32, flat index into the site's array (without the batch axis for activations).
    bit: [t, k] int32, bit position, 0 the least significant.
    One trial alone has shape [k].
    """

    site: jax.Array
    element: jax.Array
    bit: jax.Array


def no_faults(*shape: int) -> Faults:
    """Unused slots of the given shape, [t, k] or [k]."""
    return Faults(
        site=jnp.full(shape, -1, jnp.int32), element=jnp.zeros(shape, jnp.int32), bit=jnp.zeros(shape, jnp.int32)
    )


def pad(faults: Faults, trials: int) -> Faults:
    """The same trials followed by fault-free ones, [trials, k], so that a last, shorter chunk keeps the compiled shape.

    Args:
      faults: [t, k] with t <= trials.
      trials: wanted number of trials.

    Raises:
      ValueError: there are more trials already.
    """
    count, flips = faults.site.shape
    if count > trials:
        raise ValueError(f"trials must be at least the {count} trials of the faults, got {trials}")
    fill = no_faults(trials - count, flips)
    return jax.tree.map(lambda slots, unused: jnp.concatenate([slots, unused]), faults, fill)


def repeats(faults: Faults) -> jax.Array:
    """[k] int32: how many earlier slots of the trial name the same bit of the same element.

    Args:
      faults: one trial, [k]; unused slots count as repeats of each other.
    """
    slots = faults.site.shape[0]
    if slots < 2:
        return jnp.zeros((slots,), jnp.int32)
    order = jnp.lexsort((faults.bit, faults.element, faults.site))
    ranked = jnp.stack(faults)[:, order]
    same = jnp.all(ranked[:, 1:] == ranked[:, :-1], axis=0)
    position = jnp.arange(slots, dtype=jnp.int32)
    run_start = jax.lax.cummax(position.at[1:].set(jnp.where(same, 0, position[1:])))
    return jnp.zeros((slots,), jnp.int32).at[order].set(position - run_start)


def check(faults: Faults, table: sites.SiteTable) -> None:
    """Refuses faults that point outside the table; traced ones are only checked for their shape.

    Raises:
      ValueError: not [t, k] integers, or a site, element or bit that the table does not have.
    """
    shapes = {slots.shape for slots in faults}
    if len(shapes) > 1 or len(faults.site.shape) != 2:
        raise ValueError(f"faults must be three arrays of one shape [trials, flips], got {sorted(shapes)}")
    if any(isinstance(slots, jax.core.Tracer) for slots in faults):
        return
    site, element, bit = (np.asarray(slots) for slots in faults)
    if np.any(site >= len(table)):
        raise ValueError(f"faults.site must be below the table's {len(table)} sites, got {site.max()}")
    used = site >= 0
    limits = {"element": (element, [s.size for s in table]), "bit": (bit, [s.width for s in table])}
    for name, (values, sizes) in limits.items():
        outside = used & ((values < 0) | (values >= np.asarray(sizes)[site]))
        if np.any(outside):
            first = tuple(np.argwhere(outside)[0])
            where = table[site[first]].path
            raise ValueError(f"faults.{name} must be in 0..{sizes[site[first]] - 1} for {where}, got {values[first]}")
