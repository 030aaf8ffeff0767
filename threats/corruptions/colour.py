"""Corruptions that give each pixel another colour, whatever its neighbours are: light, contrast, saturation, gamma.

ImageNet-C adds to the value V = max(R, G, B) of the HSV colours and shrinks contrast about each channel's mean;
MedMNIST-C multiplies, as Pillow's `ImageEnhance` does, up or down. Changing V or S at fixed hue needs no hue: it scales
the channels, or their distances from V, by one factor.

References: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; Di Salvo, Doerrich and Ledig, "MedMNIST-C: Comprehensive benchmark and improved classifier
robustness by simulating realistic image corruptions", 2024; and the code published with them.
"""

import jax
import jax.numpy as jnp

from threats.corruptions import pixels


def brightness(images: jax.Array, *, shift: float | jax.Array) -> jax.Array:
    """Adds `shift` to the value of the HSV colours, clipped to 1; hue and saturation stay.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3; of one channel the value is the pixel itself.
      shift: in [-1, 1], a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `shift` is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "brightness".
    """
    images = pixels.as_float32(images)
    pixels.require("shift", shift, -1.0, 1.0)
    value = images.max(axis=-1, keepdims=True)
    brighter = jnp.clip(value + jnp.asarray(shift, jnp.float32), 0.0, 1.0)
    # Black has neither hue nor saturation and becomes gray.
    black = value <= 0
    return jnp.clip(jnp.where(black, brighter, images * (brighter / jnp.where(black, 1.0, value))), 0.0, 1.0)


def contrast(images: jax.Array, *, factor: float | jax.Array) -> jax.Array:
    """Shrinks each channel about its mean over the image: clip((x - m) factor + m, 0, 1).

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      factor: >= 0, a scalar; it may be traced. 1 changes nothing, 0 leaves the mean.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `factor` is negative.

    Reference: Hendrycks and Dietterich, ICLR 2019, "contrast".
    """
    images = pixels.as_float32(images)
    return _about(images, images.mean(axis=(-3, -2), keepdims=True), factor)


def saturate(images: jax.Array, *, factor: float | jax.Array, shift: float | jax.Array) -> jax.Array:
    """Saturation S of the HSV colours becomes clip(factor S + shift, 0, 1); hue and value stay.

    A gray pixel of an RGB image has no hue. As in the published code it is given that of red where `shift` lets it have
    a saturation. Images of one channel have no saturation and stay as they are, up to rounding.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      factor: >= 0, a scalar; it may be traced.
      shift: in [-1, 1], a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "saturate" (held-out corruption).
    """
    images = pixels.as_float32(images)
    pixels.require("factor", factor, 0.0)
    pixels.require("shift", shift, -1.0, 1.0)
    factor, shift = (jnp.asarray(value, jnp.float32) for value in (factor, shift))
    if images.shape[-1] == 1:
        # Parameters that are NaN (a traced severity out of range) must not go unseen.
        return jnp.clip(images + 0 * (factor + shift), 0.0, 1.0)
    value = images.max(axis=-1, keepdims=True)
    below = value - images
    spread = below.max(axis=-1, keepdims=True)
    is_gray = spread <= 0
    saturation = spread / jnp.where(is_gray, 1.0, value)
    wanted = jnp.clip(factor * saturation + shift, 0.0, 1.0)
    # How far below V each channel lies, in units of the farthest; of red 0, 1, 1.
    shape = jnp.where(is_gray, jnp.asarray((0.0, 1.0, 1.0)), below / jnp.where(is_gray, 1.0, spread))
    return jnp.clip(value * (1 - wanted * shape), 0.0, 1.0)


def exposure(images: jax.Array, *, factor: float | jax.Array) -> jax.Array:
    """Multiplies all channels: clip(factor x, 0, 1). MedMNIST-C's brightness, up (factor > 1) or down.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      factor: >= 0, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `factor` is negative.

    Reference: Di Salvo, Doerrich and Ledig, 2024, "brightness".
    """
    return _about(pixels.as_float32(images), jnp.float32(0), factor)


def gray_contrast(images: jax.Array, *, factor: float | jax.Array) -> jax.Array:
    """Stretches or shrinks all channels about the mean luma of the image. MedMNIST-C's contrast, up or down.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      factor: >= 0, a scalar; it may be traced. 1 changes nothing. Pillow rounds the mean to 8 bits; here it is not.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `factor` is negative.

    Reference: Di Salvo, Doerrich and Ledig, 2024, "contrast".
    """
    images = pixels.as_float32(images)
    return _about(images, pixels.gray(images).mean(axis=(-3, -2), keepdims=True), factor)


def gamma_correction(images: jax.Array, *, gamma: float | jax.Array) -> jax.Array:
    """A wrong display curve: x ** gamma, darker for gamma > 1 and brighter below.

    Its slope at 0 is infinite for gamma < 1; the gradient at a pixel that is exactly 0 is taken as 0.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      gamma: > 0, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `gamma` is not positive.

    Reference: Di Salvo, Doerrich and Ledig, 2024, "gamma correction".
    """
    images = pixels.as_float32(images)
    pixels.require("gamma", gamma, 1e-3)
    gamma = jnp.asarray(gamma, jnp.float32)
    black = images <= 0
    curved = jnp.where(black, 0.0, jnp.where(black, 1.0, images) ** gamma)
    return jnp.clip(curved + 0 * gamma, 0.0, 1.0)


def _about(images: jax.Array, centre: jax.Array, factor: float | jax.Array) -> jax.Array:
    pixels.require("factor", factor, 0.0)
    return jnp.clip((images - centre) * jnp.asarray(factor, jnp.float32) + centre, 0.0, 1.0)
