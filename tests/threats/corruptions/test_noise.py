"""Noise has the distribution it names, independent over pixels, channels and images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from threats import corruptions

SIGMA = 0.08


@pytest.fixture(scope="module")
def noise():
    """What is added to mid-gray images, where 0.08 is six standard deviations from clipping. [16, 32, 32, 3]"""
    images = jnp.full((16, 32, 32, 3), 0.5)
    return np.asarray(corruptions.gaussian_noise(jax.random.key(0), images, sigma=SIGMA)) - 0.5


def test_is_normal(noise):
    count = noise.size
    assert abs(noise.mean()) < 4 * SIGMA / np.sqrt(count)
    assert abs(noise.std() / SIGMA - 1) < 4 / np.sqrt(2 * count)
    assert stats.kstest(noise.ravel(), stats.norm(scale=SIGMA).cdf).pvalue > 1e-3


def test_every_pixel_channel_and_image_is_its_own(noise):
    limit = 5 / np.sqrt(noise[0].size)
    images = np.corrcoef(noise.reshape(16, -1))
    channels = np.corrcoef(noise.reshape(-1, 3).T)
    neighbours = np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())
    for correlation in (images, channels, neighbours):
        assert np.abs(correlation - np.eye(len(correlation))).max() < limit


def test_is_clipped_not_wrapped():
    black = corruptions.gaussian_noise(jax.random.key(1), jnp.zeros((4, 28, 28, 1)), sigma=0.1)
    assert black.min() == 0.0
    np.testing.assert_allclose(np.mean(np.asarray(black) == 0), 0.5, atol=0.03)
    # Half a normal distribution: E max(0, n) = sigma / sqrt(2 pi).
    np.testing.assert_allclose(black.mean(), 0.1 / np.sqrt(2 * np.pi), rtol=0.05)
    white = corruptions.gaussian_noise(jax.random.key(1), jnp.ones((4, 28, 28, 1)), sigma=0.1)
    assert white.max() == 1.0


def test_keys_differ():
    images = jnp.full((2, 8, 8, 1), 0.5)
    first, second = (corruptions.gaussian_noise(jax.random.key(seed), images, sigma=SIGMA) for seed in (0, 1))
    assert np.mean(np.asarray(first) == np.asarray(second)) < 0.05


def test_sigma_zero_is_the_identity_and_nan_is_not_hidden():
    images = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3))
    np.testing.assert_array_equal(corruptions.gaussian_noise(jax.random.key(3), images, sigma=0.0), images)
    spoiled = corruptions.gaussian_noise(jax.random.key(3), images.at[1, 2, 3, 0].set(jnp.nan), sigma=0.1)
    assert np.argwhere(np.isnan(spoiled)).tolist() == [[1, 2, 3, 0]]


def test_sigma_may_be_traced():
    traces = []

    @jax.jit
    def noisy(key, images, sigma):
        traces.append(sigma)
        return corruptions.gaussian_noise(key, images, sigma=sigma)

    images = jnp.full((1, 8, 8, 1), 0.5)
    for sigma in (0.01, 0.02):
        expected = corruptions.gaussian_noise(jax.random.key(4), images, sigma=sigma)
        np.testing.assert_allclose(noisy(jax.random.key(4), images, sigma), expected, atol=1e-6)
    assert len(traces) == 1


def test_per_image_keys_through_vmap():
    """vmap over keys gives each image the draw that its key gives it alone."""
    keys = jax.random.split(jax.random.key(5), 3)
    images = jax.random.uniform(jax.random.key(6), (3, 8, 8, 1))
    mapped = jax.vmap(lambda key, image: corruptions.gaussian_noise(key, image, sigma=0.1))(keys, images)
    for key, image, row in zip(keys, images, mapped, strict=True):
        np.testing.assert_allclose(row, corruptions.gaussian_noise(key, image, sigma=0.1), atol=1e-6)


@pytest.mark.parametrize(("value", "rate"), [(0.5, 60.0), (0.3, 12.0), (0.8, 3.0)])
def test_shot_noise_counts_photons(value, rate):
    """A Poisson variable of mean value x rate, by both of the sampler's methods: below 10 and above."""
    images = jnp.full((16, 32, 32, 3), value)
    noisy = np.asarray(corruptions.shot_noise(jax.random.key(7), images, rate=rate), np.float64)
    counts = np.round(noisy * rate).astype(int)
    np.testing.assert_allclose(noisy * rate, counts, atol=1e-4)
    # Clipping at white collects all counts above.
    top = int(rate)
    seen = np.bincount(counts.ravel(), minlength=top + 1)
    expected = stats.poisson(value * rate).pmf(np.arange(top + 1))
    expected[top] = stats.poisson(value * rate).sf(top - 1)
    enough = expected * counts.size > 5
    rest = [max(1 - expected[enough].sum(), 1e-12) * counts.size, seen[~enough].sum()]
    observed, predicted = [*seen[enough], rest[1]], [*expected[enough] * counts.size, rest[0]]
    assert stats.chisquare(observed, np.array(predicted) * sum(observed) / sum(predicted)).pvalue > 1e-3


def test_shot_noise_leaves_black_black_and_nan_to_be_seen():
    images = jnp.zeros((1, 8, 8, 1)).at[0, 2, 3, 0].set(jnp.nan)
    noisy = np.asarray(corruptions.shot_noise(jax.random.key(8), images, rate=60.0))
    assert np.argwhere(np.isnan(noisy)).tolist() == [[0, 2, 3, 0]]
    assert np.nansum(noisy) == 0


def test_impulse_noise_strikes_the_share_it_names():
    images = jax.random.uniform(jax.random.key(9), (16, 32, 32, 3), minval=0.1, maxval=0.9)
    noisy = np.asarray(corruptions.impulse_noise(jax.random.key(10), images, amount=0.09))
    struck = noisy != np.asarray(images)
    assert set(np.unique(noisy[struck])) == {0.0, 1.0}
    assert stats.binomtest(int(struck.sum()), struck.size, 0.09).pvalue > 1e-3
    assert stats.binomtest(int((noisy == 1).sum()), int(struck.sum()), 0.5).pvalue > 1e-3
    # Channels are struck independently: all three of a pixel as rarely as chance has it.
    assert stats.binomtest(int(struck.all(axis=-1).sum()), struck[..., 0].size, 0.09**3).pvalue > 1e-3
    more = np.asarray(corruptions.impulse_noise(jax.random.key(10), images, amount=0.2)) != np.asarray(images)
    assert more[struck].all()


def test_speckle_noise_grows_with_the_light():
    images = jnp.full((4, 64, 64, 1), 0.5).at[2:].set(0.1)
    noise = np.asarray(corruptions.speckle_noise(jax.random.key(11), images, sigma=0.1)) / np.asarray(images) - 1
    assert stats.kstest(noise[:2].ravel(), stats.norm(scale=0.1).cdf).pvalue > 1e-3
    assert stats.kstest(noise[2:].ravel(), stats.norm(scale=0.1).cdf).pvalue > 1e-3
    assert float(corruptions.speckle_noise(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), sigma=0.6).max()) == 0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda key, images: corruptions.shot_noise(key, images, rate=0), "rate must be .* got 0"),
        (lambda key, images: corruptions.impulse_noise(key, images, amount=1.5), "amount must be .* got 1.5"),
    ],
)
def test_refuses_parameters(run, message):
    with pytest.raises(ValueError, match=message):
        run(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize(
    ("corrupt", "strength"),
    [
        (corruptions.gaussian_noise, {"sigma": 0.1}),
        (corruptions.shot_noise, {"rate": 20.0}),
        (corruptions.impulse_noise, {"amount": 0.3}),
        (corruptions.speckle_noise, {"sigma": 0.3}),
    ],
)
def test_an_image_draws_by_its_own_key(corrupt, strength):
    keys, images = jax.random.split(jax.random.key(0), 3), jnp.full((3, 8, 8, 1), 0.5)
    together = corrupt(keys, images, **strength)
    for row in range(3):
        np.testing.assert_array_equal(corrupt(keys[row : row + 1], images[row : row + 1], **strength)[0], together[row])
