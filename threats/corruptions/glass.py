"""Glass blur: pixels change places with near ones, as behind frosted glass.

The published code visits the pixels from the last to the first and, for each, takes the colour of a random place near
by. It is written as a swap of `x[h, w]` and `x[h', w']`, but in NumPy both sides are views of one array, and the second
assignment reads what the first has just written: what it computes, and what ImageNet-C contains, is the copy

    for (h, w) from last to first:   x[h, w] <- x[h', w'],   h' - h and w' - w uniform in {-d, ..., d - 1}

This module computes exactly that without the loop. The place copied from comes later in the order of visits (its colour
is still the image's) or earlier (its colour is that of the place it copied from): the sources form chains, which
doubling follows in logarithmically many steps.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, "glass blur" and the code published with it.
"""

import jax
import jax.numpy as jnp

from threats.corruptions import pixels, smoothing


def glass_blur(key: jax.Array, images: jax.Array, *, sigma: float, distance: int, rounds: int) -> jax.Array:
    """A Gaussian blur, `rounds` of pixels taking the colour of others near by, and the blur again.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3. The `distance` outermost pixels are not displaced, as
        published.
      sigma: of the Gaussian in pixels, >= 0, static.
      distance: farthest that a colour comes from in one step, in pixels along each side, >= 1, static.
      rounds: how often, >= 1, static.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "glass blur".
    """
    pixels.require("distance", distance, 1)
    pixels.require("rounds", rounds, 1)
    reach, distance = int(4 * sigma + 0.5), int(distance)

    def displaced(own_key: jax.Array, image: jax.Array) -> jax.Array:
        height, width, channels = image.shape
        flat = image.reshape(-1, channels)
        for round_key in jax.random.split(own_key, int(rounds)):
            offsets = jax.random.randint(round_key, (height, width, 2), -distance, distance)
            flat = flat[sources(offsets, distance)]
        return flat.reshape(image.shape)

    blurred = smoothing.gaussian_blur(images, sigma=sigma, reach=reach)
    return smoothing.gaussian_blur(pixels.each_image(displaced, key, blurred), sigma=sigma, reach=reach)


def sources(offsets: jax.Array, distance: int) -> jax.Array:
    """Which pixel each takes its colour from after all were visited once, from the last to the first.

    Args:
      offsets: [h, w, 2] int32, row and column offset of the place that a pixel copies from.
      distance: pixels nearer than this to the upper or left edge, or `distance - 1` to the others, copy nothing.

    Returns:
      [h * w] int32, flat indices in the order of rows.
    """
    height, width = offsets.shape[:2]
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    visited = (row > distance) & (row <= height - distance) & (column > distance) & (column <= width - distance)
    own = row * width + column
    target = jnp.where(visited, own + offsets[..., 0] * width + offsets[..., 1], own).reshape(-1)
    # A pixel after this one was visited before it: its colour is that of its own source.
    goes_on = (target > own.reshape(-1)) & visited.reshape(-1)[target]
    link = jnp.where(goes_on, target, own.reshape(-1))
    for _ in range((height * width).bit_length()):
        link = link[link]
    return target[link]
