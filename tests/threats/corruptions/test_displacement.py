"""Blurs and deformations that move pixels: glass, motion, elastic."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from threats import corruptions
from threats.corruptions import digital, glass, motion


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_glass_follows_the_published_loop(distance):
    """The loop as it was run to make ImageNet-C: both sides of its "swap" are views of one array."""
    height, width = 24, 20
    rng = np.random.default_rng(distance)
    image = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    offsets = rng.integers(-distance, distance, (height, width, 2))
    looped = image.copy()
    for row in range(height - distance, distance, -1):
        for column in range(width - distance, distance, -1):
            other = (row + offsets[row, column, 0], column + offsets[row, column, 1])
            looped[row, column], looped[other] = looped[other], looped[row, column]
    sources = np.asarray(glass.sources(jnp.asarray(offsets), distance))
    np.testing.assert_array_equal(image.reshape(-1, 3)[sources].reshape(image.shape), looped)


def test_glass_takes_every_near_place_equally_often():
    places = jnp.arange(40 * 40, dtype=jnp.float32).reshape(1, 40, 40, 1) / 1600
    moved = corruptions.glass_blur(jax.random.key(0), jnp.repeat(places, 8, 0), sigma=0.0, distance=1, rounds=1)
    steps = np.round((np.asarray(moved) - np.asarray(places)) * 1600)[:, 2:-2, 2:-2].astype(int)
    # At distance 1 the sources lie at -1 or 0 along both sides, and none has been displaced before.
    values, counts = np.unique(steps, return_counts=True)
    assert values.tolist() == [-41, -40, -1, 0]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_trail_weights_fall_and_sum_to_one():
    weights = motion.trail_weights(20, 15)
    assert len(weights) == 41
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(weights[10] / weights[0], np.exp(-0.5 * (10 / 15) ** 2), rtol=1e-5)
    assert len(motion.trail_weights(10, 1)) == 5, "weights that no 8-bit image shows are left out"


@pytest.mark.parametrize("degrees", [-135.0, -45.0, 0.0, 20.0, 90.0])
def test_motion_blur_sums_shifted_images(degrees):
    image = np.random.default_rng(0).random((30, 24, 3), dtype=np.float32)
    weights = motion.trail_weights(6, 2)
    expected = np.zeros_like(image)
    for step, weight in enumerate(weights):
        down, right = (int(np.ceil(step * f(np.deg2rad(degrees)) - 0.5)) for f in (np.sin, np.cos))
        rows, columns = np.clip(np.arange(30) + down, 0, 29), np.clip(np.arange(24) + right, 0, 23)
        expected += weight * image[rows][:, columns]
    np.testing.assert_allclose(motion.along(jnp.asarray(image), weights, jnp.float32(degrees)), expected, atol=1e-6)


def test_motion_goes_within_45_degrees_of_horizontal():
    """The trail of a point, seen by its centre of mass: to the left, as the weights look to the right."""
    points = jnp.zeros((64, 41, 41, 1)).at[:, 20, 20].set(1.0)
    trails = np.asarray(corruptions.motion_blur(jax.random.key(1), points, radius=10, sigma=8))[..., 0]
    grid = np.arange(41) - 20
    down, right = (trails.sum(axis=2) @ grid, trails.sum(axis=1) @ grid)
    degrees = np.rad2deg(np.arctan2(-down, -right))
    assert np.abs(degrees).max() < 47
    assert stats.kstest(degrees, stats.uniform(-45, 90).cdf).pvalue > 1e-3


@pytest.mark.parametrize("sides", [(28, 28), (40, 30)])
def test_affine_map_agrees_with_opencv(sides):
    height, width = sides
    rng = np.random.default_rng(height)
    image = ndimage.gaussian_filter(rng.random((height, width, 3)).astype(np.float32), (1, 1, 0))
    moved = rng.uniform(-3, 3, (3, 2)).astype(np.float32)
    centre, half = np.float32([width // 2, height // 2]), min(sides) // 3
    points = np.float32([centre + half, [centre[0] + half, centre[1] - half], centre - half])
    matrix = cv2.getAffineTransform(points, points + moved)
    expected = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    found = digital.sample(jnp.asarray(image), digital.affine_places(sides, jnp.asarray(moved)), border="mirror")
    # Releases of OpenCV before 5 round places to 1/32 pixel.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)
    assert np.abs(np.asarray(found) - expected).mean() < 2e-3


def test_displacement_agrees_with_scipy():
    rng = np.random.default_rng(3)
    image = rng.random((28, 20, 1), dtype=np.float32)
    places = np.stack(np.meshgrid(np.arange(28), np.arange(20), indexing="ij")) + rng.uniform(-60, 60, (2, 28, 20))
    places = places.astype(np.float32)
    expected = ndimage.map_coordinates(image[..., 0], places, order=1, mode="reflect")
    found = digital.sample(jnp.asarray(image), jnp.asarray(places), border="reflect")[..., 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_elastic_transform_moves_as_far_as_it_says():
    """A ramp shows the displacement: of the field alone, normal with a deviation of about 0.16 shift / sigma."""
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 101)[:, None], (101, 101, 1))
    ramps = jnp.broadcast_to(ramp, (16, *ramp.shape))
    moved = corruptions.elastic_transform(jax.random.key(2), ramps, shift=12.0, sigma=2.0, jitter=0.0)
    pixels = 100 * (np.asarray(moved) - np.asarray(ramp))[:, :, 20:80]
    np.testing.assert_allclose(pixels.std(), 0.163 * 12 / 2, rtol=0.08)
    assert abs(pixels.mean()) < 0.05
    still = corruptions.elastic_transform(jax.random.key(2), ramp, shift=0.0, sigma=0.0, jitter=0.0)
    np.testing.assert_allclose(still, ramp, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("glass_blur", {"sigma": 0.5, "distance": 0, "rounds": 1}, "distance must be .* got 0"),
        ("motion_blur", {"radius": 0, "sigma": 1}, "radius must be .* got 0"),
        ("elastic_transform", {"shift": -1, "sigma": 1, "jitter": 1}, "shift must be .* got -1"),
    ],
)
def test_refuses_parameters(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(corruptions, name)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), **options)
