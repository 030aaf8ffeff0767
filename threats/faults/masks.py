"""Bits of hidden states as masks: a state exists only inside a model's loop, so the model is told what to do to it.

The masks of all states of one image are two arrays of their shape: the bits that are cleared in a state once it is
computed, and the bits that are flipped after that. So the three actions on a bit are

    flip: (0, 1),   stuck at 0: (1, 0),   stuck at 1: (1, 1)      in (cleared, flipped),

and filling the masks is a scatter-add, as everywhere else (see `injection`).
"""

import jax
import jax.numpy as jnp

from threats.faults import bits, slots


def of_states(
    address: jax.Array, bit: jax.Array, again: jax.Array, action: jax.Array | None, zeros: jax.Array
) -> jax.Array:
    """The masks [2, ...] of one trial: `zeros` with each slot's bit.

    Args:
      address: [k] int32, flat index of the state; slots past the end are dropped.
      bit: [k] int32.
      again: [k] int32, how many earlier slots name the same bit: a second flip undoes the first, a second "stuck" does
        nothing.
      action: [k] int32 index into `slots.ACTIONS`, None where all flip.
      zeros: [2, ...] uint32, or as wide as the states are.
    """
    power, none = bits.mask(bit, zeros.dtype), jnp.zeros(bit.shape, zeros.dtype)
    cleared, flipped = none, jnp.where(again % 2 == 0, power, none - power)
    if action is not None:
        first = jnp.where(again == 0, power, none)
        cleared = jnp.where(action == slots.FLIP, none, first)
        flipped = jnp.where(action == slots.FLIP, flipped, jnp.where(action == slots.STUCK_AT_1, first, none))
    planes = zeros.reshape(2, -1).at[:, address].add(jnp.stack([cleared, flipped]), mode="drop")
    return planes.reshape(zeros.shape)
