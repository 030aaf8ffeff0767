"""Keys: what an image draws depends on its own key alone, not on its neighbours.

An attack's `key` is one key, from which image i draws by its number, or [b] keys, one for each image: these go with the
images where some of a batch are chosen.
"""

import jax
import jax.numpy as jnp


def fold(key: jax.Array, number: int | jax.Array) -> jax.Array:
    """`jax.random.fold_in` of one key or of each of [b].

    Example:
      >>> fold(jax.random.split(jax.random.key(0), 3), 7).shape
      (3,)
    """
    return jax.vmap(jax.random.fold_in, (0, None))(key, number) if key.ndim else jax.random.fold_in(key, number)


def of_rows(key: jax.Array, x: jax.Array) -> jax.Array:
    """[b] keys, one for each row of x [b, ...].

    Raises:
      ValueError: if there are several keys, but not one for each row.
    """
    if key.ndim:
        if key.shape != x.shape[:1]:
            raise ValueError(f"key must be one key or of shape {x.shape[:1]}, one for each image, got {key.shape}")
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(x.shape[0]))


def signs(key: jax.Array, x: jax.Array) -> jax.Array:
    """[b, ...] of -1 and 1, evenly drawn."""

    def draw(row_key, row):
        return jax.random.rademacher(row_key, row.shape, row.dtype)

    return jax.vmap(draw)(of_rows(key, x), x)
