"""Frost: crystals on the lens or cover glass, drawn from a key.

ImageNet-C blends six photographs of frosted panes into the images. Those photographs are not used here: each image gets
crystals of its own, ferns with side branches at 60 degrees over a haze. How the layer is blended is as published; the
layer itself is not, so images equal ImageNet-C's neither in pixels nor in the errors that a model makes on them.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, "frost".
"""

import jax
import jax.numpy as jnp

from threats.corruptions import clouds, pixels

# Per image; how long a fern is, in sides of the image; branches on one side of a fern.
_FERNS, _LENGTH, _BRANCHES = 20, 0.6, 9
_ICE = (0.82, 0.92, 1.0)


def frost(key: jax.Array, images: jax.Array, *, kept: float | jax.Array, strength: float | jax.Array) -> jax.Array:
    """clip(kept * x + strength * crystals, 0, 1).

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      kept: share of the image that comes through, >= 0, a scalar; it may be traced.
      strength: of the crystals, >= 0, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "frost", with crystals of our own.
    """
    pixels.require("kept", kept, 0.0)
    pixels.require("strength", strength, 0.0)
    kept, strength = (jnp.asarray(value, jnp.float32) for value in (kept, strength))

    def frosted(own_key: jax.Array, image: jax.Array) -> jax.Array:
        height, width, channels = image.shape
        ice = crystals(own_key, height, width)[..., None] * pixels.colour(_ICE, channels)
        return jnp.clip(kept * image + strength * ice, 0.0, 1.0)

    return pixels.each_image(frosted, key, images)


def crystals(key: jax.Array, height: int, width: int) -> jax.Array:
    """[h, w] float32 in [0, 1], how much ice there is; lengths follow the longer side.

    Args:
      key: a random key; it is consumed.
      height, width: in pixels.
    """
    fern_key, haze_key = jax.random.split(key)
    side = max(height, width)
    haze = clouds.cloud(haze_key, side, jnp.float32(1.7))[:height, :width]
    rows, columns = jnp.arange(height)[:, None] / side, jnp.arange(width)[None, :] / side

    def grow(ice: jax.Array, own_key: jax.Array) -> tuple[jax.Array, None]:
        return jnp.maximum(ice, _fern(own_key, rows, columns, 0.6 / side)), None

    ferns = jax.lax.scan(grow, jnp.zeros((height, width)), jax.random.split(fern_key, _FERNS))[0]
    return jnp.clip(0.15 + 0.45 * haze + 0.6 * ferns, 0.0, 1.0)


def _fern(key: jax.Array, rows: jax.Array, columns: jax.Array, thinnest: float) -> jax.Array:
    """One fern: a stem of random root and direction, with branches that shorten towards the tip.

    Args:
      key: a random key; it is consumed.
      rows, columns: [h, 1] and [1, w], places in sides of the image.
      thinnest: half the width of the finest line in the same unit, some half a pixel.
    """
    draws = jax.random.uniform(key, (4,))
    root_row, root_column, angle = draws[0] * 1.2 - 0.1, draws[1] * 1.2 - 0.1, 2 * jnp.pi * draws[2]
    length = _LENGTH * (0.5 + 0.5 * draws[3])
    down, right = rows - root_row, columns - root_column
    ahead = down * jnp.sin(angle) + right * jnp.cos(angle)
    beside = jnp.abs(down * jnp.cos(angle) - right * jnp.sin(angle))
    left = 1 - ahead / length
    inside = (ahead > 0) & (left > 0)
    stem = jnp.exp(-((beside / (thinnest + 0.008 * jnp.clip(left, 0.0, 1.0))) ** 2))
    # Followed back along a branch at 60 degrees, a point meets the stem here; branches start at even distances.
    start = ahead - beside / jnp.tan(jnp.pi / 3)
    spacing = length / _BRANCHES
    off = jnp.abs(start / spacing - jnp.round(start / spacing)) * spacing * jnp.sin(jnp.pi / 3)
    longest = 0.45 * (length - start)
    fading = jnp.clip(1 - beside / jnp.maximum(longest, 1e-6), 0.0, 1.0)
    branch = jnp.where(start > 0, jnp.exp(-((off / (thinnest + 0.003)) ** 2)) * fading, 0.0)
    return jnp.where(inside, jnp.maximum(stem, branch), 0.0)
