"""The fused forward pass: discretisation, recurrence and output in one walk through time, states in registers.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,   y_t = C_t . h_t

A program carries the n states of its 128 channels as n vectors; B_t and C_t are scalars to it. For gradients it also
writes the state before every block of steps.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from mamba_jax.scan import exponential
from mamba_jax.scan.pallas import blocks

VALUE_STEPS = 16  # of a block where only y is wanted: two stages take 60 KiB of shared memory at n = 16
GRADIENT_STEPS = 8  # between two states that are kept for the backward pass


class Values(NamedTuple):
    """y [g, s, l, d] float32, and starts [g, s, time blocks, n, d] float32 or None."""

    y: jax.Array
    starts: jax.Array | None


def run(u, dt, A, B, C, *, k: int, descending: bool, keep: bool, target: blocks.Target) -> Values:
    """y, and with `keep` the state before each block of steps.

    Args:
      u, dt: [g or 1, s, l, d]; on CUDA rows of d and n values must fill whole multiples of 16 bytes.
      A: [g or 1, k * lane blocks, n, 128] in units of 1 / log2(e): see `exponents`.
      B, C: [g or 1, s, l, n]; the last axis may be padded.
      k: groups of parameters; sequence i belongs to i % k.
      descending: run from the last step to the first.
      keep: also return the states.
      target: the machine to lower for.
    """
    steps = GRADIENT_STEPS if keep else VALUE_STEPS
    plan = blocks.Plan.of((u, dt, A, B, C), k=k, steps=steps, descending=descending, target=target)
    rows = plan.groups * plan.sequences
    outputs = [((rows, plan.length, plan.d), blocks.sequence_spec(plan, plan.groups))]
    if keep:
        outputs.append(((rows, plan.time_blocks, plan.n, plan.d), blocks.state_spec(plan, plan.groups)))
    call = blocks.call(
        plan,
        functools.partial(_kernel, plan, A.shape[0], keep),
        name="selective_scan_forward",
        in_specs=[
            blocks.sequence_spec(plan, u.shape[0]),
            blocks.sequence_spec(plan, dt.shape[0]),
            blocks.parameter_spec(plan, A.shape[0]),
            blocks.projection_spec(plan, B.shape[0], B.shape[3]),
            blocks.projection_spec(plan, C.shape[0], C.shape[3]),
        ],
        out_specs=[spec for _, spec in outputs],
        out_shape=[blocks.output(shape) for shape, _ in outputs],
        scratch_shapes=[blocks.scratch(plan, (plan.n, blocks.LANES))],
        cost=_cost(plan, (u, dt, B, C), keep),
    )
    y, *starts = call(*(x.reshape((-1, *x.shape[2:])) for x in (u, dt, A, B, C)))
    shape = (plan.groups, plan.sequences)
    return Values(y.reshape(shape + y.shape[1:]), starts[0].reshape(shape + starts[0].shape[1:]) if keep else None)


def exponents(A: jax.Array) -> jax.Array:
    """A [g, k, d, n] -> A log2(e) [g, k * lane blocks, n, 128], so that exp(dt A) is a power of two."""
    g, k, d, n = A.shape
    lanes = pl.cdiv(d, blocks.LANES)
    A = jnp.swapaxes(A.astype(jnp.float32) * exponential.LOG2_E, -1, -2)
    A = jnp.pad(A, ((0, 0), (0, 0), (0, 0), (0, lanes * blocks.LANES - d)))
    return jnp.swapaxes(A.reshape((g, k, n, lanes, blocks.LANES)), 2, 3).reshape((g, k * lanes, n, blocks.LANES))


def _kernel(plan, parameter_groups, keep, program, block, u, dt, A, B, C, y, *refs):
    starts, state = refs if keep else (None, *refs)
    row = blocks.own_row(plan, lambda: plan.parameter_row(program, parameter_groups))
    rate = [A[row, i, :] for i in range(plan.n)]
    h = tuple(jnp.where(block == 0, jnp.float32(0), state[i, :]) for i in range(plan.n))
    for i in range(plan.n) if keep else ():
        starts[0, 0, i, :] = h[i]

    def step(t, h):
        dt_t = dt[0, t, :].astype(jnp.float32)
        drive = dt_t * u[0, t, :].astype(jnp.float32)
        h = tuple(jnp.exp2(dt_t * rate[i]) * h[i] + drive * scalar(B, t, i) for i in range(plan.n))
        y[0, t, :] = sum(h[i] * scalar(C, t, i) for i in range(plan.n))
        return h

    h = plan.loop(block, step, h)
    for i in range(plan.n):
        state[i, :] = h[i]


def scalar(ref, t: jax.Array, i: int) -> jax.Array:
    """Entry i of step t of a block of B or C, in float32."""
    return ref[0, t, i].astype(jnp.float32)


def _cost(plan: blocks.Plan, operands, keep: bool) -> pl.CostEstimate:
    work = plan.groups * plan.sequences * plan.length * plan.d
    read = sum(x.size * x.dtype.itemsize for x in operands)
    kept = work // plan.steps * plan.n if keep else 0
    return pl.CostEstimate(
        flops=6 * work * plan.n, transcendentals=work * plan.n, bytes_accessed=read + 4 * (work + kept)
    )
