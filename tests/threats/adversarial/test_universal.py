"""Universal perturbations: stronger than noise on a trained model, within their ball, and how they are counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import outcomes, statistics
from threats.adversarial import universal

EPSILON = {"linf": 0.05, "l2": 0.7}


@pytest.fixture(scope="module")
def trained(problem):
    """A small CNN, trained on images of four noisy patterns until it knows them; 50 images, not a whole batch."""
    p = problem()
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 4, 50).astype(np.int32)
    patterns = draws.uniform(0.3, 0.7, (4, *p.images.shape[1:]))
    images = np.clip(patterns[labels] + draws.normal(0, 0.05, (50, *p.images.shape[1:])), 0, 1).astype(np.float32)

    def loss(variables):
        return outcomes.loss(p.apply(variables, images), labels, "multi-class").mean()

    def step(variables, _):
        return jax.tree.map(lambda w, slope: w - 0.1 * slope, variables, jax.grad(loss)(variables)), None

    variables = jax.jit(lambda start: jax.lax.scan(step, start, length=100)[0])(p.variables)
    assert outcomes.correct(p.apply(variables, images), labels, "multi-class").mean() > 0.95
    return p._replace(variables=variables, images=images, labels=labels)


def run(p, norm, **options):
    attack = functools.partial(universal.attack, p.apply, norm=norm, batch_size=16, **options)
    return jax.jit(attack)(p.variables, p.images, p.labels, key=jax.random.key(0), epsilon=EPSILON[norm])


@pytest.mark.parametrize("norm", EPSILON)
def test_fools_a_trained_model_more_than_noise_of_the_same_size(trained, norm):
    found = run(trained, norm)
    perturbation = np.asarray(found.perturbation)
    length = np.abs(perturbation).max() if norm == "linf" else np.linalg.norm(perturbation)
    assert 0.9 * EPSILON[norm] < length <= EPSILON[norm] + 1e-6

    def noise(seed):
        drawn = np.random.default_rng(seed).normal(size=perturbation.shape)
        return np.float32(EPSILON[norm] * (np.sign(drawn) if norm == "linf" else drawn / np.linalg.norm(drawn)))

    judge = jax.jit(functools.partial(universal.fooled, trained.apply, trained.variables, trained.images))
    rates = [universal.fooling_rate(judge(noise(seed))) for seed in range(5)]
    rate = universal.fooling_rate(found.fooled)
    assert rate.count == 50
    assert rate.low > max(random.high for random in rates)


def test_fooled_is_a_changed_decision_or_a_broken_model():
    def model(variables, images):
        logits = jnp.stack([images[:, 0], jnp.full_like(images[:, 0], 0.5)], axis=1)
        return jnp.where(images[:, 1:] > 0.9, jnp.nan, logits)

    images = jnp.array([[0.4, 0.0], [0.6, 0.0], [0.2, 0.0], [0.6, 0.8], [1.0, 0.0]])
    judged = universal.fooled(model, None, images, jnp.array([0.2, 0.2]), batch_size=2)
    np.testing.assert_array_equal(judged, [True, False, False, True, False])
    assert universal.fooling_rate(judged) == statistics.wilson(2, 5)


def test_a_nan_gradient_of_one_image_does_not_stop_the_others(problem):
    p = problem()

    def fragile(variables, images):
        return jnp.where(images[:, :1, 0, 0] > 0.99, jnp.nan, 1.0) * p.apply(variables, images)

    images = p.images.copy()
    images[1, 0, 0, 0] = 1.0
    attack = functools.partial(universal.attack, fragile, epochs=2)
    found = jax.jit(attack)(p.variables, images, p.labels, key=jax.random.key(0), epsilon=0.05)
    assert np.isfinite(found.perturbation).all()
    assert np.abs(found.perturbation).max() > 0
    assert bool(found.fooled[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"norm": "l1"}, "norm must be one of .*, got 'l1'"),
    ],
)
def test_bad_options_are_named(problem, options, message):
    p = problem()
    with pytest.raises(ValueError, match=message):
        universal.attack(p.apply, p.variables, p.images, p.labels, key=jax.random.key(0), epsilon=0.1, **options)
