"""What takes the place of dropped pixels: black, the image's mean, its blur, or noise.

    zero   f = 0                                    blur   f_c = G_sigma * x_c
    mean   f_c = mean of x_c over all pixels        noise  f ~ uniform on [0, 1), of each pixel and channel

Black patches add edges and colours that no training image has; the others tell less of what is a loss of information
and what is an unusual image. Mean and blur are of the whole image, the dropped patches included: both give a little
of what they hide away, the blur the more. A constant, noise and blur are the perturbations of Fong and Vedaldi,
"Interpretable Explanations of Black Boxes by Meaningful Perturbation", 2017, section 4.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from threats import draws
from threats.corruptions import pixels, smoothing


class Fill(NamedTuple):
    """One entry of `FILLS`.

    fn: `(key, images) -> values`, both [b, h, w, c]. random: whether the values depend on the key.
    """

    fn: Callable[[jax.Array | None, jax.Array], jax.Array]
    random: bool


def make_fill(key: jax.Array | None, images: jax.Array, *, name: str) -> jax.Array:
    """The values of a named fill for every pixel, as `patch_drop` takes them.

    Args:
      key: consumed by a random fill; otherwise not used, and may be None.
      images: [b, h, w, c] float in [0, 1].
      name: of `FILLS`, static.

    Returns:
      [b, h, w, c] in [0, 1], of the images' dtype.

    Raises:
      ValueError: if the name is unknown, there is no key for a random fill, or `images` are no float images.

    Example:
      >>> make_fill(None, jnp.array([[[[0.25], [0.75]]]]), name="mean").tolist()
      [[[[0.5], [0.5]]]]
    """
    if name not in FILLS:
        raise ValueError(f"name must be one of {', '.join(FILLS)}, got {name!r}")
    if FILLS[name].random and key is None:
        raise ValueError(f"key must be a random key for the fill {name!r}, got None")
    return FILLS[name].fn(key, images)


def mean_fill(images: jax.Array) -> jax.Array:
    """Every channel's mean over all pixels of its image.

    Args:
      images: [b, h, w, c] float in [0, 1].

    Returns:
      [b, h, w, c], of the images' dtype; the sum is float32.

    Raises:
      ValueError: if `images` are no float images.

    Example:
      >>> mean_fill(jnp.array([[[[0.0, 1.0], [1.0, 1.0]]]])).tolist()
      [[[[0.5, 1.0], [0.5, 1.0]]]]
    """
    _check(images)
    means = jnp.mean(images, axis=(1, 2), keepdims=True, dtype=jnp.float32)
    return jnp.broadcast_to(means.astype(images.dtype), images.shape)


def blur_fill(images: jax.Array, *, sigma: float | None = None) -> jax.Array:
    """The images under a Gaussian blur that leaves little but where they are bright.

    Args:
      images: [b, h, w, c] float in [0, 1]. Their edge pixels are repeated outside.
      sigma: standard deviation in pixels, >= 0, static; cut off after 4 sigma. None: an eighth of the shorter side,
        3.5 pixels at 28 and 28 at 224, near to or above the side of a patch of `default_grid`. (Fong and Vedaldi take
        10 pixels at 224, section 4.1.)

    Returns:
      [b, h, w, c] in [0, 1], of the images' dtype, computed in float32.

    Raises:
      ValueError: if `images` are no float images or sigma is negative.

    Example:
      >>> blur_fill(jnp.eye(2)[None, :, :, None], sigma=9.0)[0, :, :, 0].round(1).tolist()
      [[0.5, 0.5], [0.5, 0.5]]
    """
    _check(images)
    height, width = images.shape[1:3]
    sigma = min(height, width) / 8 if sigma is None else sigma
    pixels.require("sigma", sigma, 0.0)
    reach = math.ceil(4 * sigma)
    sides = (smoothing.gaussian_weights(side, sigma, reach=reach, border="nearest") for side in (height, width))
    blurred = pixels.along_sides(images.astype(jnp.float32), *sides)
    return jnp.clip(blurred, 0.0, 1.0).astype(images.dtype)


def noise_fill(key: jax.Array, images: jax.Array) -> jax.Array:
    """Uniform noise on [0, 1), independent in every pixel and channel.

    Args:
      key: consumed. Image i has draws of its own, from the key and i alone.
      images: [b, h, w, c] float; only their shape and dtype count.

    Returns:
      [b, h, w, c], of the images' dtype.

    Raises:
      ValueError: if `images` are no float images.

    Example:
      >>> noise_fill(jax.random.key(0), jnp.zeros((2, 4, 4, 3))).shape
      (2, 4, 4, 3)
    """
    _check(images)
    keys = draws.of_rows(key, images.shape[0])
    return jax.vmap(lambda row_key: jax.random.uniform(row_key, images.shape[1:], images.dtype))(keys)


FILLS: dict[str, Fill] = {
    "zero": Fill(lambda key, images: jnp.zeros_like(images), random=False),
    "mean": Fill(lambda key, images: mean_fill(images), random=False),
    "blur": Fill(lambda key, images: blur_fill(images), random=False),
    "noise": Fill(noise_fill, random=True),
}


def _check(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be [b, h, w, c], got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floats in [0, 1], got {images.dtype}: divide 8-bit pixels by 255")
