"""Corruptions that add random values, drawn anew for every pixel, channel and image.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, section 3 and the code published with it. Their stored images are rounded to 8 bits after the
noise; here nothing is rounded.
"""

import jax
import jax.numpy as jnp

from threats.corruptions import pixels


def gaussian_noise(key: jax.Array, images: jax.Array, *, sigma: float | jax.Array) -> jax.Array:
    """Sensor noise of low light: clip(images + sigma * n, 0, 1), n ~ N(0, 1) independent everywhere.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      sigma: standard deviation >= 0 in the unit of the pixels, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images.

    Reference: Hendrycks and Dietterich, ICLR 2019, "Gaussian noise".
    """
    images = pixels.as_float32(images)
    noise = jax.random.normal(key, images.shape, jnp.float32)
    return jnp.clip(images + jnp.asarray(sigma, jnp.float32) * noise, 0.0, 1.0)
