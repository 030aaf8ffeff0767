"""The selective scan as a parallel prefix: log2(l) sweeps over all steps at once, for machines with many lanes.

Pairs (a, b) stand for the map h -> a h + b; composing two of them is associative (Blelloch, "Prefix sums and their
applications", 1990), so `jax.lax.associative_scan` finds every h_t. All l states are kept in memory: see `chunked`.

An infinite state meets the products of later decays here, where 0 * inf makes NaN at steps that the recurrence leaves
infinite or finite: for fault studies the step-by-step form in `sequential` is the reference.
"""

import jax
import jax.numpy as jnp


def scan(u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, *, reverse: bool) -> jax.Array:
    """y_t = C_t . h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t, in float32.

    Args:
      u, dt: [b, k, l, d].
      A: [k, d, n].
      B, C: [b, k, l, n].
      reverse: run from the last step to the first.

    Returns:
      y: [b, k, l, d] float32.
    """
    return scan_from(None, u, dt, A, B, C, reverse=reverse)[0]


def scan_from(
    state: jax.Array | None, u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, *, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """The same from a state [b, k, n, d] before the first step that is run (None: zero): y, and the state after."""
    u, dt, A, B, C = (x.astype(jnp.float32) for x in (u, dt, A, B, C))
    decay = jnp.exp(dt[..., None, :] * jnp.swapaxes(A, -1, -2)[None, :, None])
    drive = (dt * u)[..., None, :] * B[..., None]
    first, last = (-1, 0) if reverse else (0, -1)
    if state is not None:
        drive = drive.at[:, :, first].add(decay[:, :, first] * state)
    _, states = jax.lax.associative_scan(_compose, (decay, drive), axis=2, reverse=reverse)
    return jnp.sum(states * C[..., None], axis=-2), states[:, :, last]


def _compose(first, second):
    a_1, b_1 = first
    a_2, b_2 = second
    return a_2 * a_1, a_2 * b_1 + b_2
