"""Blocks that keep their input alone for the gradient and compute the rest again, for less memory and more time.

A barrier in the program is to keep the compiler from merging the second computation with the first. It does not hold on
a CPU (XLA of JAX 0.10.2): the compiled gradient was seen to need as much memory there as without.

Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

import jax
from flax import linen as nn


def call(block: nn.Module, x: jax.Array, *, remat: bool, **options: bool) -> jax.Array:
    """`block(x, **options)`; with `remat`, a gradient keeps x and not what the block makes of it on the way.

    The block's parameters, statistics, taps and random draws are at the same paths either way.

    Args:
      block: bound, made by the calling module.
      x: [b, ...].
      remat: whether to compute again.
      options: static arguments of the block.
    """

    def run(block, x):
        return block(x, **options)

    return (nn.remat(run) if remat else run)(block, x)
