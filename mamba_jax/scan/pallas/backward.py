"""The fused backward pass: the adjoint recurrence in one walk through time, against the direction of the scan.

    g_t = exp(dt_{t+1} A) g_{t+1} + C_t dy_t                              adjoint of h_t
    dC_t = sum_d h_t dy_t          dB_t = sum_d g_t dt_t u_t
    du_t = dt_t sum_n g_t B_t      dA  += g_t h_{t-1} exp(dt_t A) dt_t
    d(dt_t) = sum_n (g_t h_{t-1} exp(dt_t A) A + g_t B_t u_t)

A program walks through the blocks of steps from the scan's last to its first. In each it takes four states at a time:
from the kept state before the block it recomputes theirs, then runs the adjoint back through it. The products that dB
and dC sum over channels are left in memory next to the core, 64 rows of them, and summed at once.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from mamba_jax.scan.pallas import blocks, forward

_STEPS = forward.GRADIENT_STEPS
_STATES = 4  # taken at a time
_ROWS = 2 * _STEPS * _STATES  # of products: for dB, then for dC, each [step, state]
_STRIDE = blocks.LANES + 8  # words between two rows of products: see `blocks.sum_rows`


class Gradients(NamedTuple):
    """Of u and dt [g, s, l, d], A [g, s, d, n], B and C [g, s, l, n], all float32; A's for every sequence apart."""

    u: jax.Array
    dt: jax.Array
    A: jax.Array
    B: jax.Array
    C: jax.Array


def run(u, dt, A, B, C, starts, dy, *, k: int, descending: bool, target: blocks.Target) -> Gradients:
    """The gradients of sum(y dy).

    Args:
      u, dt, A, B, C, k, target: as for `forward.run`.
      starts: [g or 1, s, time blocks, n, d] states before each block, from `forward.run` with the same direction.
      dy: [g or 1, s, l, d] float32.
      descending: the direction of the scan; this pass runs the other way.
    """
    operands = (u, dt, A, B, C, starts, dy)
    plan = blocks.Plan.of(operands, k=k, steps=_STEPS, descending=not descending, target=target)
    outputs = _outputs(plan)
    state = blocks.scratch(plan, (plan.n, blocks.LANES))
    call = blocks.call(
        plan,
        functools.partial(_kernel, plan, A.shape[0]),
        name="selective_scan_backward",
        in_specs=[
            blocks.sequence_spec(plan, u.shape[0]),
            blocks.sequence_spec(plan, dt.shape[0]),
            blocks.parameter_spec(plan, A.shape[0]),
            blocks.projection_spec(plan, B.shape[0], B.shape[3]),
            blocks.projection_spec(plan, C.shape[0], C.shape[3]),
            blocks.state_spec(plan, starts.shape[0]),
            blocks.sequence_spec(plan, dy.shape[0]),
        ],
        out_specs=[spec for _, spec in outputs],
        out_shape=[blocks.output(shape) for shape, _ in outputs],
        scratch_shapes=[state, state, blocks.scratch(plan, (_ROWS, _STRIDE))],
        cost=_cost(plan, operands),
    )
    return _gather(plan, *call(*(x.reshape((-1, *x.shape[2:])) for x in operands)))


def sums_per_block(n: int) -> int:
    """Row sums that a program writes per block of steps: dB and dC of its channels, and rows that n leaves unused."""
    return pl.cdiv(n, _STATES) * _ROWS


def _outputs(plan):
    """Shapes and blocks of du, d(dt), dA per program, and the row sums that hold dB and dC."""
    sequence = ((plan.groups * plan.sequences, plan.length, plan.d), blocks.sequence_spec(plan, plan.groups))
    parameter = (plan.n, blocks.LANES)
    sums = (pl.cdiv(plan.n, _STATES), _ROWS)
    return (
        sequence,
        sequence,
        ((plan.programs, *parameter), blocks.per_program_spec(plan, parameter)),
        ((plan.programs, plan.time_blocks, *sums), blocks.per_block_spec(plan, sums)),
    )


def _gather(plan, du, ddt, dA, sums) -> Gradients:
    shape = (plan.groups, plan.sequences)
    dA = jnp.moveaxis(dA.reshape((*shape, plan.lane_blocks, plan.n, blocks.LANES)), 3, 4)
    dA = dA.reshape((*shape, -1, plan.n))[:, :, : plan.d]
    sums = jnp.sum(sums.reshape((*shape, plan.lane_blocks, plan.time_blocks, -1, 2, _STEPS, _STATES)), axis=2)
    both = jnp.transpose(sums, (4, 0, 1, 2, 5, 3, 6))  # [2, g, s, time block, step, four states, state]
    both = both.reshape((2, *shape, plan.time_blocks * _STEPS, -1))[:, :, :, : plan.length, : plan.n]
    sequence = (*shape, plan.length, plan.d)
    return Gradients(du.reshape(sequence), ddt.reshape(sequence), dA, both[0], both[1])


def _kernel(plan, parameter_groups, program, block, u, dt, A, B, C, starts, dy, du, ddt, dA, sums, *scratch):
    adjoint, dA_sum, products = scratch
    at = (block, blocks.valid_lanes(plan, program))
    row = blocks.own_row(plan, lambda: plan.parameter_row(program, parameter_groups))
    own = blocks.own_row(plan, lambda: program)
    inputs = (u, dt, B, C, dy)
    for index, first in enumerate(range(0, plan.n, _STATES)):
        states = range(first, min(first + _STATES, plan.n))
        rate = [A[row, i, :] for i in states]
        _recompute(plan, at, inputs, states, rate, tuple(starts[0, 0, i, :] for i in states), products)
        carry = tuple(
            tuple(jnp.where(block == 0, jnp.float32(0), ref[i, :]) for i in states) for ref in (adjoint, dA_sum)
        )
        carry = _adjoint(plan, at, inputs, states, rate, carry, (du, ddt), products)
        for ref, values in zip((adjoint, dA_sum), carry, strict=True):
            for i, value in zip(states, values, strict=True):
                ref[i, :] = value
        blocks.synchronise(plan)
        sums[0, 0, index, :] = blocks.sum_rows(plan, products.at[:, : blocks.LANES])
        blocks.synchronise(plan)

    @pl.when(block == plan.time_blocks - 1)
    def _():
        for i in range(plan.n):
            dA[own, i, :] = dA_sum[i, :]


def _recompute(plan, at, inputs, states, rate, start, products) -> None:
    """Leave the state before each step in the rows of dB, and h_t dy_t in the rows of dC."""
    u, dt, B, _, dy = inputs
    block, valid = at

    def step(t, h):
        dt_t, dy_t = _float32(dt, t), _float32(dy, t)
        drive = dt_t * _float32(u, t)
        after = []
        for j, i in enumerate(states):
            products[t * _STATES + j, : blocks.LANES] = h[j]
            after.append(jnp.exp2(dt_t * rate[j]) * h[j] + drive * forward.scalar(B, t, i))
            products[(_STEPS + t) * _STATES + j, : blocks.LANES] = valid(after[j] * dy_t)
        return tuple(after)

    plan.loop(block, step, start, back=True)


def _adjoint(plan, at, inputs, states, rate, carry, gradients, products):
    """Run the adjoint of `states` and their sums of dA back through the block; replace states by products of dB."""
    u, dt, B, C, dy = inputs
    du, ddt = gradients
    block, valid = at

    def step(t, carry):
        u_t, dt_t, dy_t = _float32(u, t), _float32(dt, t), _float32(dy, t)
        drive = dt_t * u_t
        driven = decayed = jnp.zeros_like(dt_t)
        g_next, dA_next = [], []
        for j, i in enumerate(states):
            g = carry[0][j] + forward.scalar(C, t, i) * dy_t
            through = g * jnp.exp2(dt_t * rate[j])
            exponent = through * products[t * _STATES + j, : blocks.LANES]
            products[t * _STATES + j, : blocks.LANES] = valid(g * drive)
            driven = driven + g * forward.scalar(B, t, i)
            decayed = decayed + exponent * rate[j]
            g_next.append(through)
            dA_next.append(carry[1][j] + exponent * dt_t)
        later = states.start > 0
        du[0, t, :] = driven * dt_t + (du[0, t, :] if later else 0)
        ddt[0, t, :] = decayed * math.log(2) + driven * u_t + (ddt[0, t, :] if later else 0)
        return tuple(g_next), tuple(dA_next)

    return plan.loop(block, step, carry)


def _float32(ref, t):
    return ref[0, t, :].astype(jnp.float32)


def _cost(plan: blocks.Plan, operands) -> pl.CostEstimate:
    work = plan.groups * plan.sequences * plan.length * plan.d
    read = sum(x.size * x.dtype.itemsize for x in operands)
    return pl.CostEstimate(
        flops=20 * work * plan.n, transcendentals=2 * work * plan.n, bytes_accessed=read + 2 * 4 * work
    )
