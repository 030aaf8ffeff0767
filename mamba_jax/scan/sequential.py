"""The selective scan step by step, with its own reverse pass: least memory, and the fastest form on a CPU.

Each step forms exp(dt_t A) and dt_t B_t u_t itself, so nothing of size [l, d, n] is ever written. The states are
laid out [b, k, n, d], channels last, so that the sum over n vectorises. For gradients only the state at the start of
every chunk of steps is kept; the reverse pass recomputes one chunk of states, then runs the adjoint recurrence through
it, contracting every gradient inside the step:

    g_t = exp(dt_{t+1} A) g_{t+1} + C_t dy_t                              adjoint of h_t
    dC_t = sum_d h_t dy_t          dB_t = sum_d g_t dt_t u_t
    du_t = dt_t sum_n g_t B_t      dA  += g_t h_{t-1} exp(dt_t A) dt_t
    d(dt_t) = sum_n (g_t h_{t-1} exp(dt_t A) A + g_t B_t u_t)
"""

import functools
import math

import jax
import jax.numpy as jnp

from mamba_jax.scan import manual

_CHUNK_STEPS = 14  # between two states that are kept for the reverse pass


def scan(u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, *, reverse: bool) -> jax.Array:
    """y_t = C_t . h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t, accumulated in float32.

    Args:
      u, dt: [b, k, l, d].
      A: [k, d, n].
      B, C: [b, k, l, n].
      reverse: run from the last step to the first.

    Returns:
      y: [b, k, l, d] float32.
    """
    steps = _chunk_steps(u.shape[2])
    time_major = [_to_chunks(x, steps) for x in (u, dt, B, C)]
    y = _scan_chunks(reverse, jnp.swapaxes(A, -1, -2).astype(jnp.float32), *time_major)
    return jnp.moveaxis(y.reshape((-1, *y.shape[2:])), 0, 2)


def _chunk_steps(length: int) -> int:
    """The divisor of `length` nearest to the usual chunk: no sequence is padded.

    Padding would be wrong under faults: a step with dt = 0 leaves the state alone only while A is finite.
    """
    divisors = [c for c in range(1, length + 1) if length % c == 0]
    return min(divisors, key=lambda c: abs(math.log(c / min(_CHUNK_STEPS, length))))


def _to_chunks(x: jax.Array, steps: int) -> jax.Array:
    """[b, k, l, m] -> [chunks, steps, b, k, m]."""
    x = jnp.moveaxis(x, 2, 0)
    return x.reshape((-1, steps, *x.shape[1:]))


def _zero_state(A: jax.Array, u: jax.Array) -> jax.Array:
    return manual.zeros((u.shape[2], *A.shape), like=u)


def _step(A, h, u, dt, B):
    """The state after one step, and its decay. A: [k, n, d]; h: [b, k, n, d]; u, dt: [b, k, d]; B: [b, k, n]."""
    decay = jnp.exp(dt[:, :, None, :] * A[None])
    return decay * h + (dt * u)[:, :, None, :] * B[..., None], decay


def _float32(inputs):
    return (x.astype(jnp.float32) for x in inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_chunks(reverse, A, u, dt, B, C):
    return _forward(reverse, A, u, dt, B, C)[0]


def _forward(reverse, A, u, dt, B, C):
    def step(h, inputs):
        u_t, dt_t, B_t, C_t = _float32(inputs)
        h, _ = _step(A, h, u_t, dt_t, B_t)
        return h, jnp.sum(h * C_t[..., None], axis=2)

    def chunk(h, inputs):
        h_end, y = jax.lax.scan(step, h, inputs, reverse=reverse)
        return h_end, (y, h)

    _, (y, starts) = jax.lax.scan(chunk, _zero_state(A, u), (u, dt, B, C), reverse=reverse)
    return y, (A, u, dt, B, C, starts)


def _backward(reverse, residuals, dy):
    A, u, dt, B, C, starts = residuals

    def recompute(h, inputs):
        return _step(A, h, *_float32(inputs))[0], h

    def chunk(carry, inputs):
        start, u_c, dt_c, B_c, C_c, dy_c = inputs
        _, before = jax.lax.scan(recompute, start, (u_c, dt_c, B_c), reverse=reverse)
        steps = (before, u_c, dt_c, B_c, C_c, dy_c)
        return jax.lax.scan(functools.partial(_adjoint_step, A), carry, steps, reverse=not reverse)

    zero = _zero_state(A, u)
    (_, dA), (du, ddt, dB, dC) = jax.lax.scan(chunk, (zero, zero), (starts, u, dt, B, C, dy), reverse=not reverse)
    dA = jnp.sum(dA, axis=0)
    return dA, du.astype(u.dtype), ddt.astype(dt.dtype), dB.astype(B.dtype), dC.astype(C.dtype)


def _adjoint_step(A, carry, inputs):
    """One step back: (what later steps want of h_t, dA so far, per image) and the gradients of step t.

    The decay is formed again rather than kept: an exponential costs less than writing and reading its result.
    """
    g, dA = carry
    before, u, dt, B, C, dy = _float32(inputs)
    h, decay = _step(A, before, u, dt, B)
    g = g + C[..., None] * dy[:, :, None, :]
    g_drive = jnp.sum(g * B[..., None], axis=2)
    g_decay = g * decay
    exponent = g_decay * before
    gradients = (
        g_drive * dt,
        jnp.sum(exponent * A[None], axis=2) + g_drive * u,
        _sum_over_d(g, dt * u),
        _sum_over_d(h, dy),
    )
    return (g_decay, dA + exponent * dt[:, :, None, :]), gradients


def _sum_over_d(x: jax.Array, weights: jax.Array) -> jax.Array:
    """[b, k, n, d] and [b, k, d] -> [b, k, n], in full float32 on accelerators too."""
    return jnp.einsum("bknd,bkd->bkn", x, weights, precision=jax.lax.Precision.HIGHEST)


_scan_chunks.defvjp(_forward, _backward)
