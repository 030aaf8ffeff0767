"""Values inside `jax.shard_map`: a loop's carry must vary over the mesh axes that what it meets varies over.

Outside of `shard_map` these functions do nothing.
"""

import jax
import jax.numpy as jnp


def align(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each made to vary over every mesh axis that one of them varies over.

    What a gradient returns for an array that did not vary before is summed over the axes, as it must be.
    """
    axes = frozenset().union(*(_axes(x) for x in arrays))
    return [_varying(x, axes) for x in arrays]


def zeros(shape: tuple[int, ...], *, like: jax.Array) -> jax.Array:
    """Float32 zeros that vary over the mesh axes that `like` varies over."""
    return _varying(jnp.zeros(shape, jnp.float32), _axes(like))


def _varying(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(sorted(axes - _axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def _axes(x: jax.Array) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
