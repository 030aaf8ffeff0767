"""Fog, snow, frost and spatter: against loops and OpenCV where layers are given, by statistics where they are drawn."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from threats import corruptions
from threats.corruptions import clouds, crystals, drops, edges


def _looped(draws, decay):
    """The diamond-square fractal on strided views of one array, as it was published."""
    side = 2 ** len(draws)
    heights, step, amplitude = np.zeros((side, side)), side, 1.0
    for middle, between_columns, between_rows in draws:
        half = step // 2
        corners = heights[::step, ::step]
        sums = corners + np.roll(corners, -1, axis=0)
        heights[half::step, half::step] = (sums + np.roll(sums, -1, axis=1)) / 4 + amplitude * middle
        centres = heights[half::step, half::step]
        tops = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        heights[::step, half::step] = tops / 4 + amplitude * between_columns
        lefts = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        heights[half::step, ::step] = lefts / 4 + amplitude * between_rows
        step, amplitude = half, amplitude / decay**2
    return heights


def test_the_fractal_follows_the_published_loop():
    rng = np.random.default_rng(0)
    draws = [rng.uniform(-1, 1, (3, 2**level, 2**level)).astype(np.float32) for level in range(5)]
    found = clouds.diamond_square([jnp.asarray(draw) for draw in draws], jnp.float32(1.7))
    np.testing.assert_allclose(found, _looped(draws, 1.7), rtol=0, atol=1e-5)


def test_clouds_span_0_to_1_and_get_rougher_with_less_decay():
    smooth, rough = (np.asarray(clouds.cloud(jax.random.key(0), 60, jnp.float32(decay))) for decay in (3.0, 1.4))
    for cloud in (smooth, rough):
        assert cloud.shape == (64, 64)
        assert (cloud.min(), cloud.max()) == (0, pytest.approx(1, abs=1e-6))
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_fog_keeps_the_brightest_value_and_lifts_black():
    image = jnp.zeros((1, 32, 32, 1)).at[0, :, 16:].set(0.8)
    foggy = np.asarray(corruptions.fog(jax.random.key(1), image, thickness=1.0, decay=2.0))
    assert foggy.max() <= 0.8 + 1e-6
    assert foggy[0, :, :16].mean() > 0.05
    # Under the same cloud the two halves keep their distance, times m / (m + thickness).
    with_light = np.asarray(corruptions.fog(jax.random.key(1), image.at[:].add(0.1), thickness=1.0, decay=2.0))
    assert with_light.mean() > foggy.mean()
    np.testing.assert_array_equal(corruptions.fog(jax.random.key(1), jnp.zeros((1, 8, 8, 1)), thickness=0, decay=2), 0)


def test_snow_whitens_and_adds_flakes():
    black = jnp.zeros((4, 32, 32, 1))
    options = {"mean": 0.1, "spread": 0.2, "zoom": 1, "threshold": 0.6, "radius": 8, "sigma": 3}
    snowy = np.asarray(corruptions.snow(jax.random.key(2), black, kept=0.8, **options))
    # Without a flake the image is 0.2 x 0.5; flakes are N(0.1, 0.2) where above 0.6, 2.5 deviations, and come twice.
    np.testing.assert_allclose(np.median(snowy), 0.1, atol=0.02)
    above = 0.1 * 0.00621 + 0.2 * np.exp(-(2.5**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(snowy.mean() - 0.1, 2 * above, rtol=0.3)
    np.testing.assert_allclose(snowy - 0.1, np.rot90(snowy - 0.1, 2, axes=(1, 2)), atol=1e-5)


def test_frost_covers_images_with_crystals_of_their_own():
    layers = np.stack([crystals.crystals(jax.random.key(seed), 48, 64) for seed in range(4)])
    assert layers.shape == (4, 48, 64)
    assert layers.min() >= 0
    assert layers.max() <= 1
    assert 0.3 < layers.mean() < 0.7
    assert np.abs(np.corrcoef(layers.reshape(4, -1)) - np.eye(4)).max() < 0.5
    # Crystals have sharp edges: their steps are larger than those of a cloud.
    assert np.abs(np.diff(layers)).max() > 0.2
    image = jnp.full((1, 48, 64, 3), 0.4)
    frosted = np.asarray(corruptions.frost(jax.random.key(3), image, kept=0.9, strength=0.0))
    np.testing.assert_allclose(frosted, 0.36, atol=1e-6)


LAYERS = [(28, 0.62, 0.1, 0.7, 0.7), (64, 0.65, 0.3, 1, 0.69), (64, 0.65, 0.1, 0.8, 0.7), (96, 0.65, 0.3, 2, 0.68)]


def _liquid(side, mean, spread, sigma, threshold):
    noise = np.random.default_rng(side).normal(mean, spread, (side, side)).astype(np.float32)
    layer = np.clip(ndimage.gaussian_filter(noise, sigma, mode="nearest", truncate=4), 0, 1)
    return np.where(layer < threshold, np.float32(0), layer)


@pytest.mark.parametrize("options", LAYERS)
def test_edges_and_distances_are_those_of_opencv(options):
    layer = (_liquid(*options) * 255).astype(np.uint8)
    expected = cv2.Canny(layer, 50, 150) > 0
    found = np.asarray(edges.canny(jnp.asarray(layer, jnp.float32), low=50, high=150))
    np.testing.assert_array_equal(found, expected)
    assert 0.01 < expected.mean() < 0.5
    distances = cv2.distanceTransform(255 - 255 * expected.astype(np.uint8), cv2.DIST_L2, 5)
    found = edges.distance(jnp.asarray(expected), farthest=20)
    np.testing.assert_allclose(found, np.minimum(distances, 20), atol=1e-4)


@pytest.mark.parametrize("options", LAYERS)
def test_water_is_shaded_as_published(options):
    liquid = _liquid(*options)
    layer = (liquid * 255).astype(np.uint8)
    far = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
    far = cv2.equalizeHist(cv2.blur(np.minimum(far, 20), (3, 3)).astype(np.uint8))
    embossed = cv2.blur(cv2.filter2D(far, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])), (3, 3))
    expected = layer * embossed.astype(np.float32)
    found = np.asarray(drops.water(jnp.asarray(liquid)))
    np.testing.assert_allclose(found, expected / expected.max(), atol=0.02)
    assert np.abs(found - expected / expected.max()).mean() < 1e-4


def test_spatter_without_a_drop_changes_nothing():
    image = jnp.full((1, 16, 16, 3), 0.5)
    options = {"mean": 0.0, "spread": 0.1, "sigma": 1.0, "threshold": 0.9, "strength": 0.6}
    for mud in (0, 1):
        np.testing.assert_array_equal(corruptions.spatter(jax.random.key(0), image, mud=mud, **options), image)


def test_water_brightens_and_mud_covers():
    image = jnp.full((2, 48, 48, 3), 0.5)
    options = {"mean": 0.65, "spread": 0.3, "sigma": 1.0, "threshold": 0.69}
    water = np.asarray(corruptions.spatter(jax.random.key(1), image, strength=0.6, mud=0, **options))
    assert water.min() >= 0.5
    assert water[..., 1].mean() > water[..., 0].mean() > 0.5, "pale turquoise"
    mud = np.asarray(corruptions.spatter(jax.random.key(1), image, strength=0.6, mud=1, **options))
    brown = np.array([63, 42, 20]) / 255
    np.testing.assert_allclose(mud.min(axis=(0, 1, 2)), brown, atol=0.02)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fog", {"thickness": -1, "decay": 2}, "thickness must be .* got -1"),
        ("fog", {"thickness": 1, "decay": 0.5}, "decay must be .* got 0.5"),
        ("frost", {"kept": -1, "strength": 1}, "kept must be .* got -1"),
    ],
)
def test_refuses_parameters(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(corruptions, name)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), **options)
