"""Defocus blur against OpenCV, which the published benchmark was made with."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import corruptions
from threats.corruptions import blur, presets

LEVELS = [(preset, *level) for preset, levels in presets.DEFOCUS_BLUR.items() for level in levels]
SIDES = {"cifar-c": (28,), "tiny-c": (64,), "imagenet-c": (64, 224)}

_defocus_blur = jax.jit(corruptions.defocus_blur, static_argnames=("radius", "alias_blur"))


def _opencv_kernel(radius, alias_blur):
    """The published formula, in the float32 and with the Gaussian filter it was published with."""
    grid = np.linspace(-8, 8, 17) if radius <= 8 else np.arange(-radius, radius + 1)
    inside = np.hypot(*np.meshgrid(grid, grid)) <= radius + 1e-9
    disk = inside.astype(np.float32) / np.float32(inside.sum())
    size = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(disk, (size, size), sigmaX=alias_blur)


def _random(seed, *shape):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize(("preset", "radius", "alias_blur"), LEVELS)
def test_agrees_with_opencv(preset, radius, alias_blur):
    kernel = _opencv_kernel(radius, alias_blur)
    for side in SIDES[preset]:
        # Noise, an image at full white (where a kernel of sum above 1 is clipped) and one with a hard edge.
        images = _random(side, 3, side, side, 3)
        images[1] = 1.0
        images[2, :, : side // 3] = 0.0
        expected = np.stack([_opencv_filter(image, kernel) for image in images])
        actual = _defocus_blur(images, radius=radius, alias_blur=alias_blur)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def _opencv_filter(image, kernel):
    filtered = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return np.clip(filtered.reshape(image.shape), 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_sides_may_differ(channels):
    images = _random(0, 2, 40, 26, channels)
    expected = np.stack([_opencv_filter(image, _opencv_kernel(3, 0.1)) for image in images])
    actual = _defocus_blur(images, radius=3, alias_blur=0.1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("preset", "radius", "alias_blur"), LEVELS)
def test_kernel_is_the_published_one(preset, radius, alias_blur):
    kernel = blur.defocus_kernel(radius, alias_blur)
    np.testing.assert_allclose(kernel, _opencv_kernel(radius, alias_blur), rtol=0, atol=1e-7)
    # The image may be flipped or transposed: a blur has no direction.
    np.testing.assert_allclose(kernel, kernel[::-1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(kernel, kernel.T, rtol=0, atol=1e-15)


def test_kernel_is_not_renormalised():
    sums = [blur.defocus_kernel(*level).sum() for level in presets.DEFOCUS_BLUR["imagenet-c"]]
    np.testing.assert_allclose(sums, [1, 1, 1, 1.013, 1.011], atol=5e-4)


def test_a_point_becomes_the_kernel():
    point = jnp.zeros((1, 31, 31, 1)).at[0, 15, 15, 0].set(1.0)
    blurred = corruptions.defocus_blur(point, radius=6, alias_blur=0.5)
    np.testing.assert_allclose(blurred[0, 7:24, 7:24, 0], blur.defocus_kernel(6, 0.5), atol=1e-7)


def test_smallest_image():
    """Radius 1.5 reaches one pixel (its 17 x 17 grid is mostly zeros), so two pixels are enough and one is not."""
    image = jnp.asarray(_random(1, 1, 2, 2, 1))
    blurred = corruptions.defocus_blur(image, radius=1.5, alias_blur=0.1)
    pixels = np.pad(np.asarray(image)[0, :, :, 0], 1, mode="reflect")
    expected = [[pixels[i : i + 3, j : j + 3].mean() for j in (0, 1)] for i in (0, 1)]
    np.testing.assert_allclose(blurred[0, :, :, 0], expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"images must be at least 2 x 2 .* got 2 x 1.*smaller radius"):
        corruptions.defocus_blur(image[:, :, :1], radius=1.5, alias_blur=0.1)


def test_images_do_not_mix():
    images = jnp.asarray(_random(2, 3, 28, 28, 3))
    images = images.at[1, 4, 5, 0].set(jnp.nan)
    blurred = _defocus_blur(images, radius=3, alias_blur=0.1)
    alone = _defocus_blur(images[2:], radius=3, alias_blur=0.1)
    np.testing.assert_allclose(blurred[2:], alone, atol=1e-6)
    assert np.isnan(blurred[1, ..., 0]).all()
    assert np.isfinite(np.delete(np.asarray(blurred), 1, axis=0)).all()
    assert np.isfinite(blurred[1, ..., 1:]).all()


def test_gradient_is_the_kernel():
    image = jnp.full((1, 15, 15, 1), 0.5)
    gradient = jax.grad(lambda x: corruptions.defocus_blur(x, radius=3, alias_blur=0.1)[0, 7, 7, 0])(image)
    np.testing.assert_allclose(gradient[0, 4:11, 4:11, 0], blur.defocus_kernel(3, 0.1)[5:12, 5:12], atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1, "alias_blur": 0.1}, "radius must be .* got -1"),
        ({"radius": float("nan"), "alias_blur": 0.1}, "radius must be .* got nan"),
        ({"radius": 3, "alias_blur": 0}, "alias_blur must be .* got 0"),
    ],
)
def test_refuses_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        corruptions.defocus_blur(jnp.zeros((1, 28, 28, 1)), **options)
