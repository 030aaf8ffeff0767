"""The selective scan step by step, with its own reverse pass: least memory, and the fastest form on a CPU.

Each step forms exp(dt_t A) and dt_t B_t u_t itself, so nothing of size [l, d, n] is ever written. The states are laid
out [b, k, n, d], channels last, so that arithmetic vectorises over them. For gradients only the state at the start of
every chunk of steps is kept; the reverse pass recomputes a chunk of states h_t, then runs the adjoint recurrence
through it, contracting every gradient inside the step:

    g_t = p_{t+1} + C_t dy_t      adjoint of h_t
    p_t = exp(dt_t A) g_t         adjoint of h_{t-1}
    du_t = dt_t sum_n g_t B_t     d(dt_t) = sum_n (p_t h_{t-1} A + g_t B_t u_t)
    dB_t = sum_d g_t dt_t u_t     dC_t = sum_d h_t dy_t     dA = sum_t p_t h_{t-1} dt_t

A step's sums read what the step has just written, p_t or h_t, never what it met: so the state is updated in place. The
sums over g_t are therefore those over p_{t+1}, and what C_t dy_t adds to them is added after the loop.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp

from mamba_jax.scan import exponential, manual, single

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
    A = jnp.swapaxes(A, -1, -2).astype(jnp.float32)
    return single.scan(A, u, dt, B, C) if len(u) == 1 else _scan(reverse, A, u, dt, B, C)


def _chunk_steps(length: int) -> int:
    """The divisor of `length` nearest to the usual chunk: no sequence is padded.

    Padding would be wrong under faults: a step with dt = 0 leaves the state alone only while A is finite.
    """
    divisors = [c for c in range(1, length + 1) if length % c == 0]
    return min(divisors, key=lambda c: abs(math.log(c / min(_CHUNK_STEPS, length))))


def _zeros(A: jax.Array, u: jax.Array) -> jax.Array:
    """A zero state [b, k, n, d]."""
    return manual.zeros((u.shape[1], *A.shape), like=u)


def decayed(A2, h, dt):
    """exp(dt A) h for A2 = A / ln 2 [k, n, d]; h: [b, k, n, d]; dt: [b, k, d]."""
    return exponential.exp2(dt[:, :, None] * A2[None]) * h


def outer(x, weights):
    """x [b, k, d] times weights [b, k, n], as [b, k, n, d]."""
    return x[:, :, None] * weights[..., None]


def sum_over_n(*factors: jax.Array) -> jax.Array:
    """Products of arrays [b or 1, k, n, d or 1], summed to [b, k, d] slice by slice: a reduction does not vectorise."""
    n = factors[0].shape[2]
    products = (functools.reduce(operator.mul, [x[:, :, i] for x in factors]) for i in range(n))
    return functools.reduce(operator.add, products)


def _sum_over_d(x: jax.Array, weights: jax.Array) -> jax.Array:
    """[b, k, n, d] and [b, k, d] -> [b, k, n], in full float32 on accelerators too."""
    return jnp.einsum("bknd,bkd->bkn", x, weights, precision=jax.lax.Precision.HIGHEST)


def _sum_last(x: jax.Array) -> jax.Array:
    """The sum over the last axis, which is kept, as a product with ones: several times faster than a reduction."""
    return jnp.matmul(x, jnp.ones((x.shape[-1], 1), x.dtype), precision=jax.lax.Precision.HIGHEST)


def _at(t: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """Entry t of each, in float32."""
    entries = (jax.lax.dynamic_index_in_dim(x, t, keepdims=False) for x in arrays)
    return [x.astype(jnp.float32) for x in entries]


def _put(x: jax.Array, entry: jax.Array, t: jax.Array) -> jax.Array:
    """x with `entry` at t."""
    return jax.lax.dynamic_update_index_in_dim(x, entry, t, 0)


def _time(position: jax.Array, length: int, reverse: bool) -> jax.Array:
    """The step at a position of the scan's order."""
    return length - 1 - position if reverse else position


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(reverse, A, u, dt, B, C):
    return _forward(reverse, A, u, dt, B, C)[0]


def _forward(reverse, A, u, dt, B, C):
    A2, length, steps = A * exponential.LOG2_E, len(u), _chunk_steps(len(u))

    def step(position, carry):
        h, y = carry
        t = _time(position, length, reverse)
        u_t, dt_t, B_t, C_t = _at(t, u, dt, B, C)
        h = decayed(A2, h, dt_t) + outer(dt_t * u_t, B_t)
        return h, _put(y, sum_over_n(h, C_t[..., None]), t)

    def chunk(carry, first):
        return jax.lax.fori_loop(0, steps, lambda i, carry: step(first + i, carry), carry), carry[0]

    # What a loop writes to begins as a copy of an input: as good as zeros, and made when it is needed. Zeros depend on
    # nothing, so that XLA makes those of all layers at once, and memory runs up.
    begin = _zeros(A, u), u.astype(jnp.float32)
    (_, y), starts = jax.lax.scan(chunk, begin, jnp.arange(0, length, steps))
    return y, (A2, u, dt, B, C, starts)


def _backward(reverse, residuals, dy):
    A2, u, dt, B, C, starts = residuals
    length, steps = len(u), len(u) // len(starts)
    u, dt, B, C = (x.astype(jnp.float32) for x in (u, dt, B, C))
    drive = dt * u

    def recompute(first, i, carry):
        h, states, dC = carry
        t = _time(first + i, length, reverse)
        dt_t, B_t, dy_t, drive_t = _at(t, dt, B, dy, drive)
        h = decayed(A2, h, dt_t) + outer(drive_t, B_t)
        return h, _put(states, h, i + 1), _put(dC, _sum_over_d(h, dy_t), t)

    def adjoint(first, states, i, carry):
        p, dA, p_h_A, p_B, p_drive = carry  # the last three: sums over n, n and d of p_t with these
        i = steps - 1 - i
        t = _time(first + i, length, reverse)
        dt_t, C_t, dy_t = _at(t, dt, C, dy)
        p = decayed(A2, p + outer(dy_t, C_t), dt_t)  # The decay is formed again: cheaper than keeping it.
        (h,) = _at(i, states)
        dA += p * (h * dt_t[:, :, None])
        # There is no step before the first: some other is read, and `_of_the_next` drops what comes of it.
        B_before, drive_before = _at(_time(first + i - 1, length, reverse), B, drive)
        p_h_A = _put(p_h_A, sum_over_n(p, h, A2[None]), t)
        p_B = _put(p_B, sum_over_n(p, B_before[..., None]), t)
        return p, dA, p_h_A, p_B, _put(p_drive, _sum_over_d(p, drive_before), t)

    def chunk(carry, inputs):
        (states, dC, *sums), (start, first) = carry, inputs
        carry = start, _put(states, start, 0), dC
        _, states, dC = jax.lax.fori_loop(0, steps, functools.partial(recompute, first), carry)
        sums = jax.lax.fori_loop(0, steps, functools.partial(adjoint, first, states), tuple(sums))
        return (states, dC, *sums), None

    states = jnp.broadcast_to(dy[0][:, :, None], (steps + 1, *starts.shape[1:]))
    begin = states, C, _zeros(A2, u), _zeros(A2, u), dy, dy, B
    (_, dC, _, *sums), _ = jax.lax.scan(chunk, begin, (starts, jnp.arange(0, length, steps)), reverse=True)
    gradients = *_gradients(reverse, sums, u, dt, B, C, drive, dy), dC
    return tuple(gradient.astype(x.dtype) for gradient, x in zip(gradients, residuals[:5], strict=True))


def _gradients(reverse, sums, u, dt, B, C, drive, dy):
    """dA, du, d(dt) and dB from the sums over p: those over g_t = p_{t+1} + C_t dy_t need the next step's and more."""
    dA, p_h_A, p_B, p_drive = sums
    over_n = _of_the_next(p_B, reverse) + dy * _sum_last(C * B)
    dB = _of_the_next(p_drive, reverse) + C * _sum_last(dy * drive)
    images = jnp.ones(len(dA), dA.dtype)  # a product, as in `_sum_last`
    dA = jnp.einsum("b,bknd->knd", images, dA, precision=jax.lax.Precision.HIGHEST)
    return dA, over_n * dt, p_h_A / exponential.LOG2_E + over_n * u, dB


def _of_the_next(x: jax.Array, reverse: bool) -> jax.Array:
    """At each step what the next step in the scan's order has; zero at the last. x: [l, ...]."""
    nothing = jnp.zeros_like(x[:1])
    return jnp.concatenate([nothing, x[:-1]] if reverse else [x[1:], nothing])


_scan.defvjp(_forward, _backward)
