"""Fog: a bright cloud of self-similar structure over the image.

The cloud is a diamond-square fractal on a torus: starting from one point, each level puts a new point into the middle
of every square (mean of its 4 corners) and of every edge (mean of its 4 neighbours), and adds noise of an amplitude
that falls by the square of `decay` from level to level.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, "fog"; the fractal: Fournier, Fussell and Carpenter, "Computer Rendering of Stochastic
Models", CACM 1982.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from threats.corruptions import pixels


def fog(key: jax.Array, images: jax.Array, *, thickness: float | jax.Array, decay: float | jax.Array) -> jax.Array:
    """clip((x + thickness * cloud) * m / (m + thickness), 0, 1), m the image's largest value.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3. The same cloud lies over all channels.
      thickness: of the fog, >= 0, a scalar; it may be traced.
      decay: how fast the cloud's structure gets finer, >= 1, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "fog".
    """
    pixels.require("thickness", thickness, 0.0)
    pixels.require("decay", decay, 1.0)
    thickness, decay = (jnp.asarray(value, jnp.float32) for value in (thickness, decay))

    def foggy(own_key: jax.Array, image: jax.Array) -> jax.Array:
        height, width = image.shape[:2]
        clouds = cloud(own_key, max(height, width), decay)[:height, :width, None]
        brightest = image.max()
        # A black image of no fog at all is 0 / 0.
        share = brightest / jnp.maximum(brightest + thickness, 1e-12)
        return jnp.clip((image + thickness * clouds) * share, 0.0, 1.0)

    return pixels.each_image(foggy, key, images)


def cloud(key: jax.Array, side: int, decay: jax.Array) -> jax.Array:
    """[n, n] float32 with minimum 0 and maximum 1; n is the next power of two from `side`, at least 2."""
    levels = max((side - 1).bit_length(), 1)
    draws = [
        jax.random.uniform(level_key, (3, 2**level, 2**level), minval=-1.0, maxval=1.0)
        for level, level_key in enumerate(jax.random.split(key, levels))
    ]
    heights = diamond_square(draws, decay)
    heights -= heights.min()
    return heights / heights.max()


def diamond_square(draws: Sequence[jax.Array], decay: jax.Array) -> jax.Array:
    """Heights of the fractal, in the order of operations of the published code.

    Args:
      draws: per level l = 0, 1, ..., [3, 2^l, 2^l] uniform in [-1, 1]: of the squares' middles, of the edges between
        columns and of those between rows.
      decay: the amplitude falls by its square per level; a float32 scalar.

    Returns:
      [2^levels, 2^levels] float32.
    """
    heights, amplitude = jnp.zeros((1, 1), jnp.float32), jnp.float32(1)
    for middle, between_columns, between_rows in draws:
        square = heights + jnp.roll(heights, -1, axis=0)
        centres = (square + jnp.roll(square, -1, axis=1)) / 4 + amplitude * middle
        tops = centres + jnp.roll(centres, 1, axis=0) + heights + jnp.roll(heights, -1, axis=1)
        lefts = centres + jnp.roll(centres, 1, axis=1) + heights + jnp.roll(heights, -1, axis=0)
        even = jnp.stack([heights, tops / 4 + amplitude * between_columns], axis=-1)
        odd = jnp.stack([lefts / 4 + amplitude * between_rows, centres], axis=-1)
        heights = jnp.stack([even, odd], axis=1).reshape(2 * heights.shape[0], -1)
        amplitude = amplitude / decay**2
    return heights
