"""The front door of the selective scan (Gu and Dao, "Mamba", 2023, equations 2 and 4, with Euler's rule for B):

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,   h_0 = 0
    y_t = C_t . h_t + D u_t

`sequential` walks through the steps, `associative` composes them in a tree, `chunked` in a tree per chunk of steps, and
`pallas` is one fused kernel for GPUs and TPUs. They agree to rounding on finite inputs.
"""

import functools
import math

import jax
import jax.numpy as jnp

from mamba_jax import types
from mamba_jax.scan import associative, chunked, manual, sequential, states


def _pallas(*arguments: jax.Array, reverse: bool) -> jax.Array:
    from mamba_jax.scan import pallas  # Importing the kernels' language takes as long as all the rest of the library.

    return pallas.scan(*arguments, reverse=reverse)


METHODS = {
    "associative": associative.scan,
    "chunked": chunked.scan,
    "pallas": _pallas,
    "sequential": sequential.scan,
}
_TIME_MAJOR = {"sequential": sequential.scan_time_major}


def resolve_method(method: types.ScanMethod) -> str:
    """The method that `auto` stands for here: `sequential` on a CPU, `chunked` on a GPU or TPU.

    On a CPU the steps were measured to be several times faster than the tree (docs/benchmarks.md). Elsewhere `chunked`
    chooses by shape: one tree where its states take little memory, as in `associative`, and a tree per chunk where they
    would not. `pallas` has not run on a device yet, so it is for those who name it.

    Raises:
      ValueError: `method` is unknown.
    """
    if method == "auto":
        return "sequential" if jax.default_backend() == "cpu" else "chunked"
    if method not in METHODS:
        raise ValueError(f"method must be one of {('auto', *METHODS)}, got {method!r}")
    return method


def selective_scan(
    u: jax.Array,
    dt: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    D: jax.Array | None = None,
    *,
    reverse: bool = False,
    method: types.ScanMethod = "auto",
    time_major: bool = False,
    state_masks: jax.Array | None = None,
) -> jax.Array:
    """y_t = C_t . h_t + D u_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and h_0 = 0.

    `sequential` and `pallas` have their own reverse pass and so reverse-mode derivatives only: `jax.grad` and `jax.vjp`
    work, `jax.jvp` (and `jax.jacfwd`, `jax.hessian`) raises TypeError. `associative` and `chunked` have both modes.

    Args:
      u: [*batch, l, d] input.
      dt: [*batch, l, d] step sizes, positive (after the softplus).
      A: [*groups, d, n] state matrix, negative. `groups` is empty, or equals the last axes of `batch`: scan directions
        with their own parameters, say.
      B: [*batch, l, n] input projection.
      C: [*batch, l, n] output projection.
      D: [*groups, d] skip connection, or None.
      reverse: run from the last step to the first.
      method: one of `METHODS`, or `auto` (see `resolve_method`).
      time_major: whether u, dt, B, C and the result have the steps first, [l, *batch, ..]: `sequential` reads them so,
        and saves a copy of each.
      state_masks: [2, *groups, l, d, n] uint32, bits of the states h_t to clear, and bits to flip after that (a bit in
        both is set), in every element of the batch. With any bit to change, the scan is the step-by-step recurrence,
        whatever `method` is (see `states`); with none, it is the method's. Under `jax.vmap` over masks both are
        evaluated. None costs nothing.

    Returns:
      y: [*batch, l, d] in u's dtype; the recurrence is accumulated in float32 whatever the inputs are.

    Raises:
      ValueError: shapes do not fit together, or `method` is unknown.

    Example:
      >>> y = selective_scan(u, dt, -jnp.exp(A_log), B, C, D)          # one sequence: u [l, d]
      >>> y = jax.vmap(lambda u: selective_scan(u, dt, A, B, C))(us)   # or give it the batch axes
    """
    method = resolve_method(method)
    if time_major and method not in _TIME_MAJOR:
        u, dt, B, C = (jnp.moveaxis(x, 0, -2) for x in (u, dt, B, C))
        y = selective_scan(u, dt, A, B, C, D, reverse=reverse, method=method, state_masks=state_masks)
        return jnp.moveaxis(y, -2, 0)
    _check_shapes(u, dt, A, B, C, D, time_major)
    u, dt, A, B, C = manual.align(u, dt, A, B, C)
    k = math.prod(A.shape[:-2])
    u_, dt_, B_, C_ = (_joined(x, k, time_major) for x in (u, dt, B, C))
    scan = (_TIME_MAJOR if time_major else METHODS)[method]
    if state_masks is not None:
        masks = _joined_masks(state_masks, A, length=u_.shape[0 if time_major else 2])
        scan = functools.partial(_scan_hit, scan, masks, time_major)
    y = scan(u_, dt_, A.reshape((k, *A.shape[-2:])), B_, C_, reverse=reverse)
    if D is not None:
        skip = D.astype(jnp.float32).reshape((1, 1, k, -1) if time_major else (1, k, 1, -1))
        y = y + u_.astype(jnp.float32) * skip
    return y.astype(u.dtype).reshape(u.shape)


def hidden_states(
    u: jax.Array, dt: jax.Array, A: jax.Array, B: jax.Array, *, reverse: bool = False, time_major: bool = False
) -> jax.Array:
    """Every state h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t of the step-by-step recurrence, [*batch, l, d, n] float32.

    Args:
      u, dt, A, B, reverse, time_major: as in `selective_scan`; with `time_major` the result has its steps first too.

    Raises:
      ValueError: shapes do not fit together.
    """
    _check_shapes(u, dt, A, B, B, None, time_major)
    u, dt, A, B = manual.align(u, dt, A, B)
    k, steps = math.prod(A.shape[:-2]), u.shape
    u, dt, B = (_joined(x, k, time_major) for x in (u, dt, B))
    if not time_major:
        u, dt, B = (jnp.moveaxis(x, 2, 0) for x in (u, dt, B))
    found = states.read_time_major(u, dt, A.reshape((k, *A.shape[-2:])), B, reverse=reverse)
    found = found if time_major else jnp.moveaxis(found, 0, 2)
    return found.reshape((*steps, A.shape[-1]))


def _joined(x: jax.Array, k: int, time_major: bool) -> jax.Array:
    """[*batch, l, m] -> [b, k, l, m], or [l, *batch, m] -> [l, b, k, m]."""
    axes = (len(x), -1, k) if time_major else (-1, k, x.shape[-2])
    return x.reshape((*axes, x.shape[-1]))


def _joined_masks(masks: jax.Array, A: jax.Array, *, length: int) -> jax.Array:
    """[2, *groups, l, d, n] -> [2, k, l, d, n]."""
    wanted = (states.PLANES, *A.shape[:-2], length, *A.shape[-2:])
    if masks.shape != wanted or masks.dtype != jnp.uint32:
        raise ValueError(f"state_masks must be uint32 {wanted} to fit A {A.shape}, got {masks.dtype} {masks.shape}")
    return masks.reshape((states.PLANES, -1, *wanted[-3:]))


def _scan_hit(scan, masks: jax.Array, time_major: bool, *arguments: jax.Array, reverse: bool) -> jax.Array:
    """`scan` where no bit is hit, else the recurrence with hit states."""

    def recurrence(u, dt, A, B, C):
        if time_major:
            return states.scan_time_major(masks, u, dt, A, B, C, reverse=reverse)
        u, dt, B, C = (jnp.moveaxis(x, 2, 0) for x in (u, dt, B, C))
        return jnp.moveaxis(states.scan_time_major(masks, u, dt, A, B, C, reverse=reverse), 0, 2)

    return jax.lax.cond(jnp.any(masks != 0), recurrence, functools.partial(scan, reverse=reverse), *arguments)


def _check_shapes(u, dt, A, B, C, D, time_major) -> None:
    if u.ndim < 2 or A.ndim < 2:
        raise ValueError(f"u must be [*batch, l, d] and A [*groups, d, n], got {u.shape} and {A.shape}")
    length, *batch = u.shape[:-1] if time_major else (u.shape[-2], *u.shape[:-2])
    d = u.shape[-1]
    *groups, d_a, n = A.shape
    tail = batch[len(batch) - len(groups) :] if len(groups) <= len(batch) else None
    if d_a != d or tail != groups:
        raise ValueError(f"A must be [*groups, {d}, n] with groups the last axes of {tuple(batch)}, got {A.shape}")
    if length < 1:
        raise ValueError(f"the sequence must have at least one step, got u {u.shape}")
    steps = u.shape[:-1]
    wanted = {"dt": (dt, (*steps, d)), "B": (B, (*steps, n)), "C": (C, (*steps, n))}
    if D is not None:
        wanted["D"] = (D, (*groups, d))
    for name, (x, shape) in wanted.items():
        if x.shape != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)} to fit u {u.shape} and A {A.shape}, got {x.shape}")
