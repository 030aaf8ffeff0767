"""What corruptions share: float pixels [*batch, h, w, c], a draw for each image, weighted sums along the sides."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from threats import draws

# ITU-R BT.601, as OpenCV, Pillow and JPEG turn RGB into gray.
LUMA = (0.299, 0.587, 0.114)


def as_float32(images: jax.Array) -> jax.Array:
    """`images` in float32, or a refusal of what is no image in [0, 1].

    Args:
      images: [*batch, h, w, c] of any floating dtype in [0, 1]; c is 1 (grayscale) or 3 (RGB).

    Raises:
      ValueError: fewer than three axes, another number of channels, or an integer dtype.
    """
    images = jnp.asarray(images)
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be [*batch, h, w, c] with c = 1 or 3, got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floats in [0, 1], got {images.dtype}: divide 8-bit pixels by 255")
    return images.astype(jnp.float32)


def each_image(function: Callable[[jax.Array, jax.Array], jax.Array], key: jax.Array, images: jax.Array) -> jax.Array:
    """`function(key, image)` of every image with a key of its own.

    Args:
      function: of a key and one image [h, w, c] float32.
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1].

    Raises:
      ValueError: as `as_float32` does.
    """
    images = as_float32(images)
    flat = images.reshape((-1, *images.shape[-3:]))
    return jax.vmap(function)(draws.of_rows(key, flat.shape[0]), flat).reshape(images.shape)


def along_sides(images: jax.Array, rows: np.ndarray | jax.Array, columns: np.ndarray | jax.Array) -> jax.Array:
    """Weighted sums along both sides: y[i, j] = sum_{k, l} rows[i, k] columns[j, l] x[k, l].

    The products are exact float32 on every device, where a matrix unit would otherwise round pixels to 8 bits.

    Args:
      images: [*batch, h, w, c] float32.
      rows: [h', h] weights.
      columns: [w', w] weights.

    Returns:
      [*batch, h', w', c] float32.
    """
    rows, columns = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)
    high = jnp.einsum("ik,...klc->...ilc", rows, images, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("jl,...ilc->...ijc", columns, high, precision=jax.lax.Precision.HIGHEST)


def gray(images: jax.Array) -> jax.Array:
    """[*batch, h, w, 1] luma of [*batch, h, w, c]; one channel stays as it is."""
    if images.shape[-1] == 1:
        return images
    return sum(weight * images[..., [channel]] for channel, weight in enumerate(LUMA))


def colour(rgb: tuple[float, float, float], channels: int) -> jax.Array:
    """[1, 1, channels] of a colour with components in [0, 1]; its luma where there is one channel."""
    shown = jnp.asarray(rgb, jnp.float32)[None, None]
    return gray(shown) if channels == 1 else shown


def unit(images: jax.Array) -> float:
    """Length in these pixels of one pixel of a 224-pixel image: lengths scale with the shorter side."""
    return min(images.shape[-3:-1]) / 224


def places(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Row [h, 1] and column [1, w] numbers of the pixels, float32."""
    height, width = images.shape[-3:-1]
    return jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width, dtype=jnp.float32)[None, :]


def require(name: str, value: float | jax.Array, low: float, high: float = math.inf) -> None:
    """Refuses a parameter outside [low, high]; a traced one cannot be looked at and passes.

    Raises:
      ValueError: naming the parameter and its value.
    """
    if not isinstance(value, jax.Array) and not low <= value <= high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value}")
