"""JPEG: blocks of 8 x 8 pixels, their cosine transform divided by a table and rounded, colours at half the resolution.

The steps are those of the baseline codec as libjpeg and Pillow run it by default: BT.601 colours on whole numbers,
colour differences averaged over 2 x 2 pixels and enlarged again by its triangle filter, the standard's example tables
scaled by the quality. Entropy coding loses nothing and is left out. The arithmetic is libjpeg's, on whole numbers:
decoded gray images are those of Pillow, coloured ones within one gray level (on average 0.001,
`tests/threats/corruptions/test_jpeg.py`).

References: ITU-T T.81 (1992), annexes A and K; Hendrycks and Dietterich, ICLR 2019, "JPEG compression".
"""

import jax
import jax.numpy as jnp
import numpy as np

from threats.corruptions import pixels

# ITU-T T.81, tables K.1 (luma) and K.2 (colour differences).
_LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# BT.601: brightness and the differences to blue and red from RGB; red, green and blue less brightness from these.
_TO_DIFFERENCES = (pixels.LUMA, (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_FROM_DIFFERENCES = ((0.0, 1.402), (-0.344136286, -0.714136286), (1.772, 0.0))
# The cosines in libjpeg's 13 binary digits ("islow"): 2^13 sqrt(8) times an orthonormal transform, rounded as it
# rounds. Rows 0, 2, 4, 6 see the sums of the points (i, 7 - i), rows 1, 3, 5, 7 their differences.
_EVEN = np.array([
    [8192, 8192, 8192, 8192],
    [10703, 4433, -4433, -10703],
    [8192, -8192, -8192, 8192],
    [4433, -10704, 10704, -4433],
])  # fmt: skip
_ODD = np.array([
    [11363, 9633, 6437, 2260],
    [9633, -2259, -11362, -6436],
    [6437, -11362, 2261, 9633],
    [2260, -6436, 9633, -11363],
])  # fmt: skip
_COSINES = np.zeros((8, 8), np.int32)
_COSINES[0::2], _COSINES[1::2] = np.hstack([_EVEN, _EVEN[:, ::-1]]), np.hstack([_ODD, -_ODD[:, ::-1]])
_DIGITS, _KEPT = 13, 2


def jpeg_compression(images: jax.Array, *, quality: int | jax.Array) -> jax.Array:
    """What is left of an image after JPEG at a quality, in steps of 1/255.

    The roundings have no slope: gradients are zero. A pixel that is NaN stays NaN, and counts as black for the others.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3; rounded to 8 bits first.
      quality: 1 (worst) to 100, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `quality` is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "JPEG compression".
    """
    images = pixels.as_float32(images)
    pixels.require("quality", quality, 1, 100)
    quality = jnp.asarray(quality, jnp.float32)
    scale = jnp.floor(jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality))
    unknown = jnp.isnan(images)
    # Whole numbers have no NaN.
    levels = jnp.round(255 * jnp.where(unknown, 0.0, images))
    if images.shape[-1] == 1:
        decoded = _coded(levels[..., 0], _table(_LUMA, scale))[..., None]
    else:
        decoded = _colour(levels, _table(_LUMA, scale), _table(_CHROMA, scale))
    return jnp.where(unknown | jnp.isnan(quality), jnp.nan, jnp.clip(decoded / 255, 0.0, 1.0))


def _colour(levels: jax.Array, luma: jax.Array, chroma: jax.Array) -> jax.Array:
    """Codes [*batch, h, w, 3] whole numbers in 0..255, with colour differences at half the resolution."""
    bright, to_blue, to_red = _mixed(levels, _TO_DIFFERENCES, (0.5, 128.5 - 2**-16, 128.5 - 2**-16))
    bright = _coded(bright, luma)
    halved = [_enlarged(_coded(_halved(part), chroma), bright.shape[-2:]) - 128 for part in (to_blue, to_red)]
    added = _mixed(jnp.stack(halved, axis=-1), _FROM_DIFFERENCES, (0.5, 0.5, 0.5))
    return jnp.clip(jnp.stack([bright + part for part in added], axis=-1), 0.0, 255.0)


def _mixed(parts: jax.Array, weights: tuple[tuple[float, ...], ...], offsets: tuple[float, ...]) -> list[jax.Array]:
    """floor(parts @ row + offset) of each row of weights, which have libjpeg's 16 binary digits."""
    whole = parts.astype(jnp.int32)
    return [
        (
            (sum(round(2**16 * weight) * whole[..., i] for i, weight in enumerate(row)) + round(2**16 * offset)) >> 16
        ).astype(jnp.float32)
        for row, offset in zip(weights, offsets, strict=True)
    ]


def _table(standard: np.ndarray, scale: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor((jnp.asarray(standard, jnp.float32) * scale + 50) / 100), 1.0, 255.0)


def _coded(plane: jax.Array, table: jax.Array) -> jax.Array:
    """[*batch, h, w] whole numbers in 0..255 after division of their 8 x 8 blocks' transforms by the table."""
    height, width = plane.shape[-2:]
    padded = _padded(plane, -height % 8, -width % 8) - 128
    rows, columns = padded.shape[-2] // 8, padded.shape[-1] // 8
    blocks = padded.reshape(*plane.shape[:-2], rows, 8, columns, 8).astype(jnp.int32)
    waves = _shifted(jnp.einsum("...aibj,vj->...aibv", blocks, _COSINES), _DIGITS - _KEPT)
    waves = _shifted(jnp.einsum("...aibv,ui->...aubv", waves, _COSINES), _DIGITS + _KEPT)
    # Eight times the orthonormal transform; halves are rounded away from zero.
    steps = 8 * table.astype(jnp.int32).reshape((1,) * (waves.ndim - 3) + (8, 1, 8))
    waves = jnp.sign(waves) * ((jnp.abs(waves) + steps // 2) // steps) * (steps // 8)
    blocks = _shifted(jnp.einsum("...aubv,ui->...aibv", waves, _COSINES), _DIGITS - _KEPT)
    blocks = _shifted(jnp.einsum("...aibv,vj->...aibj", blocks, _COSINES), _DIGITS + _KEPT + 3)
    decoded = jnp.clip(blocks + 128, 0, 255).astype(jnp.float32).reshape(padded.shape)
    return decoded[..., :height, :width]


def _shifted(values: jax.Array, digits: int) -> jax.Array:
    """Whole numbers divided by 2^digits and rounded, halves up."""
    return (values + (1 << (digits - 1))) >> digits


def _halved(plane: jax.Array) -> jax.Array:
    """Means of 2 x 2, rounded up and down in turns as libjpeg does, so that they have no bias."""
    height, width = plane.shape[-2:]
    # To whole blocks to the right before the means are taken, to whole blocks below only after: see `_coded`.
    padded = _padded(plane, height % 2, -width % 16)
    sums = sum(padded[..., row::2, column::2] for row in (0, 1) for column in (0, 1))
    bias = 1 + jnp.arange(sums.shape[-1], dtype=jnp.float32) % 2
    return jnp.floor((sums + bias.reshape((1,) * (sums.ndim - 1) + (-1,))) / 4)


def _enlarged(plane: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """Twice the resolution by libjpeg's triangle filter (3/4 of the nearer, 1/4 of the farther), cut to `sides`."""
    plane = plane[..., : -(-sides[0] // 2), : -(-sides[1] // 2)]
    tall = jnp.stack([3 * plane + _moved(plane, -2, step) for step in (1, -1)], axis=-2)
    tall = tall.reshape(*plane.shape[:-2], -1, plane.shape[-1])
    wide = [jnp.floor((3 * tall + _moved(tall, -1, step) + rounding) / 16) for step, rounding in ((1, 8.0), (-1, 7.0))]
    return jnp.stack(wide, axis=-1).reshape(*tall.shape[:-1], -1)[..., : sides[0], : sides[1]]


def _moved(plane: jax.Array, axis: int, step: int) -> jax.Array:
    """Each element's neighbour before (step 1) or after (-1), the edge repeated."""
    count = plane.shape[axis]
    index = np.clip(np.arange(count) - step, 0, count - 1)
    return jnp.take(plane, index, axis=axis)


def _padded(plane: jax.Array, down: int, right: int) -> jax.Array:
    margins = ((0, 0),) * (plane.ndim - 2) + ((0, down), (0, right))
    return jnp.pad(plane, margins, mode="edge")
