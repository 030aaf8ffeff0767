"""The selective scan step by step, with its own reverse pass: least memory, and the fastest form on a CPU.

Each step forms exp(dt_t A) and dt_t B_t u_t itself, so nothing of size [l, d, n] is ever written. The states are laid
out [b, k, n, d], channels last, so that arithmetic vectorises over them. For gradients only the state at the start of
every chunk of steps is kept; the reverse pass recomputes a chunk of decayed states m_t, then runs the adjoint
recurrence through it, contracting every gradient inside the step:

    m_t = exp(dt_t A) h_{t-1}     h_t = m_t + dt_t B_t u_t
    g_t = exp(dt_{t+1} A) g_{t+1} + C_t dy_t                              adjoint of h_t
    du_t = dt_t sum_n g_t B_t      d(dt_t) = sum_n (g_t m_t A + g_t B_t u_t)
    dB_t = sum_d g_t dt_t u_t      dC_t = sum_d m_t dy_t + B_t sum_d dt_t u_t dy_t
    dA  += g_t m_t dt_t
"""

import functools
import math
import operator

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
    u, dt, B, C = (jnp.moveaxis(x, 2, 0) for x in (u, dt, B, C))
    return jnp.moveaxis(scan_time_major(u, dt, A, B, C, reverse=reverse), 0, 2)


def scan_time_major(
    u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, *, reverse: bool
) -> jax.Array:
    """The same for u, dt [l, b, k, d] and B, C [l, b, k, n], the order in which the steps read them."""
    steps = _chunk_steps(len(u))
    chunks = (x.reshape((-1, steps, *x.shape[1:])) for x in (u, dt, B, C))
    y = _scan_chunks(reverse, jnp.swapaxes(A, -1, -2).astype(jnp.float32), *chunks)
    return y.reshape(u.shape)


def _chunk_steps(length: int) -> int:
    """The divisor of `length` nearest to the usual chunk: no sequence is padded.

    Padding would be wrong under faults: a step with dt = 0 leaves the state alone only while A is finite.
    """
    divisors = [c for c in range(1, length + 1) if length % c == 0]
    return min(divisors, key=lambda c: abs(math.log(c / min(_CHUNK_STEPS, length))))


def _zero_state(A: jax.Array, u: jax.Array) -> jax.Array:
    return manual.zeros((u.shape[2], *A.shape), like=u)


def _decayed(A, h, dt):
    """exp(dt A) h. A: [k, n, d]; h: [b, k, n, d]; dt: [b, k, d]."""
    return jnp.exp(dt[:, :, None] * A[None]) * h


def _drive(u, dt, B):
    """dt B u [b, k, n, d]. u, dt: [b, k, d]; B: [b, k, n]."""
    return (dt * u)[:, :, None] * B[..., None]


def _sum_over_n(*factors: jax.Array) -> jax.Array:
    """Products of arrays [b or 1, k, n, d or 1], summed to [b, k, d] slice by slice: a reduction does not vectorise."""
    n = factors[0].shape[2]
    products = (functools.reduce(operator.mul, [x[:, :, i] for x in factors]) for i in range(n))
    return functools.reduce(operator.add, products)


def _sum_over_d(x: jax.Array, weights: jax.Array) -> jax.Array:
    """[b, k, n, d] and [b, k, d] -> [b, k, n], in full float32 on accelerators too."""
    return jnp.einsum("bknd,bkd->bkn", x, weights, precision=jax.lax.Precision.HIGHEST)


def _float32(inputs):
    return (x.astype(jnp.float32) for x in inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_chunks(reverse, A, u, dt, B, C):
    return _forward(reverse, A, u, dt, B, C)[0]


def _forward(reverse, A, u, dt, B, C):
    def step(h, inputs):
        u_t, dt_t, B_t, C_t = _float32(inputs)
        h = _decayed(A, h, dt_t) + _drive(u_t, dt_t, B_t)
        return h, _sum_over_n(h, C_t[..., None])

    def chunk(h, inputs):
        h_end, y = jax.lax.scan(step, h, inputs, reverse=reverse)
        return h_end, (y, h)

    _, (y, starts) = jax.lax.scan(chunk, _zero_state(A, u), (u, dt, B, C), reverse=reverse)
    return y, (A, u, dt, B, C, starts)


def _backward(reverse, residuals, dy):
    A, u, dt, B, C, starts = residuals

    def recompute(h, inputs):
        u_t, dt_t, B_t = _float32(inputs)
        m = _decayed(A, h, dt_t)
        return m + _drive(u_t, dt_t, B_t), m

    def chunk(carry, inputs):
        start, u_c, dt_c, B_c, *others = inputs
        _, m = jax.lax.scan(recompute, start, (u_c, dt_c, B_c), reverse=reverse)
        steps = (m, u_c, dt_c, B_c, *others)
        return jax.lax.scan(functools.partial(_adjoint_step, A), carry, steps, reverse=not reverse)

    # The adjoint that a step meets is whole when the step begins: sums over it then read what is written already.
    last = (0, 0) if reverse else (-1, -1)
    g = C[last].astype(jnp.float32)[..., None] * dy[last][:, :, None]
    before = [_one_earlier(x, reverse) for x in (C, dy)]
    carry, inputs = (g, _zero_state(A, u)), (starts, u, dt, B, dy, *before)
    (_, dA), (du, ddt, dB, dC) = jax.lax.scan(chunk, carry, inputs, reverse=not reverse)
    dA = jnp.sum(dA, axis=0)
    return dA, du.astype(u.dtype), ddt.astype(dt.dtype), dB.astype(B.dtype), dC.astype(C.dtype)


def _one_earlier(x: jax.Array, reverse: bool) -> jax.Array:
    """Entry t of the scan's order becomes entry t - 1; the first becomes zero. x: [chunks, steps, ...]."""
    flat = x.reshape((-1, *x.shape[2:]))
    nothing = jnp.zeros_like(flat[:1])
    flat = jnp.concatenate([flat[1:], nothing] if reverse else [nothing, flat[:-1]])
    return flat.reshape(x.shape)


def _adjoint_step(A, carry, inputs):
    """One step back: (the adjoint of the step before, dA so far, per image) and the gradients of step t.

    The decay is formed again rather than kept: an exponential costs less than writing and reading its result.
    """
    g, dA = carry
    m, u, dt, B, dy, C_before, dy_before = _float32(inputs)
    g_drive = _sum_over_n(g, B[..., None])
    gradients = (
        g_drive * dt,
        _sum_over_n(g, m, A[None]) + g_drive * u,
        _sum_over_d(g, dt * u),
        _sum_over_d(m, dy) + B * jnp.sum(dt * u * dy, axis=-1, keepdims=True),
    )
    dA = dA + g * (m * dt[:, :, None])
    return (_decayed(A, g, dt) + C_before[..., None] * dy_before[:, :, None], dA), gradients


_scan_chunks.defvjp(_forward, _backward)
