"""Transfer between models, and attacks on the mean of a model that draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial, outcomes, statistics
from threats.adversarial import transfer


def linear(variables, images):
    return (images - 0.5).reshape(images.shape[0], -1) @ variables


@pytest.fixture(scope="module")
def models(problem):
    """A CNN and a linear model that agree with it on some images."""
    p = problem()
    weights = 0.1 * np.random.default_rng(1).normal(size=(p.images[0].size, 4)).astype(np.float32)
    return (p.apply, linear), (p.variables, weights)


def test_the_diagonal_is_one_where_the_white_box_always_succeeds(models, problem):
    p = problem()
    (cnn, _), (variables, weights) = models
    labels = np.where(np.arange(len(p.images)) < 3, p.labels, outcomes.decisions(linear(weights, p.images), "binary"))
    attack = jax.jit(functools.partial(transfer.evaluate, adversarial.get_attack("pgd").fn, models[0], steps=5))
    key = jax.random.key(0)
    result = attack(models[1], p.images, labels, key=key, epsilon=0.2)
    rates = transfer.rates(result)
    right = np.stack([outcomes.correct(m(v, p.images), labels, "multi-class") for m, v in zip(*models, strict=True)])
    np.testing.assert_array_equal(result.right, right)
    assert [rates[i][i].value for i in range(2)] == [1.0, 1.0]
    assert [rates[i][i].count for i in range(2)] == right.sum(axis=1).tolist()
    assert rates[0][1].count == rates[1][0].count == (right[0] & right[1]).sum()

    alone = adversarial.get_attack("pgd").fn(
        cnn, variables, p.images, labels, key=jax.random.fold_in(key, 0), epsilon=0.2, steps=5
    )
    wrong = ~outcomes.correct(linear(weights, alone.images), labels, "multi-class")
    np.testing.assert_array_equal(result.success[0, 1], wrong)


def test_rates_are_among_images_that_both_get_right():
    right = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], bool)
    success = np.array([[[1, 1, 1, 1], [0, 1, 1, 1]], [[0, 0, 1, 1], [1, 0, 1, 1]]], bool)
    rates = transfer.rates(transfer.TransferResult(right, success))
    wilson = statistics.wilson
    assert rates == [[wilson(3, 3), wilson(1, 2)], [wilson(0, 2), wilson(2, 3)]]


def test_as_many_models_as_variables():
    with pytest.raises(ValueError, match="applies and variables must be as many, at least 1, got 1 and 0"):
        transfer.evaluate(None, (linear,), (), jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))


def noisy(variables, images, key):
    """The CNN behind input noise, large enough to turn the gradient of a single draw."""
    draw = jax.vmap(lambda number, image: jax.random.normal(jax.random.fold_in(key, number), image.shape))
    return cnn_of(variables, images + 0.5 * draw(jnp.arange(images.shape[0]), images))


def cnn_of(variables, images):
    features = jax.lax.conv_general_dilated(
        images, variables["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(features).reshape(images.shape[0], -1) @ variables["dense"]


def test_the_expectation_beats_one_draw_on_fresh_draws(problem):
    p = problem()
    many = adversarial.expectation(noisy, 64)
    labels = np.asarray(outcomes.decisions(many((p.variables, jax.random.key(9)), p.images), "multi-class"))

    @functools.partial(jax.jit, static_argnames="draws")
    def attacked(key, draws):
        mean = adversarial.expectation(noisy, draws)
        attack = functools.partial(adversarial.pgd, mean, random_start=False, key=None, steps=8, epsilon=0.06)
        return attack((p.variables, key), p.images, labels).images

    @jax.jit
    def loss_on_fresh_draws(images):
        keys = jax.random.split(jax.random.key(5), 200)
        logits = jax.lax.map(lambda key: noisy(p.variables, images, key), keys)
        return jax.vmap(lambda one: outcomes.loss(one, labels, "multi-class"))(logits).mean()

    key = jax.random.key(0)
    clean, one, mean = (float(loss_on_fresh_draws(x)) for x in (p.images, attacked(key, 1), attacked(key, 32)))
    assert clean < one < mean
    assert mean - clean > 1.2 * (one - clean)
    np.testing.assert_array_equal(attacked(key, 1), attacked(key, 1))
    assert not np.array_equal(attacked(key, 1), attacked(jax.random.key(1), 1))


def test_expectation_is_the_mean_of_its_draws_and_a_broken_draw_breaks_it():
    def draws(variables, images, key):
        return variables * images + jax.random.normal(key, images.shape)

    images, key = jnp.ones((2, 3)), jax.random.key(0)
    mean = adversarial.expectation(draws, 4)((2.0, key), images)
    by_hand = np.mean([draws(2.0, images, jax.random.fold_in(key, d)) for d in range(4)], axis=0)
    np.testing.assert_allclose(mean, by_hand, rtol=1e-6)

    def sometimes(variables, images, key):
        return jnp.where(jax.random.uniform(key) < 0.5, jnp.nan, images)

    assert np.isnan(adversarial.expectation(sometimes, 16)((None, key), images)).all()
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        adversarial.expectation(draws, 0)
