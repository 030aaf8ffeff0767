"""The fused selective scan with its own derivative, for every machine and under every transformation.

The target is chosen when a program is lowered, so one traced or exported program serves several platforms. `vmap` does
not reach the kernels: it adds groups of sequences (see `blocks`), so that an argument it does not map is shared and
never copied, also where it maps A alone. An argument that an inner of two nested `vmap` maps and the outer does not is
copied.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mamba_jax.scan import manual
from mamba_jax.scan.pallas import backward, blocks, forward, targets

_ROW = 8  # values: 16 bytes of bfloat16, what the CUDA copy engine wants a row to be a multiple of


def scan(u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, *, reverse: bool) -> jax.Array:
    """y_t = C_t . h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t, accumulated in float32.

    Reverse-mode derivatives only, and once: `jax.jvp` raises TypeError, second derivatives NotImplementedError.

    Args:
      u, dt: [b, k, l, d].
      A: [k, d, n].
      B, C: [b, k, l, n].
      reverse: run from the last step to the first.

    Returns:
      y: [b, k, l, d] float32.
    """
    operands = (_sequences(u), _sequences(dt), A[None], _sequences(B), _sequences(C))
    return _scan(reverse, *manual.align(*operands)).reshape(u.shape)


def _sequences(x: jax.Array) -> jax.Array:
    """[b, k, l, m] -> [1, b * k, l, m]: one group of sequences."""
    return x.reshape((1, -1, *x.shape[2:]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(reverse, u, dt, A, B, C):
    """u, dt: [1, s, l, d]; A: [1, k, d, n]; B, C: [1, s, l, n]."""
    return _forward_call(reverse, False)(u, dt, A, B, C).y


def _forward(reverse, u, dt, A, B, C):
    y, starts = _forward_call(reverse, True)(u, dt, A, B, C)
    return y, (u, dt, A, B, C, starts)


def _backward(reverse, residuals, dy):
    *operands, _ = residuals
    gradients = _backward_call(reverse)(*residuals, dy)
    per_image = gradients.A.reshape((1, -1, *operands[2].shape[1:]))
    gradients = gradients._replace(A=jnp.sum(per_image, axis=1))
    return tuple(gradient.astype(x.dtype) for gradient, x in zip(gradients, operands, strict=True))


_scan.defvjp(_forward, _backward)


@functools.cache
def _forward_call(reverse: bool, keep: bool) -> Callable:
    def run(target, u, dt, A, B, C):
        k, d = A.shape[1:3]
        u, dt, B, C = (_prepare(x, target) for x in (u, dt, B, C))
        y, starts = forward.run(u, dt, forward.exponents(A), B, C, k=k, descending=reverse, keep=keep, target=target)
        return forward.Values(y[..., :d], None if starts is None else starts[..., :d])

    return _over_groups(targets.chosen_at_lowering(run))


@functools.cache
def _backward_call(reverse: bool) -> Callable:
    def run(target, u, dt, A, B, C, starts, dy):
        k, d = A.shape[1:3]
        u, dt, B, C, starts, dy = (_prepare(x, target) for x in (u, dt, B, C, starts, dy))
        gradients = backward.run(u, dt, forward.exponents(A), B, C, starts, dy, k=k, descending=reverse, target=target)
        du, ddt, dA, dB, dC = gradients
        return backward.Gradients(du[..., :d], ddt[..., :d], dA[..., :d, :], dB, dC)

    return _over_groups(targets.chosen_at_lowering(run))


def _prepare(x: jax.Array, target: blocks.Target) -> jax.Array:
    """On CUDA, fill rows up to 16 bytes; on a TPU, widen to float32, whose rows and scalars can be read singly."""
    if target == "cuda" and (short := -x.shape[-1] % _ROW):
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)])
    return x.astype(jnp.float32) if target == "tpu" else x


def _over_groups(run: Callable) -> Callable:
    """`run`, whose operands and results are [groups, ..], where a mapped axis makes more groups."""
    call = jax.custom_batching.custom_vmap(run)

    @call.def_vmap
    def rule(size, mapped, *operands):
        groups = max(x.shape[1 if is_mapped else 0] for x, is_mapped in zip(operands, mapped, strict=True))
        folded = (_fold(x, size, groups, is_mapped) for x, is_mapped in zip(operands, mapped, strict=True))
        results = jax.tree.map(lambda x: x.reshape((size, groups, *x.shape[1:])), call(*folded))
        return results, jax.tree.map(lambda _: True, results)

    return call


def _fold(x: jax.Array, size: int, groups: int, is_mapped: bool) -> jax.Array:
    """[size, groups or 1, ..] or, unmapped, [groups or 1, ..] -> [size * groups, ..], or [1, ..] where all share it."""
    if not is_mapped:
        if x.shape[0] == 1:
            return x
        x = x[None]
    shape = x.shape[2:]
    return jnp.broadcast_to(x, (size, groups, *shape)).reshape((size * groups, *shape))
