"""Snow: flakes that the wind draws into streaks, over an image that the snow has whitened.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, "snow" and the code published with it. Its flakes are rounded to 8 bits; here nothing is.
"""

import jax
import jax.numpy as jnp

from threats.corruptions import motion, pixels, smoothing


def snow(
    key: jax.Array,
    images: jax.Array,
    *,
    mean: float,
    spread: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> jax.Array:
    """Flakes are the values above `threshold` of enlarged noise N(mean, spread), blurred downwards and added twice.

        y = kept x + (1 - kept) max(x, 1.5 gray(x) + 0.5) + flakes + flakes turned by 180 degrees

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      mean: of the noise; static, as all that follow.
      spread: its standard deviation, > 0.
      zoom: how much it is enlarged, >= 1: the size of the flakes in pixels.
      threshold: below which there is no flake.
      radius: of the motion blur, >= 1, in pixels; the direction is uniform within 45 degrees of vertical.
      sigma: of the motion blur in pixels, > 0.
      kept: share of the image's own colours, in [0, 1].

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "snow".
    """
    pixels.require("spread", spread, 0.0)
    pixels.require("zoom", zoom, 1.0)
    pixels.require("kept", kept, 0.0, 1.0)
    weights = motion.trail_weights(radius, sigma)

    def snowy(own_key: jax.Array, image: jax.Array) -> jax.Array:
        noise_key, angle_key = jax.random.split(own_key)
        noise = mean + spread * jax.random.normal(noise_key, (*image.shape[:2], 1))
        larger = pixels.along_sides(noise, *(smoothing.zoom_weights(side, zoom) for side in image.shape[:2]))
        flakes = jnp.clip(jnp.where(larger < threshold, 0.0, larger), 0.0, 1.0)
        angle = jax.random.uniform(angle_key, minval=-135.0, maxval=-45.0)
        flakes = motion.along(flakes, weights, angle)
        whitened = kept * image + (1 - kept) * jnp.maximum(image, 1.5 * pixels.gray(image) + 0.5)
        return jnp.clip(whitened + flakes + jnp.rot90(flakes, 2), 0.0, 1.0)

    return pixels.each_image(snowy, key, images)
