"""Blocks that keep their input alone for the gradient and compute the rest again, for less memory and more time.

A barrier keeps the compiler from merging the second computation with the first. XLA for CPU takes the barrier away too
early: there the compiled gradient was seen to need as much memory as without, though less is asked of it.

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
