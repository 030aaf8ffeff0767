"""SPSA: its guess of a gradient has no bias, and its steps find what a gradient would, in every task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial, outcomes
from threats.adversarial import spsa

WEIGHTS = np.array([0.5, -1.0, 2.0, -0.1, 0.0, 0.7], np.float32)


def linear(weights, images):
    score = (images - 0.5) @ weights
    return jnp.stack([jnp.zeros_like(score), score], axis=-1)


def estimate(function, x, seed=0, **options):
    return jax.jit(functools.partial(spsa.estimate_gradient, function, delta=0.01, **options))(jax.random.key(seed), x)


def test_the_guess_is_unbiased_on_a_linear_model():
    """Entry i of one sample has mean w_i and variance sum_{j != i} w_j^2: 200 rows of 50 samples."""
    x = np.full((200, 6), 0.5, np.float32)
    guesses = np.asarray(estimate(lambda x: x @ WEIGHTS, x, samples=50))
    variance = (np.sum(WEIGHTS**2) - WEIGHTS**2) / 50
    errors = (guesses.mean(axis=0) - WEIGHTS) / np.sqrt(variance / 200)
    assert np.abs(errors).max() < 3.5
    np.testing.assert_allclose(guesses.var(axis=0), variance, rtol=0.35)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_groups_change_the_memory_and_not_the_guess(at_once):
    seen = []

    def function(x):
        seen.append(len(x))
        return x @ WEIGHTS

    x = np.random.default_rng(0).uniform(size=(4, 6)).astype(np.float32)
    guess = estimate(function, x, samples=7, samples_at_once=at_once)
    np.testing.assert_allclose(guess, estimate(lambda x: x @ WEIGHTS, x, samples=7), rtol=1e-4, atol=1e-5)
    assert max(seen) == 2 * 4 * min(at_once, 7)


def test_differences_that_are_not_finite_count_as_zero():
    guess = estimate(lambda x: jnp.where(x[:, 0] > 0.5, jnp.nan, x[:, 1]), np.full((2, 2), 0.5, np.float32), samples=8)
    np.testing.assert_array_equal(guess, np.zeros((2, 2)))


@pytest.mark.parametrize("update", spsa.UPDATES)
def test_reaches_the_corner_of_a_linear_model(update):
    """The optimum where the ball allows no success, as of FGSM: x + epsilon sign(w)."""
    images, labels = np.full((3, 6), 0.5, np.float32) - 0.2 * np.sign(WEIGHTS), np.zeros(3, np.int32)
    attack = jax.jit(functools.partial(adversarial.spsa_attack, linear, steps=30, samples=30, update=update))
    found = attack(WEIGHTS, images, labels, key=jax.random.key(1), epsilon=0.1)
    optimum = -0.1 * np.abs(WEIGHTS).sum()
    assert not found.success.any()
    np.testing.assert_allclose(found.loss, optimum, rtol=0.03)


@pytest.mark.parametrize(
    ("task", "targeted"), [("binary", False), ("multi-label", False), ("ordinal", True), ("multi-label", True)]
)
def test_tasks_and_targets(task, targeted):
    classes = 2 if task == "binary" else 4
    draws = np.random.default_rng(3)
    weights = draws.normal(size=(6, classes)).astype(np.float32)
    images = draws.uniform(0.3, 0.7, (5, 6)).astype(np.float32)

    def model(weights, images):
        return (images - 0.5) @ weights

    decided = np.asarray(outcomes.decisions(model(weights, images), task))
    other = 1 - decided if task == "multi-label" else (decided + 1) % classes
    attack = functools.partial(adversarial.spsa_attack, model, steps=20, samples=16, task=task, targeted=targeted)
    found = jax.jit(attack)(weights, images, other if targeted else decided, key=jax.random.key(0), epsilon=0.9)
    right = outcomes.correct(model(weights, found.images), other if targeted else decided, task)
    np.testing.assert_array_equal(found.success, right == targeted)
    assert float(found.success.mean()) >= 0.6


def test_more_restarts_never_help_the_model():
    images, labels = np.full((20, 6), 0.42, np.float32), np.zeros(20, np.int32)

    def wavy(weights, images):
        score = jnp.sin(40.0 * images) @ weights - 3.5
        return jnp.stack([jnp.zeros_like(score), score], axis=-1)

    one, three = (
        jax.jit(functools.partial(adversarial.spsa_attack, wavy, steps=3, samples=8, restarts=restarts))(
            WEIGHTS, images, labels, key=jax.random.key(2), epsilon=0.2
        )
        for restarts in (1, 3)
    )
    assert np.all(three.loss >= one.loss)
    assert np.any(three.loss > one.loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"samples_at_once": 0}, "samples_at_once must be at least 1, got 0"),
        ({"update": "sgd"}, r"update must be one of \('adam', 'sign'\), got 'sgd'"),
        ({"delta": -1.0}, "delta must be 0 or more, got -1.0"),
        ({"step_size": np.ones(3)}, r"step_size must be a scalar or of shape \(2,\)"),
        ({"key": None}, "key must be a jax.random.key"),
    ],
)
def test_bad_options_are_named(options, message):
    arguments = {"images": np.zeros((2, 6), np.float32), "labels": np.zeros(2, np.int32)}
    arguments |= {"key": jax.random.key(0), "epsilon": 0.1} | options
    with pytest.raises(ValueError, match=message):
        adversarial.spsa_attack(linear, WEIGHTS, **arguments)
