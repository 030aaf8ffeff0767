"""Motion blur: each pixel becomes a weighted mean of those behind it along a line of random direction.

    y[p] = sum_{i >= 0} w_i x[p + round(i d)],   w_i ~ exp(-i^2 / (2 sigma^2)),  sum 1

The weights lie on one side only, so that an edge leaves a fading trail; d is the unit vector of the angle. Outside, the
edge pixel is repeated.

Reference: ImageMagick's "motion blur", with which Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", ICLR 2019, made theirs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from threats.corruptions import pixels

# Taps below this change no pixel by as much as an 8-bit image shows.
_NEGLIGIBLE = 1e-5


def motion_blur(key: jax.Array, images: jax.Array, *, radius: float, sigma: float) -> jax.Array:
    """A camera or patient that moved: every image along its own direction, uniform within 45 degrees of horizontal.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      radius: of the trail in pixels, >= 1, static: the trail has 2 ceil(radius) + 1 pixels.
      sigma: how fast the trail fades, in pixels, > 0, static.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "motion blur".
    """
    weights = trail_weights(radius, sigma)

    def blurred(own_key: jax.Array, image: jax.Array) -> jax.Array:
        angle = jax.random.uniform(own_key, minval=-45.0, maxval=45.0)
        return jnp.clip(along(image, weights, angle), 0.0, 1.0)

    return pixels.each_image(blurred, key, images)


def trail_weights(radius: float, sigma: float) -> np.ndarray:
    """[n] float32 weights of sum 1, falling from the pixel itself; n = 2 ceil(radius) + 1 less negligible ones.

    Raises:
      ValueError: if a parameter is out of range.
    """
    pixels.require("radius", radius, 1.0)
    pixels.require("sigma", sigma, 1e-3)
    weights = np.exp(-0.5 * (np.arange(2 * math.ceil(radius) + 1) / sigma) ** 2)
    weights /= weights.sum()
    return weights[weights > _NEGLIGIBLE].astype(np.float32)


def along(image: jax.Array, weights: np.ndarray, degrees: jax.Array) -> jax.Array:
    """One image [h, w, c] blurred along an angle, from the horizontal towards the lower edge, a traced scalar."""
    reach = len(weights) - 1
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    radians = jnp.deg2rad(degrees)
    steps = jnp.arange(reach + 1, dtype=jnp.float32)[:, None] * jnp.stack([jnp.sin(radians), jnp.cos(radians)])[None]
    offsets = reach + jnp.ceil(steps - 0.5).astype(jnp.int32)

    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, offset = tap
        shifted = jax.lax.dynamic_slice(padded, (offset[0], offset[1], 0), image.shape)
        return total + weight * shifted, None

    return jax.lax.scan(add, jnp.zeros_like(image), (jnp.asarray(weights), offsets))[0]
