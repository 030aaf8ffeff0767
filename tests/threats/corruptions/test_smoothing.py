"""Gaussian and zoom blur against SciPy, with which the published benchmark was made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from threats import corruptions
from threats.corruptions import medmnist_presets, presets

LEVELS = [level for preset in presets.GAUSSIAN_BLUR.values() for level in preset]
ZOOMS = {"small": np.arange(1, 1.26, 0.01), "large": np.arange(1, 1.31, 0.03), "first": np.arange(1, 1.11, 0.01)}


def _images(height, width, channels=3):
    return np.random.default_rng(height).random((2, height, width, channels), dtype=np.float32)


@pytest.mark.parametrize(("sigma", "reach"), LEVELS)
def test_gaussian_blur_agrees_with_scipy(sigma, reach):
    images = _images(40, 26)
    expected = ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest", truncate=4)
    blurred = corruptions.gaussian_blur(jnp.asarray(images), sigma=sigma, reach=reach)
    np.testing.assert_allclose(blurred, expected, rtol=0, atol=1e-6)


def test_kernels_of_medmnist_c_have_their_size():
    """A kernel of 3 pixels has sigma 0.8 and one of 13 has 2.3: torchvision's choice."""
    assert medmnist_presets.of("gaussian_blur")["medmnist-c/chest"][0] == pytest.approx((0.8, 1))
    assert medmnist_presets.of("gaussian_blur")["medmnist-c/organa"][1] == pytest.approx((2.3, 6))
    point = jnp.zeros((1, 15, 15, 1)).at[0, 7, 7, 0].set(1.0)
    blurred = np.asarray(corruptions.gaussian_blur(point, sigma=0.8, reach=1))[0, :, :, 0]
    assert np.argwhere(blurred > 0).min() == 6
    assert np.argwhere(blurred > 0).max() == 8
    np.testing.assert_allclose(blurred.sum(), 1, atol=1e-6)


def _clipped_zoom(image, factor):
    """An enlargement of the middle by linear interpolation, cut to the image's size."""
    side = len(image)
    kept = int(np.ceil(side / factor))
    first = (side - kept) // 2
    middle = image[first : first + kept, first : first + kept]
    larger = ndimage.zoom(middle, (factor, factor, 1), order=1)
    cut = (len(larger) - side) // 2
    return larger[cut : cut + side, cut : cut + side]


@pytest.mark.parametrize("factors", ZOOMS.values(), ids=ZOOMS.keys())
@pytest.mark.parametrize("side", [28, 65])
def test_zoom_blur_agrees_with_scipy(factors, side):
    images = _images(side, side)
    last, step = float(factors[-1]), float(factors[1] - factors[0])
    expected = [(image + sum(_clipped_zoom(image, f) for f in factors)) / (len(factors) + 1) for image in images]
    blurred = corruptions.zoom_blur(jnp.asarray(images), last=last, step=step)
    np.testing.assert_allclose(blurred, expected, rtol=0, atol=2e-6)


def test_published_zooms_are_those_of_numpy():
    stops = {"cifar-c": (1.06, 1.11, 1.16, 1.21, 1.26), "imagenet-c": (1.11, 1.16, 1.21, 1.26, 1.31)}
    for preset, levels in stops.items():
        for stop, (last, step) in zip(levels, presets.ZOOM_BLUR[preset], strict=True):
            np.testing.assert_allclose(np.arange(1, stop, step)[-1], last, atol=1e-9)


def test_sides_may_differ_and_gradients_are_the_weights():
    image = jnp.asarray(_images(20, 31, 1)[:1])
    gradient = jax.grad(lambda x: corruptions.gaussian_blur(x, sigma=1, reach=4)[0, 10, 15, 0])(image)[0, :, :, 0]
    point = np.zeros((20, 31))
    point[10, 15] = 1
    np.testing.assert_allclose(gradient, ndimage.gaussian_filter(point, 1, mode="nearest", radius=4), atol=1e-7)
    assert corruptions.zoom_blur(image, last=1.2, step=0.1).shape == image.shape


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: corruptions.gaussian_blur(x, sigma=-1, reach=4), "sigma must be .* got -1"),
        (lambda x: corruptions.zoom_blur(x, last=0.9, step=0.01), "last must be .* got 0.9"),
        (lambda x: corruptions.zoom_blur(x, last=1.1, step=0), "step must be .* got 0"),
    ],
)
def test_refuses_parameters(run, message):
    with pytest.raises(ValueError, match=message):
        run(jnp.zeros((1, 8, 8, 1)))
