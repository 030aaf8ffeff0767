"""How many bytes the fused kernels move, counted by hand: what a benchmark divides by a measured bandwidth."""

from typing import NamedTuple

import jax.typing
import numpy as np
from jax.experimental import pallas as pl

from mamba_jax.scan.pallas import backward, blocks, forward


class Bytes(NamedTuple):
    """`forward` of y alone; `gradient` of the forward pass that keeps states and the backward pass together."""

    forward: int
    gradient: int


def bytes_moved(*, b: int, k: int, length: int, d: int, n: int, dtype: jax.typing.DTypeLike) -> Bytes:
    """Bytes that the kernels read and write for u [b, k, length, d] and n states.

    Each operand counts once: the blocks of channels of a sequence that read the same B and C run side by side, and find
    them in the cache. What surrounds the kernels (the last sums of dA, dB and dC, a cast, a padded row) is left out.

    Args:
      b, k, length, d, n: sizes.
      dtype: of u, dt, B and C; A, y and its gradient, and the gradients as they leave the kernel, are float32.
    """
    item, rows, lane_blocks = np.dtype(dtype).itemsize, b * k, pl.cdiv(d, blocks.LANES)
    time_blocks = pl.cdiv(length, forward.GRADIENT_STEPS)
    sequence, projection = rows * length * d, rows * length * n
    read = item * 2 * (sequence + projection) + 4 * k * n * lane_blocks * blocks.LANES
    starts = 4 * rows * time_blocks * n * d
    sums = 4 * rows * lane_blocks * (n * blocks.LANES + time_blocks * backward.sums_per_block(n))
    value = read + 4 * sequence
    return Bytes(forward=value, gradient=value + starts + read + starts + 4 * 3 * sequence + sums)
