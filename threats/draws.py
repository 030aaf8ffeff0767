"""Keys: what an image draws depends on its own key alone, not on its neighbours.

A `key` is one key, from which image i draws by its number, or [b] keys, one for each image: these go with the images
where some of a batch are chosen. Keys of the old kind (`jax.random.PRNGKey`) are taken as one.
"""

import jax
import jax.numpy as jnp


def fold(key: jax.Array, number: int | jax.Array) -> jax.Array:
    """`jax.random.fold_in` of one key or of each of [b].

    Example:
      >>> fold(jax.random.split(jax.random.key(0), 3), 7).shape
      (3,)
    """
    key = _typed(key)
    return jax.vmap(jax.random.fold_in, (0, None))(key, number) if key.ndim else jax.random.fold_in(key, number)


def of_rows(key: jax.Array, count: int) -> jax.Array:
    """[b] keys, one for each of `count` rows.

    Raises:
      ValueError: if there are several keys, but not one for each row.
    """
    key = _typed(key)
    if key.ndim:
        if key.shape != (count,):
            raise ValueError(f"key must be one key or of shape ({count},), one for each image, got {key.shape}")
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def signs(key: jax.Array, x: jax.Array) -> jax.Array:
    """[b, ...] of -1 and 1, evenly drawn."""

    def draw(row_key, row):
        return jax.random.rademacher(row_key, row.shape, row.dtype)

    return jax.vmap(draw)(of_rows(key, x.shape[0]), x)


def _typed(key: jax.Array) -> jax.Array:
    if key is None:
        raise ValueError("key must be a jax.random.key, got None")
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
