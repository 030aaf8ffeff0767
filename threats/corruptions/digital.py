"""Pixelation and elastic deformation.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, and the code published with it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from threats.corruptions import pixels


def pixelate(images: jax.Array, *, factor: float) -> jax.Array:
    """Shrinks by the mean over boxes to int(factor side) pixels, and enlarges by repetition.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      factor: in (0, 1], static.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `factor` is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "pixelate": Pillow's box filter both ways.
    """
    images = pixels.as_float32(images)
    pixels.require("factor", factor, 1e-6, 1.0)
    height, width = images.shape[-3:-1]
    return jnp.clip(pixels.along_sides(images, box_weights(height, factor), box_weights(width, factor)), 0.0, 1.0)


@functools.cache
def box_weights(side: int, factor: float) -> np.ndarray:
    """[side, side] weights of `pixelate` along one side, as Pillow's box filter: whole pixels, by their middles."""
    few = max(int(side * factor), 1)
    shrink = _box(side, few)
    enlarge = _box(few, side)
    return enlarge @ shrink


def _box(old: int, new: int) -> np.ndarray:
    """[new, old]: each new pixel is the mean of the old ones whose middles it covers, or of the nearest."""
    scale = old / new
    middle = (np.arange(new)[:, None] + 0.5) * scale
    # As Pillow computes it: where the middle of an old pixel lies on the edge, rounding decides.
    width = max(scale, 1.0)
    first, last = (np.floor(middle + side * width / 2 + 0.5) for side in (-1, 1))
    place = np.arange(old)[None, :]
    away = (place - middle + 0.5) * (1 / width)
    inside = ((away > -0.5) & (away <= 0.5) & (place >= first) & (place < last)).astype(np.float64)
    return inside / inside.sum(axis=1, keepdims=True)


def elastic_transform(key: jax.Array, images: jax.Array, *, shift: float, sigma: float, jitter: float) -> jax.Array:
    """Tissue that gave way: a random affine map, then every pixel displaced by a smooth random field.

    The affine map moves three corners of the square in the middle by up to `jitter` each; the field is uniform noise,
    smoothed by a Gaussian and multiplied by `shift`. Both resample linearly and reflect at the borders.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3, at least 3 pixels to a side.
      shift: of the field in pixels before smoothing, >= 0, static; what is left after it is about
        0.16 shift / sigma.
      sigma: of the Gaussian in pixels, >= 0, static.
      jitter: of the affine map's three points in pixels, >= 0, static.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or too small, or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "elastic transform"; Simard, Steinkraus and Platt, "Best
    Practices for Convolutional Neural Networks Applied to Visual Document Analysis", ICDAR 2003.
    """
    images = pixels.as_float32(images)
    if min(images.shape[-3:-1]) < 3:
        raise ValueError(f"images must be at least 3 x 3 for an elastic transform, got shape {images.shape}")
    for name, value in (("shift", shift), ("sigma", sigma), ("jitter", jitter)):
        pixels.require(name, value, 0.0)

    def deformed(own_key: jax.Array, image: jax.Array) -> jax.Array:
        points_key, field_key = jax.random.split(own_key)
        moved = jax.random.uniform(points_key, (3, 2), minval=-jitter, maxval=jitter)
        image = sample(image, affine_places(image.shape[:2], moved), border="mirror")
        noise = jax.random.uniform(field_key, (*image.shape[:2], 2), minval=-1.0, maxval=1.0)
        field = shift * pixels.along_sides(noise, *(_field_weights(side, sigma) for side in image.shape[:2]))
        rows, columns = pixels.places(image)
        displaced = jnp.stack([rows + field[..., 0], columns + field[..., 1]])
        return jnp.clip(sample(image, displaced, border="reflect"), 0.0, 1.0)

    return pixels.each_image(deformed, key, images)


def affine_places(sides: tuple[int, int], moved: jax.Array) -> jax.Array:
    """Where each pixel's colour comes from under the affine map that moves three points of the middle square.

    Args:
      sides: height and width in pixels.
      moved: [3, 2] offsets (x, y) of the points (+, +), (+, -) and (-, -) of the square.

    Returns:
      [2, h, w] float32 rows and columns.
    """
    height, width = sides
    # The published code takes the sides in the order (height, width) for (x, y); the images were square.
    centre, half = np.array([width // 2, height // 2], np.float32), min(sides) // 3
    points = centre + half * np.array([(1, 1), (1, -1), (-1, -1)], np.float32)
    targets = points + moved
    across, down = targets[2] - targets[1], targets[0] - targets[1]
    area = across[0] * down[1] - across[1] * down[0]
    # Three points on one line have no inverse map.
    area = jnp.where(jnp.abs(area) < 1e-3, 1e-3, area)
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] - targets[1, 1]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] - targets[1, 0]
    along_across = (columns * down[1] - rows * down[0]) / area
    along_down = (rows * across[0] - columns * across[1]) / area
    return jnp.stack([points[1, 1] + 2 * half * along_down, points[1, 0] - 2 * half * along_across])


def sample(image: jax.Array, places: jax.Array, *, border: str) -> jax.Array:
    """Linear interpolation of [h, w, c] at [2, h, w] rows and columns.

    Args:
      image: [h, w, c] float32.
      places: [2, h, w], anywhere.
      border: "mirror" (c b | a b c | b a) or "reflect" (b a | a b c | c b), as `scipy.ndimage` names them.
    """
    corners, shares = [], []
    for place, side in zip(places, image.shape[:2], strict=True):
        low = jnp.floor(place)
        corners.append([_folded(low + step, side, border) for step in (0, 1)])
        shares.append([1 - (place - low), place - low])
    return sum(
        (row_share * column_share)[..., None] * image[row, column]
        for row, row_share in zip(corners[0], shares[0], strict=True)
        for column, column_share in zip(corners[1], shares[1], strict=True)
    )


def _folded(place: jax.Array, side: int, border: str) -> jax.Array:
    """Whole numbers folded into 0..side - 1 at the borders, int32."""
    period = 2 * side - (2 if border == "mirror" else 0)
    place = jnp.mod(place, period)
    return jnp.minimum(place, period - place - (0 if border == "mirror" else 1)).astype(jnp.int32)


@functools.cache
def _field_weights(side: int, sigma: float) -> np.ndarray:
    """The Gaussian of the displacement field, cut off after 3 sigma."""
    if sigma <= 0:
        return np.eye(side)
    return ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=3)
