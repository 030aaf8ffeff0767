"""The selective scan as a parallel prefix over chunks of steps, one chunk after the other: memory bounded by the chunk.

Inside a chunk all states are found at once as in `associative`, starting from the state that the chunk before it left.
Gradients keep the state between chunks alone and compute a chunk's states again when they reach it. A sequence whose
states fit in one chunk is scanned in one piece, so this is `associative` wherever that is affordable.
"""

import functools

import jax
import jax.numpy as jnp

from mamba_jax.scan import associative, manual

# A prefix sweep holds a handful of arrays of this size; a gradient about twice as many.
_CHUNK_BYTES = 128 * 2**20
_LEAST_STEPS = 16


def scan(
    u: jax.Array,
    dt: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    *,
    reverse: bool,
    chunk_steps: int | None = None,
) -> jax.Array:
    """y_t = C_t . h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t, in float32.

    Args:
      u, dt: [b, k, l, d].
      A: [k, d, n].
      B, C: [b, k, l, n].
      reverse: run from the last step to the first.
      chunk_steps: steps whose states are held at once; by default as many as 128 MiB hold, at least 16. (Under `vmap`
        the mapped axis is not seen here and multiplies the memory.)

    Returns:
      y: [b, k, l, d] float32.
    """
    length = u.shape[2]
    steps = min(length, chunk_steps or default_chunk_steps(u.shape, A.shape[-1]))
    if steps == length:
        return associative.scan(u, dt, A, B, C, reverse=reverse)
    # What no whole chunk covers is scanned as a shorter one: padded steps would be wrong where A is infinite.
    whole = length // steps * steps
    state = manual.zeros((*u.shape[:2], A.shape[-1], u.shape[-1]), like=u)
    chunk = jax.checkpoint(functools.partial(_chunk, A, reverse))
    pieces = [("chunks", [_to_chunks(x[:, :, :whole], steps) for x in (u, dt, B, C)])]
    if whole < length:
        pieces.append(("rest", [x[:, :, whole:] for x in (u, dt, B, C)]))
    found = {}
    for name, inputs in reversed(pieces) if reverse else pieces:
        run = functools.partial(jax.lax.scan, chunk, reverse=reverse) if name == "chunks" else chunk
        state, found[name] = run(state, inputs)
    y = _from_chunks(found["chunks"])
    return jnp.concatenate([y, found["rest"]], axis=2) if "rest" in found else y


def default_chunk_steps(shape: tuple[int, ...], d_state: int) -> int:
    """Steps of u `shape` [b, k, l, d] whose states are held at once."""
    b, k, length, d = shape
    return max(_LEAST_STEPS, min(length, _CHUNK_BYTES // (4 * b * k * d * d_state)))


def _chunk(A, reverse, state, inputs):
    y, state = associative.scan_from(state, inputs[0], inputs[1], A, *inputs[2:], reverse=reverse)
    return state, y


def _to_chunks(x: jax.Array, steps: int) -> jax.Array:
    """[b, k, l, m] -> [chunks, b, k, steps, m]."""
    b, k, length, m = x.shape
    return jnp.moveaxis(x.reshape((b, k, length // steps, steps, m)), 2, 0)


def _from_chunks(y: jax.Array) -> jax.Array:
    """[chunks, b, k, steps, d] -> [b, k, l, d]."""
    y = jnp.moveaxis(y, 0, 2)
    return y.reshape((*y.shape[:2], -1, y.shape[-1]))
