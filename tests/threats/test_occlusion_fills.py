"""Fills of dropped patches: against loops in NumPy and SciPy, and that no image depends on its neighbours."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from threats import occlusion

IMAGES = np.random.default_rng(0).uniform(size=(3, 12, 9, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnames="name")
def make(key, images, name):
    return occlusion.make_fill(key, images, name=name)


def zero(image):
    return np.zeros_like(image)


def mean(image):
    """A sum in float64, pixel by pixel."""
    filled = np.zeros_like(image)
    for channel in range(image.shape[-1]):
        total = sum(float(value) for row in image[..., channel] for value in row)
        filled[..., channel] = total / image[..., channel].size
    return filled


def blur(image):
    sigma = min(image.shape[:2]) / 8
    options = {"mode": "nearest", "axes": (0, 1), "radius": math.ceil(4 * sigma)}
    return ndimage.gaussian_filter(np.float64(image), sigma, **options)


@pytest.mark.parametrize("expected", [zero, mean, blur], ids=lambda fill: fill.__name__)
@pytest.mark.parametrize("shape", [(3, 12, 9, 3), (1, 28, 28, 1), (2, 5, 5, 4)])
def test_agrees_with_a_loop(expected, shape):
    images = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
    filled = make(None, images, expected.__name__)
    np.testing.assert_allclose(filled, np.stack([expected(image) for image in images]), atol=1e-6)


def test_the_blur_is_strong():
    """Of noise, whose pixels know nothing of each other, 1 / (4 pi sigma^2) of the variance is left."""
    images = np.random.default_rng(2).uniform(size=(8, 64, 64, 1)).astype(np.float32)
    inner = np.asarray(occlusion.blur_fill(images, sigma=4.0))[:, 16:48, 16:48]
    assert 0.5 < inner.var() / images.var() * 4 * np.pi * 16 < 2
    np.testing.assert_array_equal(occlusion.blur_fill(images, sigma=0.0), images)


def test_noise_is_uniform_and_each_images_own():
    images = jnp.zeros((4, 28, 28, 3))
    noise = np.asarray(make(jax.random.key(0), images, "noise"))
    assert noise.min() >= 0
    assert noise.max() < 1
    assert all(stats.kstest(row.ravel(), "uniform").pvalue > 1e-3 for row in noise)
    planes = np.moveaxis(noise, -1, 1).reshape(12, -1)
    assert np.max(np.abs(np.corrcoef(planes) - np.eye(12))) < 0.15, "no image or channel shares draws with another"
    np.testing.assert_array_equal(noise[:2], make(jax.random.key(0), images[:2], "noise"))
    assert not np.array_equal(noise, make(jax.random.key(1), images, "noise"))


@pytest.mark.parametrize("name", occlusion.FILLS)
def test_every_fill_keeps_shape_dtype_and_range(name):
    for dtype in (jnp.float32, jnp.bfloat16):
        images = jnp.stack([jnp.ones((8, 8, 1)), jnp.zeros((8, 8, 1))]).astype(dtype)
        filled = make(jax.random.key(0), images, name)
        assert (filled.shape, filled.dtype) == (images.shape, dtype)
        assert 0 <= float(filled.min()) <= float(filled.max()) <= 1


@pytest.mark.parametrize("name", occlusion.FILLS)
def test_no_image_depends_on_another(name):
    changed = IMAGES.copy()
    changed[1] = 0.3
    before, after = (np.asarray(make(jax.random.key(0), images, name)) for images in (IMAGES, changed))
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert np.array_equal(before[1], after[1]) == (name in ("zero", "noise"))


@pytest.mark.parametrize("name", occlusion.FILLS)
def test_only_a_random_fill_depends_on_the_key(name):
    first, second = (np.asarray(make(jax.random.key(seed), IMAGES, name)) for seed in (0, 1))
    assert np.array_equal(first, second) != occlusion.FILLS[name].random


@pytest.mark.parametrize("name", occlusion.FILLS)
def test_dropped_pixels_are_the_fills_and_others_the_images(name):
    """Checked pixel by pixel, with a number of dropped patches and ranks that are traced."""
    images = np.random.default_rng(3).uniform(size=(2, 6, 6, 2)).astype(np.float32)
    filled = np.asarray(make(jax.random.key(0), images, name))
    drop = jax.jit(functools.partial(occlusion.patch_drop, grid=3))
    ranks = np.array([np.random.default_rng(row).permutation(9) for row in range(2)], np.int32)
    for share in (0.0, 4 / 9, 1.0):
        dropped = np.asarray(drop(images, ranks, information_loss=share, fill=filled))
        for (i, y, x, c), value in np.ndenumerate(dropped):
            gone = ranks[i, (y // 2) * 3 + x // 2] < round(share * 9)
            assert value == (filled if gone else images)[i, y, x, c]
    assert drop._cache_size() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: occlusion.make_fill(None, IMAGES, name="black"), "one of zero, mean, blur, noise, got 'black'"),
        (lambda: occlusion.make_fill(None, IMAGES, name="noise"), "key must be a random key for the fill 'noise'"),
        (lambda: occlusion.mean_fill(np.uint8(IMAGES)), "images must be floats in .*, got uint8: divide 8-bit"),
        (lambda: occlusion.blur_fill(IMAGES[0]), r"images must be \[b, h, w, c\], got shape \(12, 9, 3\)"),
        (lambda: occlusion.blur_fill(IMAGES, sigma=-1.0), r"sigma must be a number in \[0, inf\], got -1.0"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
