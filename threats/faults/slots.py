"""Faults as arrays: which bits are hit in each trial and how, in slots that point into a table of sites."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats.faults import sites

ACTIONS = ("flip", "stuck_at_0", "stuck_at_1")
FLIP, STUCK_AT_0, STUCK_AT_1 = range(len(ACTIONS))


class Faults(NamedTuple):
    """Faulty bits of each trial, k slots per trial; a slot with site -1 is unused and changes nothing.

    site: [t, k] int32, index into a `sites.SiteTable`.
    element: [t, k] int32, flat index into the site's array (without the batch axis for activations).
    bit: [t, k] int32, bit position, 0 the least significant.
    action: [t, k] int32, what happens to the bit, an index into `ACTIONS`; None where every bit flips. A bit that is
      stuck at the value it has changes nothing.
    One trial alone has shape [k].
    """

    site: jax.Array
    element: jax.Array
    bit: jax.Array
    action: jax.Array | None = None


def no_faults(*shape: int) -> Faults:
    """Unused slots of the given shape, [t, k] or [k]."""
    return Faults(
        site=jnp.full(shape, -1, jnp.int32), element=jnp.zeros(shape, jnp.int32), bit=jnp.zeros(shape, jnp.int32)
    )


def unused(faults: Faults, *shape: int) -> Faults:
    """Unused slots of the given shape, with actions where `faults` has them, so that both can be joined."""
    none = no_faults(*shape)
    return none if faults.action is None else none._replace(action=jnp.zeros(shape, jnp.int32))


def with_action(faults: Faults, action: str) -> Faults:
    """The same bits, all hit in one way.

    Args:
      faults: [t, k].
      action: one of `ACTIONS`.

    Raises:
      ValueError: the action is unknown.
    """
    if action not in ACTIONS:
        raise ValueError(f"action must be one of {ACTIONS}, got {action!r}")
    if action == "flip":
        return faults._replace(action=None)
    return faults._replace(action=jnp.full(faults.site.shape, ACTIONS.index(action), jnp.int32))


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
    fill = unused(faults, trials - count, flips)
    return jax.tree.map(lambda slots, none: jnp.concatenate([slots, none]), faults, fill)


def widen(faults: Faults, width: int) -> Faults:
    """The same trials with unused slots behind, [t, width], so that trials of several sizes share one program.

    Args:
      faults: [t, k] with k <= width.
      width: wanted number of slots.

    Raises:
      ValueError: a trial has more slots already.
    """
    count, flips = faults.site.shape
    if flips > width:
        raise ValueError(f"width must be at least the {flips} slots of a trial, got {width}")
    spare = unused(faults, count, width - flips)
    return jax.tree.map(lambda slots, none: jnp.concatenate([slots, none], axis=1), faults, spare)


def repeats(faults: Faults) -> jax.Array:
    """[k] int32: how many earlier slots of the trial name the same bit of the same element.

    Args:
      faults: one trial, [k]; unused slots count as repeats of each other.
    """
    slots = faults.site.shape[0]
    if slots < 2:
        return jnp.zeros((slots,), jnp.int32)
    order = jnp.lexsort((faults.bit, faults.element, faults.site))
    ranked = jnp.stack(faults[:3])[:, order]
    same = jnp.all(ranked[:, 1:] == ranked[:, :-1], axis=0)
    position = jnp.arange(slots, dtype=jnp.int32)
    run_start = jax.lax.cummax(position.at[1:].set(jnp.where(same, 0, position[1:])))
    return jnp.zeros((slots,), jnp.int32).at[order].set(position - run_start)


def check(faults: Faults, table: sites.SiteTable) -> None:
    """Refuses faults that point outside the table; traced ones are only checked for their shape.

    Raises:
      ValueError: not [t, k] integers, a site, element, bit or action that does not exist, or two actions on one bit.
    """
    arrays = jax.tree.leaves(faults)
    shapes = {slots.shape for slots in arrays}
    if len(shapes) > 1 or len(faults.site.shape) != 2:
        raise ValueError(f"faults must be arrays of one shape [trials, flips], got {sorted(shapes)}")
    if any(isinstance(slots, jax.core.Tracer) for slots in arrays):
        return
    site, element, bit = (np.asarray(slots) for slots in faults[:3])
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
    if faults.action is not None:
        _check_actions(np.stack([site, element, bit]), np.asarray(faults.action), used)


def _check_actions(places: np.ndarray, action: np.ndarray, used: np.ndarray) -> None:
    """places: [3, t, k]; action, used: [t, k]."""
    if np.any(used & ((action < 0) | (action >= len(ACTIONS)))):
        raise ValueError(f"faults.action must be in 0..{len(ACTIONS) - 1}, an index into {ACTIONS}")
    trial = np.broadcast_to(np.arange(len(action))[:, None], action.shape)
    hits = np.stack([trial[used], *(place[used] for place in places), action[used]])
    hits = hits[:, np.lexsort(hits[::-1])]
    same = np.all(hits[:-1, 1:] == hits[:-1, :-1], axis=0)
    if np.any(same & (hits[-1, 1:] != hits[-1, :-1])):
        raise ValueError("faults must name each bit of a trial with one action, got a bit that flips and is stuck")
