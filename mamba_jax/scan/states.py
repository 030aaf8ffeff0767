"""The hidden states of the selective scan in the open: read at every step, or with bits of them hit on the way.

    h_t = hit_t(exp(dt_t A) h_{t-1} + dt_t B_t u_t),   y_t = C_t . h_t

hit_t changes bits of the float32 number that h_t is held in, so that y_t and every later step see the changed value.
A state that lives from one step to the next is what the step-by-step recurrence has, and what the published model and
its kernels keep in registers. Trees have none: so this is the recurrence, whichever method the fault-free scan uses.
An infinite state stays infinite there and becomes NaN at a step whose decay is zero; steps before it never change.
"""

import jax
import jax.numpy as jnp

from mamba_jax.scan import exponential, manual, sequential

PLANES = 2  # bits to clear, and bits to flip after that: a bit in both is set


def scan_time_major(
    masks: jax.Array, u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, *, reverse: bool
) -> jax.Array:
    """y of the recurrence with hit states, in float32.

    Gradients are those of automatic differentiation: none pass through an element that is hit.

    Args:
      masks: [2, k, l, d, n] uint32, the bits that are cleared in h_t and then those that are flipped.
      u, dt: [l, b, k, d].
      A: [k, d, n].
      B, C: [l, b, k, n].
      reverse: run from the last step to the first.

    Returns:
      y: [l, b, k, d] float32.
    """
    advance = _recurrence(A)

    def step(h, inputs):
        masks_t, C_t, *rest = inputs
        # Few steps are hit, and a step that is takes several times as long.
        h = jax.lax.cond(jnp.any(masks_t != 0), _hit, lambda h, _: h, advance(h, *rest), masks_t)
        return h, sequential.sum_over_n(h, C_t.astype(jnp.float32)[..., None])

    steps = jnp.transpose(masks, (2, 0, 1, 4, 3)), C, u, dt, B
    return jax.lax.scan(step, _start(A, u), steps, reverse=reverse)[1]


def read_time_major(u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, *, reverse: bool) -> jax.Array:
    """Every state h_t [l, b, k, d, n] float32, arguments as in `scan_time_major`."""
    advance = _recurrence(A)

    def step(h, inputs):
        h = advance(h, *inputs)
        return h, h

    return jnp.swapaxes(jax.lax.scan(step, _start(A, u), (u, dt, B), reverse=reverse)[1], -1, -2)


def _start(A: jax.Array, u: jax.Array) -> jax.Array:
    """h_0 = 0, [b, k, n, d]."""
    k, d, n = A.shape
    return manual.zeros((u.shape[1], k, n, d), like=u)


def _recurrence(A: jax.Array):
    A2 = jnp.swapaxes(A, -1, -2).astype(jnp.float32) * exponential.LOG2_E

    def advance(h, *inputs):
        u_t, dt_t, B_t = (x.astype(jnp.float32) for x in inputs)
        return sequential.decayed(A2, h, dt_t) + sequential.outer(dt_t * u_t, B_t)

    return advance


def _hit(h: jax.Array, masks: jax.Array) -> jax.Array:
    """h [b, k, n, d] with these bits [2, k, n, d] changed in every row; elements without any keep their gradient."""
    cleared, flipped = masks[0][None], masks[1][None]
    view = jax.lax.bitcast_convert_type(h, jnp.uint32)
    changed = jax.lax.bitcast_convert_type((view & ~cleared) ^ flipped, jnp.float32)
    return jnp.where((cleared | flipped) != 0, changed, h)
