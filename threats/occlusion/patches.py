"""PatchDrop: the first-ranked patches of every image are dropped and filled.

An image is cut into g x g patches, and a share of them, the information loss, is dropped:

    dropped = patches of rank < round(information_loss * g^2),    x'_p = fill_p if p is dropped else x_p

Naseer et al., "Intriguing Properties of Vision Transformers", 2021, section 3.1. Here every image has its own order,
and the orders are ranks, so the patches dropped at one information loss are among those dropped at any larger one.

Row i of the pixels belongs to row floor(i g / h) of patches, columns alike: a side that g does not divide gives
patches that differ by one pixel. Patch p = row * g + column.
"""

import jax
import jax.numpy as jnp
import numpy as np


def default_grid(side: int) -> int:
    """Patches along a side of that many pixels: 7 at 28, 8 at 64 and 128, 14 at 224 and above."""
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel, got {side}")
    if side >= 224:
        return 14
    return 8 if side >= 32 else min(side, 7)


def patch_drop(
    images: jax.Array,
    ranks: jax.Array,
    *,
    information_loss: float | jax.Array,
    grid: int,
    fill: float | jax.Array = 0.0,
) -> jax.Array:
    """Sets the first-ranked patches of every image to `fill`.

    Args:
      images: [b, h, w, c] float32 in [0, 1].
      ranks: [b, g * g] int32, from `random_order`, `salient_order` or `scan_order`.
      information_loss: share of patches to drop, in [0, 1]; scalar or [b]; may be traced. The count is
        round(information_loss * g^2), halves to even.
      grid: g, patches along each side.
      fill: value of a dropped pixel, before any normalisation: scalar, [c], or an image for every image, [b, h, w, c],
        as `make_fill` gives it.

    Returns:
      [b, h, w, c], of the images' dtype.

    Raises:
      ValueError: if the grid does not fit the images or the ranks, the fill does not fit the images, or a known
        information_loss is outside [0, 1].

    Example:
      >>> ranks = jnp.array([[3, 0, 2, 1]])
      >>> patch_drop(jnp.ones((1, 2, 2, 1)), ranks, information_loss=0.25, grid=2)[0, :, :, 0].tolist()
      [[1.0, 0.0], [1.0, 1.0]]
    """
    count = images.shape[0]
    rows, columns = membership(images.shape, grid)
    if ranks.shape != (count, grid * grid):
        raise ValueError(f"ranks must have shape {(count, grid * grid)}, one per patch, got {ranks.shape}")
    if not isinstance(information_loss, jax.core.Tracer):
        value = np.asarray(information_loss)
        if not np.all((value >= 0) & (value <= 1)):
            raise ValueError(f"information_loss must be in [0, 1], got {information_loss}")
    share = jnp.broadcast_to(jnp.asarray(information_loss, jnp.float32), (count,))
    dropped = ranks < jnp.round(share * (grid * grid)).astype(jnp.int32)[:, None]
    pixels = dropped.reshape(count, grid, grid)[:, rows][:, :, columns]
    return jnp.where(pixels[..., None], _fitted(fill, images), images)


def membership(shape: tuple[int, ...], grid: int) -> tuple[np.ndarray, np.ndarray]:
    """The row of patches [h] of every pixel row, and the column of patches [w] of every pixel column.

    Args:
      shape: (b, h, w, c), of the images.
      grid: g, patches along each side.

    Raises:
      ValueError: if there are not four axes, or a side has fewer than g pixels.

    Example:
      >>> membership((1, 4, 5, 1), 2)[1].tolist()
      [0, 0, 0, 1, 1]
    """
    if len(shape) != 4:
        raise ValueError(f"images must be [b, h, w, c], got shape {shape}")
    height, width = shape[1:3]
    if not 1 <= grid <= min(height, width):
        raise ValueError(f"grid must be in 1 to {min(height, width)}, the shorter side in pixels, got {grid}")
    return np.arange(height) * grid // height, np.arange(width) * grid // width


def _fitted(fill: float | jax.Array, images: jax.Array) -> jax.Array:
    """The fill in the shape and dtype of the images."""
    if isinstance(fill, str):
        raise ValueError(f"fill must be values, got {fill!r}: make them with make_fill(key, images, name={fill!r})")
    values = jnp.asarray(fill, images.dtype)
    if values.shape not in ((), images.shape[-1:], images.shape):
        raise ValueError(f"fill must be a number, [{images.shape[-1]}] or {images.shape}, got shape {values.shape}")
    return jnp.broadcast_to(values, images.shape)
