"""JPEG and pixelation against Pillow."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from threats import corruptions
from threats.corruptions import presets

QUALITIES = sorted(
    {int(level[0]) for entry in corruptions.CORRUPTIONS["jpeg_compression"].presets.values() for level in entry}
)
FACTORS = sorted({level[0] for entry in corruptions.CORRUPTIONS["pixelate"].presets.values() for level in entry})

_jpeg = jax.jit(corruptions.jpeg_compression)


def _picture(height, width, channels):
    """Smooth colours with an edge and texture, 8 bits."""
    rng = np.random.default_rng(height + channels)
    smooth = ndimage.gaussian_filter(rng.random((height, width, channels)), (3, 3, 0))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    smooth[height // 3 : height // 2, width // 4 : width // 2] = 0.9
    return np.round(255 * np.clip(smooth + 0.05 * rng.normal(size=smooth.shape), 0, 1)).astype(np.uint8)


def _pillow(picture, quality):
    coded = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(coded, "JPEG", quality=quality)
    return np.asarray(Image.open(coded)).reshape(picture.shape)


@pytest.mark.parametrize(
    ("sides", "channels"), [((28, 28), 1), ((28, 28), 3), ((31, 45), 1), ((31, 45), 3), ((64, 64), 3)]
)
def test_jpeg_agrees_with_pillow_at_every_quality(sides, channels):
    """Gray to the bit; in colour by less than 0.005 gray levels on average, and by one where it differs."""
    picture = _picture(*sides, channels)
    for quality in QUALITIES:
        expected = _pillow(picture, quality)
        found = 255 * np.asarray(_jpeg(jnp.asarray(picture / 255, jnp.float32), quality=quality))
        difference = np.abs(found - expected)
        assert difference.mean() < (1e-4 if channels == 1 else 5e-3), quality
        assert difference.max() < (0.01 if channels == 1 else 1.01), quality
        assert np.abs(expected - picture.astype(float)).mean() > 1, "the comparison is not of untouched images"


def test_jpeg_at_224_pixels():
    picture = _picture(224, 224, 3)
    found = 255 * np.asarray(_jpeg(jnp.asarray(picture / 255, jnp.float32), quality=25))
    assert np.abs(found - _pillow(picture, 25)).mean() < 5e-3


def test_jpeg_shows_nan():
    picture = jnp.full((1, 16, 16, 1), 0.5).at[0, 3, 4, 0].set(jnp.nan)
    assert np.argwhere(np.isnan(corruptions.jpeg_compression(picture, quality=50))).tolist() == [[0, 3, 4, 0]]
    with pytest.raises(ValueError, match=r"quality must be .* got 0"):
        corruptions.jpeg_compression(picture, quality=0)


@pytest.mark.parametrize("factor", FACTORS)
def test_pixelate_agrees_with_pillow(factor):
    """On float pixels, which Pillow does not round."""
    for side in (28, 65):
        plane = np.random.default_rng(side).random((side, side), dtype=np.float32)
        few = max(int(side * factor), 1)
        expected = Image.fromarray(plane).resize((few, few), Image.BOX).resize((side, side), Image.BOX)
        found = corruptions.pixelate(jnp.asarray(plane)[..., None], factor=factor)[..., 0]
        np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=1e-6)


def test_pixelate_of_unequal_sides_and_refusals():
    image = jnp.ones((1, 20, 31, 1)).at[0, 0].set(0.0)
    assert corruptions.pixelate(image, factor=0.5).shape == image.shape
    np.testing.assert_allclose(corruptions.pixelate(image, factor=0.5)[0, :2], 0.5, atol=1e-6)
    np.testing.assert_allclose(corruptions.pixelate(image, factor=1.0), image, atol=1e-6)
    with pytest.raises(ValueError, match=r"factor must be .* got 1.5"):
        corruptions.pixelate(image, factor=1.5)
    assert presets.PIXELATE["imagenet-c"][0] == (0.6,)
