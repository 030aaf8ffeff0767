"""How the fused kernels cut their arrays: which block each program sees, in which order, in which memory.

A program owns one sequence and 128 channels, its lanes, and walks through time in blocks: the grid is
(groups * sequences * ceil(d / 128), ceil(l / steps)), the second axis in order. The next block is fetched while one is
computed. The last block of channels or of time may be partial; nothing is padded or reversed in memory, but for the
16-byte rows that the copy engine of a CUDA device asks for.

Operands are [g, s, ..] with s = batch * k sequences. `g` counts groups, which `vmap` makes; an operand that has 1 where
the plan has g groups is shared by them, and read again rather than copied.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

Target = Literal["cuda", "tpu", "interpret"]

LANES = 128  # channels of one program: a warp group's threads on CUDA, a vector register's lanes on a TPU


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of one kernel call, the direction in which it walks through time, and the machine it is for.

    Attributes:
      target: `cuda`, `tpu` or `interpret`.
      groups, sequences, k, length, d, n: sizes; `sequences` is batch * k.
      steps: time steps of a block.
      descending: walk from the last step to the first.
    """

    target: Target
    groups: int
    sequences: int
    k: int
    length: int
    d: int
    n: int
    steps: int
    descending: bool

    @classmethod
    def of(cls, operands, *, k: int, steps: int, descending: bool, target: Target) -> "Plan":
        """For operands [g or 1, ..] that begin with u [., s, l, d], dt and A [., k * lane blocks, n, 128]."""
        (_, sequences, length, d), n = operands[0].shape, operands[2].shape[2]
        groups = max(x.shape[0] for x in operands)
        return cls(
            target=target, groups=groups, sequences=sequences, k=k, length=length, d=d, n=n, steps=steps,
            descending=descending,
        )  # fmt: skip

    @property
    def lane_blocks(self) -> int:
        """Blocks of channels per sequence."""
        return pl.cdiv(self.d, LANES)

    @property
    def time_blocks(self) -> int:
        """Blocks of steps per sequence."""
        return pl.cdiv(self.length, self.steps)

    @property
    def programs(self) -> int:
        """Programs that may run in any order."""
        return self.groups * self.sequences * self.lane_blocks

    def row(self, program: jax.Array, operand_groups: int) -> jax.Array:
        """The sequence of an operand [operand_groups * s, ..] that a program reads."""
        sequence = _div(program, self.lane_blocks)
        return sequence if operand_groups == self.groups else _rem(sequence, self.sequences)

    def parameter_row(self, program: jax.Array, operand_groups: int) -> jax.Array:
        """The row of A [operand_groups * k * lane_blocks, n, 128] that a program reads."""
        sequence, lane = _div(program, self.lane_blocks), _rem(program, self.lane_blocks)
        row = _rem(sequence, self.k)
        if operand_groups > 1:
            row = row + self.k * _div(sequence, self.sequences)
        return row * self.lane_blocks + lane

    def time_block(self, block: jax.Array) -> jax.Array:
        """The block of steps that is walked through as number `block`."""
        return self.time_blocks - 1 - block if self.descending else block

    def loop(self, block: jax.Array, body: Callable, carry, *, back: bool = False):
        """Run `carry = body(t, carry)` over the steps of a block, in the plan's direction or `back` against it."""
        descending = self.descending != back
        steps = self.steps
        if self.length % steps:
            steps = jnp.minimum(steps, self.length - self.time_block(block) * steps)
        return jax.lax.fori_loop(0, steps, lambda i, x: body(steps - 1 - i if descending else i, x), carry)


def sequence_spec(plan: Plan, operand_groups: int) -> pl.BlockSpec:
    """Blocks [1, steps, 128] of [operand_groups * s, l, d]."""

    def index(program, block):
        return plan.row(program, operand_groups), plan.time_block(block), _rem(program, plan.lane_blocks)

    return pl.BlockSpec((1, plan.steps, LANES), index)


def projection_spec(plan: Plan, operand_groups: int, width: int) -> pl.BlockSpec:
    """Blocks [1, steps, width] of B or C [operand_groups * s, l, width], where scalars are read one by one."""

    def index(program, block):
        return plan.row(program, operand_groups), plan.time_block(block), 0

    return pl.BlockSpec((1, plan.steps, width), index, memory_space=pltpu.SMEM if plan.target == "tpu" else None)


def parameter_spec(plan: Plan, operand_groups: int) -> pl.BlockSpec:
    """The row [1, n, 128] of A [rows, n, 128] that a program needs; on CUDA all of A, read once from device memory."""
    if plan.target == "cuda":
        return pl.BlockSpec(memory_space=plgpu.GMEM)
    return pl.BlockSpec((1, plan.n, LANES), lambda program, block: (plan.parameter_row(program, operand_groups), 0, 0))


def state_spec(plan: Plan, operand_groups: int) -> pl.BlockSpec:
    """Blocks [1, 1, n, 128] of the kept states [operand_groups * s, time_blocks, n, d]."""

    def index(program, block):
        return plan.row(program, operand_groups), plan.time_block(block), 0, _rem(program, plan.lane_blocks)

    return pl.BlockSpec((1, 1, plan.n, LANES), index)


def per_program_spec(plan: Plan, shape: tuple[int, ...]) -> pl.BlockSpec:
    """What a program writes once, at its end, into [programs, *shape]; on CUDA straight to device memory."""
    if plan.target == "cuda":
        return pl.BlockSpec(memory_space=plgpu.GMEM)
    return pl.BlockSpec((1, *shape), lambda program, block: (program,) + (0,) * len(shape))


def per_block_spec(plan: Plan, shape: tuple[int, ...]) -> pl.BlockSpec:
    """What a program writes for every block of steps into [programs, time blocks, *shape]."""
    return pl.BlockSpec((1, 1, *shape), lambda program, block: (program, plan.time_block(block)) + (0,) * len(shape))


def own_row(plan: Plan, row: Callable[[], jax.Array]) -> jax.Array | int:
    """Where a program finds its row in a reference of `parameter_spec` or `per_program_spec`."""
    return row() if plan.target == "cuda" else 0


def call(plan: Plan, kernel: Callable, *, name: str, in_specs, out_specs, out_shape, scratch_shapes, cost) -> Callable:
    """`kernel(program, block, *references)` over the plan's grid, as its target wants it called."""
    if plan.target == "cuda":
        return _cuda_call(plan, kernel, name, in_specs, out_specs, out_shape, scratch_shapes)
    settings: dict = {"interpret": True}
    if plan.target == "tpu":
        settings = {"compiler_params": pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"))}
    return pl.pallas_call(
        lambda *refs: kernel(pl.program_id(0), pl.program_id(1), *refs),
        grid=(plan.programs, plan.time_blocks),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=scratch_shapes,
        cost_estimate=cost,
        name=name,
        **settings,
    )


def _cuda_call(plan, kernel, name, in_specs, out_specs, out_shape, scratch_shapes):
    """One warp group per program, which fetches a block of steps while it computes the one before."""
    arrays = len(in_specs) + len(out_specs)

    def program(*refs):
        index = jax.lax.axis_index("program")

        def along_time(spec):
            if spec.block_shape is None:
                return spec
            return plgpu.BlockSpec(spec.block_shape, lambda block: spec.index_map(index, block))

        plgpu.emit_pipeline(
            lambda at, *block_refs: kernel(index, at[0], *block_refs, *refs[arrays:]),
            grid=(plan.time_blocks,),
            in_specs=[along_time(spec) for spec in in_specs],
            out_specs=[along_time(spec) for spec in out_specs],
            max_concurrent_steps=2,
        )(*refs[:arrays])

    program.__name__ = name
    # Each thread touches its own lane alone between the barriers of the pipeline, and `synchronise` stands where
    # threads exchange lanes; approx_math turns exp2 into the hardware's instruction (2 units of rounding).
    parameters = plgpu.CompilerParams(approx_math=True, unsafe_no_auto_barriers=True)
    return plgpu.kernel(
        program,
        out_type=out_shape,
        scratch_types=scratch_shapes,
        compiler_params=parameters,
        grid=(plan.programs,),
        grid_names=("program",),
    )


def output(shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    """A float32 output; see `targets` for why it does not vary over mesh axes."""
    return jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=jax.sharding.ManualAxisType())


def scratch(plan: Plan, shape: Sequence[int]):
    """Float32 memory next to the core that outlives a time block."""
    space = plgpu.SMEM if plan.target == "cuda" else pltpu.VMEM
    return space(tuple(shape), jnp.float32)


def synchronise(plan: Plan) -> None:
    """Make what every thread wrote visible to all threads of the program."""
    if plan.target == "cuda":
        plgpu.commit_smem()


def valid_lanes(plan: Plan, program: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Puts zeros into the lanes past the last channel, before lanes are summed.

    Elsewhere than on CUDA, whose copies fill them with zeros, these lanes hold anything.
    """
    if plan.target == "cuda" or plan.d % LANES == 0:
        return lambda x: x
    left = plan.d - LANES * _rem(program, plan.lane_blocks)
    valid = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)[0] < left
    return lambda x: jnp.where(valid, x, 0)


def sum_rows(plan: Plan, rows) -> jax.Array:
    """[rows, 128] reference -> [rows] sums."""
    if plan.target != "cuda":
        return jnp.sum(rows[...], axis=-1)
    # Four threads share a row, so that two exchanges within a warp finish a sum; rows 136 words apart meet no
    # other row's memory bank.
    return jnp.sum(plgpu.load(rows, (), layout=plgpu.Layout.WGMMA, optimized=False), axis=-1)


def _div(x: jax.Array, by: int) -> jax.Array:
    return x if by == 1 else jax.lax.div(x, np.int32(by))


def _rem(x: jax.Array, by: int) -> jax.Array:
    return jnp.zeros_like(x) if by == 1 else jax.lax.rem(x, np.int32(by))
