"""Light, contrast, saturation and gamma against matplotlib's HSV and Pillow's enhancements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image, ImageEnhance

from threats import corruptions


@pytest.fixture(scope="module")
def image():
    """Random colours with black, gray and white pixels. [20, 24, 3] float32"""
    drawn = np.random.default_rng(0).random((20, 24, 3), dtype=np.float32)
    drawn[0], drawn[1], drawn[2] = 0.0, 0.4, 1.0
    return drawn


@pytest.mark.parametrize("shift", [0.05, 0.3, 0.5])
def test_brightness_adds_to_the_value_of_hsv(image, shift):
    hsv = colors.rgb_to_hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + shift, 0, 1)
    np.testing.assert_allclose(corruptions.brightness(image, shift=shift), colors.hsv_to_rgb(hsv), atol=1e-6)


@pytest.mark.parametrize(("factor", "shift"), [(0.1, 0.0), (2.0, 0.1), (30.0, 0.2), (1.0, 0.25)])
def test_saturate_multiplies_and_adds_to_the_saturation_of_hsv(image, factor, shift):
    hsv = colors.rgb_to_hsv(image)
    hsv[..., 1] = np.clip(factor * hsv[..., 1] + shift, 0, 1)
    found = corruptions.saturate(image, factor=factor, shift=shift)
    np.testing.assert_allclose(found, colors.hsv_to_rgb(hsv), atol=2e-6)


def test_saturate_gives_gray_pixels_the_hue_of_red_and_gray_images_none():
    reddish = corruptions.saturate(jnp.full((1, 1, 3), 0.5), factor=2, shift=0.1)
    np.testing.assert_allclose(reddish[0, 0], [0.5, 0.45, 0.45], atol=1e-6)
    gray = jnp.linspace(0, 1, 12).reshape(3, 4, 1)
    np.testing.assert_allclose(corruptions.saturate(gray, factor=20, shift=0.2), gray, atol=1e-7)


def test_contrast_is_about_the_mean_of_each_channel(image):
    means = image.mean(axis=(0, 1))
    expected = np.clip((image - means) * 0.4 + means, 0, 1)
    np.testing.assert_allclose(corruptions.contrast(image, factor=0.4), expected, atol=1e-6)
    two = jnp.stack([image, image[::-1] ** 2])
    np.testing.assert_allclose(corruptions.contrast(two, factor=0.4)[0], expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_exposure_and_contrast_of_medmnist_c_agree_with_pillow(image, factor, channels):
    """To the gray level that Pillow rounds away, and one more for its rounded mean."""
    pixels = np.round(255 * image[..., :channels]).astype(np.uint8)
    pillow = Image.fromarray(pixels.squeeze())
    floats = jnp.asarray(pixels / 255, jnp.float32)
    for enhance, found in (
        (ImageEnhance.Brightness, corruptions.exposure(floats, factor=factor)),
        (ImageEnhance.Contrast, corruptions.gray_contrast(floats, factor=factor)),
    ):
        expected = np.asarray(enhance(pillow).enhance(factor)).reshape(pixels.shape)
        assert np.abs(255 * np.asarray(found) - expected).max() < 2


@pytest.mark.parametrize("gamma", [0.4, 1.6])
def test_gamma_is_a_power(image, gamma):
    np.testing.assert_allclose(corruptions.gamma_correction(image, gamma=gamma), image**gamma, atol=1e-6)
    slope = jax.grad(lambda x: corruptions.gamma_correction(x, gamma=gamma).sum())(jnp.asarray([[[0.0], [0.25]]]))
    np.testing.assert_allclose(slope[0, :, 0], [0, gamma * 0.25 ** (gamma - 1)], rtol=1e-5)


def test_nan_is_not_hidden(image):
    spoiled = jnp.asarray(image).at[5, 6, 0].set(jnp.nan)
    for name, option in (
        ("exposure", {"factor": 2}),
        ("gamma_correction", {"gamma": 0.5}),
        ("brightness", {"shift": 0.1}),
    ):
        assert bool(jnp.isnan(getattr(corruptions, name)(spoiled, **option)[5, 6, 0])), name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("brightness", {"shift": 2}, r"shift must be a number in \[-1, 1\], got 2"),
        ("contrast", {"factor": -1}, "factor must be .* got -1"),
        ("saturate", {"factor": 1, "shift": float("nan")}, "shift must be .* got nan"),
        ("gamma_correction", {"gamma": 0}, "gamma must be .* got 0"),
    ],
)
def test_refuses_parameters(image, name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(corruptions, name)(image, **options)
