"""Spatter: drops of water, or at higher severities mud, on the lens or slide.

Drops are where smoothed noise exceeds a threshold. Water is brightest inside a drop and shaded as if lit from one side:
the published code takes the distance to the drops' edges (Canny), cut off and equalised, and embosses it. All of it is
done on 8-bit integers there, and here too, so that the layers agree with OpenCV's.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, "spatter" (held-out corruption) and the code published with it; edges: Canny, "A
Computational Approach to Edge Detection", PAMI 1986; distances: Borgefors, "Distance Transformations in Digital
Images", CVGIP 1986.
"""

import jax
import jax.numpy as jnp
import numpy as np

from threats.corruptions import edges, pixels, smoothing

_WATER, _MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
_FARTHEST = 20


def spatter(
    key: jax.Array,
    images: jax.Array,
    *,
    mean: float,
    spread: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: int,
) -> jax.Array:
    """Water brightens, x + m * turquoise; mud covers, x (1 - m) + m * brown.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3; a gray image gets the colours' luma.
      mean: of the noise; static, as all that follow.
      spread: its standard deviation, >= 0.
      sigma: of the Gaussian that smooths it, in pixels, >= 0.
      threshold: above which there is a drop.
      strength: of water, the largest m; of mud, the sigma in pixels that softens the drops' edges (m below
        0.8 is none).
      mud: 1 for mud, 0 for water.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "spatter".
    """
    pixels.require("spread", spread, 0.0)
    pixels.require("strength", strength, 0.0)
    pixels.require("mud", mud, 0, 1)

    def spattered(own_key: jax.Array, image: jax.Array) -> jax.Array:
        noise = mean + spread * jax.random.normal(own_key, image.shape[:2])
        liquid = _smooth(noise, sigma)
        liquid = jnp.where(liquid < threshold, 0.0, liquid)
        colour = pixels.colour(_MUD if mud else _WATER, image.shape[-1])
        if mud:
            cover = _smooth((liquid > threshold).astype(jnp.float32), strength)
            cover = jnp.where(cover < 0.8, 0.0, cover)[..., None]
            return jnp.clip(image * (1 - cover) + cover * colour, 0.0, 1.0)
        return jnp.clip(image + strength * water(liquid)[..., None] * colour, 0.0, 1.0)

    return pixels.each_image(spattered, key, images)


def water(liquid: jax.Array) -> jax.Array:
    """How much light drops add.

    Args:
      liquid: [h, w] float32 in [0, 1], 0 outside of the drops.

    Returns:
      [h, w] float32 in [0, 1], its maximum 1 unless there is no drop.
    """
    liquid = jnp.floor(255 * jnp.clip(liquid, 0.0, 1.0))
    far = edges.distance(edges.canny(liquid, low=50, high=150), farthest=_FARTHEST)
    far = _equalised(jnp.floor(_mean_3x3(far)))
    embossed = jnp.clip(_correlate_3x3(far, _EMBOSS), 0.0, 255.0)
    light = liquid * jnp.round(_mean_3x3(embossed))
    return light / jnp.maximum(light.max(), 1.0)


def _equalised(levels: jax.Array) -> jax.Array:
    """Histogram equalisation to 0..255 of [h, w] whole numbers from 0 to `_FARTHEST`."""
    counts = jnp.stack([(levels == level).sum() for level in range(_FARTHEST + 1)]).astype(jnp.float32)
    lowest = counts[jnp.argmax(counts > 0)]
    below = jnp.cumsum(counts) - lowest
    scale = 255 / jnp.maximum(levels.size - lowest, 1)
    equal = jnp.round(below * scale)[levels.astype(jnp.int32)]
    return jnp.where(lowest == levels.size, levels, equal)


def _smooth(layer: jax.Array, sigma: float) -> jax.Array:
    reach = int(4 * sigma + 0.5)
    sides = (smoothing.gaussian_weights(side, sigma, reach=reach, border="nearest") for side in layer.shape)
    return pixels.along_sides(layer[..., None], *sides)[..., 0]


def _mean_3x3(layer: jax.Array) -> jax.Array:
    return _correlate_3x3(layer, np.full((3, 3), 1 / 9, np.float32))


def _correlate_3x3(layer: jax.Array, kernel: np.ndarray) -> jax.Array:
    padded = jnp.pad(layer, 1, mode="reflect")
    height, width = layer.shape
    return sum(kernel[i, j] * padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
