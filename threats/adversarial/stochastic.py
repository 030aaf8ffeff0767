"""Expectation over transformations: attacks on models that draw at random, such as randomised defences.

A gradient of one draw points where that draw is weak. Athalye, Engstrom, Ilyas and Kwok, "Synthesizing Robust
Adversarial Examples", 2018, section 2.1, attack the expectation over draws instead, estimated by a mean. Here the draws
are fixed by a key, so that the mean is a deterministic model that any attack of this package takes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from threats.adversarial import candidates


def expectation(apply: Callable[[Any, jax.Array, jax.Array], jax.Array], draws: int) -> candidates.Apply:
    """The mean model over `draws` draws: `((variables, key), images) -> logits`.

    The mean is one of logits. In tasks that decide by the largest logit, softmax makes of it what it makes of the mean
    of log-probabilities, as the two differ by a constant per image: losses, margins and decisions are the same, those
    of the draws' geometric mean. One non-finite draw makes the mean non-finite, which counts as a success.

    Attacked with this, a model is judged by the same draws: `success` is of the mean model. To know what the images do
    to the model itself, evaluate it with another key. Memory grows with the draws, which are evaluated together.

    Args:
      apply: `(variables, images, key) -> logits`; row i may depend on image i and the key only.
      draws: at least 1.

    Returns:
      An `apply` whose variables are the pair of the model's own and a key: one key gives one result, and another key
      does not recompile. Draw d comes from `jax.random.fold_in(key, d)`: more draws begin with the same ones.

    Raises:
      ValueError: if draws is below 1.

    Example:
      >>> noisy = lambda variables, images, key: images + variables * jax.random.normal(key, images.shape)
      >>> mean = expectation(noisy, 1000)
      >>> logits = mean((0.1, jax.random.key(0)), jnp.array([[0.25, 0.75]]))
      >>> bool(jnp.allclose(logits, jnp.array([[0.25, 0.75]]), atol=0.02))
      True
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")

    def mean(variables, images):
        own, key = variables
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(draws))
        return jnp.mean(jax.vmap(apply, (None, None, 0))(own, images, keys), axis=0)

    return mean
