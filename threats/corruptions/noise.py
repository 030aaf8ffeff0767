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
    return jnp.clip(images + jnp.asarray(sigma, jnp.float32) * _normal(key, images), 0.0, 1.0)


def shot_noise(key: jax.Array, images: jax.Array, *, rate: float | jax.Array) -> jax.Array:
    """The counting of photons: clip(n / rate, 0, 1), n ~ Poisson(rate * pixel) independent everywhere.

    The mean is the pixel's value and the variance pixel / rate, before clipping. The count does not follow the pixel
    smoothly: gradients are zero. A pixel that is NaN stays NaN.

    Args:
      key: a threefry key (the default kind), which the Poisson sampler asks for; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      rate: photons of a white pixel, > 0, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `rate` is not positive.

    Reference: Hendrycks and Dietterich, ICLR 2019, "shot noise".
    """
    images = pixels.as_float32(images)
    pixels.require("rate", rate, 1e-6)
    rate = jnp.asarray(rate, jnp.float32)
    # The sampler never ends on a NaN, and what it draws for one image must not depend on how bright the others are.
    known = jnp.clip(jnp.nan_to_num(jax.lax.stop_gradient(images)), 0.0, 1.0)
    counts = pixels.each_image(lambda own, image: jax.random.poisson(own, image * rate).astype(jnp.float32), key, known)
    noisy = jnp.clip(counts / rate, 0.0, 1.0)
    return jnp.where(jnp.isnan(images) | jnp.isnan(rate), jnp.nan, noisy)


def impulse_noise(key: jax.Array, images: jax.Array, *, amount: float | jax.Array) -> jax.Array:
    """Dead and hot sensor elements ("salt and pepper"): a share of all values becomes 0 or 1, each as often.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3. Channels are struck independently.
      amount: share of the values struck, in [0, 1], a scalar; it may be traced. Under one key a larger amount strikes
        the same values and more.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `amount` is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "impulse noise".
    """
    images = pixels.as_float32(images)
    pixels.require("amount", amount, 0.0, 1.0)
    amount = jnp.asarray(amount, jnp.float32)

    def strike(own, image):
        where, which = jax.random.split(own)
        salt = jax.random.bernoulli(which, 0.5, image.shape).astype(image.dtype)
        return jnp.where(jax.random.uniform(where, image.shape) < amount, salt, image)

    return jnp.where(jnp.isnan(amount), jnp.nan, pixels.each_image(strike, key, images))


def speckle_noise(key: jax.Array, images: jax.Array, *, sigma: float | jax.Array) -> jax.Array:
    """Noise in proportion to the light, as in ultrasound: clip(images (1 + sigma n), 0, 1), n ~ N(0, 1) everywhere.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      sigma: standard deviation of the factor, >= 0, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images.

    Reference: Hendrycks and Dietterich, ICLR 2019, "speckle noise" (held-out corruption).
    """
    images = pixels.as_float32(images)
    return jnp.clip(images + images * jnp.asarray(sigma, jnp.float32) * _normal(key, images), 0.0, 1.0)


def _normal(key: jax.Array, images: jax.Array) -> jax.Array:
    return pixels.each_image(lambda own, image: jax.random.normal(own, image.shape, image.dtype), key, images)
