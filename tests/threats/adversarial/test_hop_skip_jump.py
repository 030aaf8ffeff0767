"""HopSkipJump: linear models in closed form, foolbox at the same budget, and what epsilon decides."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial, outcomes
from threats.adversarial import norms

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    foolbox = pytest.importorskip("foolbox")

SIZE = 20
WEIGHTS = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)


def linear(weights, images):
    score = (images - 0.5) @ weights
    return jnp.stack([jnp.zeros_like(score), score], axis=-1)


def clean_batch(count=6):
    images = np.random.default_rng(2).uniform(0.4, 0.6, (count, SIZE)).astype(np.float32)
    return images, ((images - 0.5) @ WEIGHTS > 0).astype(np.int32)


@functools.cache
def compiled(**options):
    return jax.jit(functools.partial(adversarial.hop_skip_jump.attack, linear, **options))


@pytest.mark.parametrize(("norm", "within"), [("l2", 1.05), ("linf", 1.15)])
def test_distance_to_a_plane(norm, within):
    images, labels = clean_batch()
    found = compiled(norm=norm, steps=20, samples=60)(WEIGHTS, images, labels, key=jax.random.key(0))
    optimum = np.abs((images - 0.5) @ WEIGHTS) / np.linalg.norm(WEIGHTS, 2 if norm == "l2" else 1)
    ratio = np.asarray(found.distance) / optimum
    assert bool(found.success.all())
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < within
    np.testing.assert_allclose(found.distance, norms.NORMS[norm].length(found.images - images), rtol=1e-5)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_as_close_as_foolbox_at_the_same_budget(trained, norm):
    """Its own batches are not independent (norms are taken over the whole batch), so it gets one image at a time."""
    p, count, steps, samples = trained(), 24, 8, 30
    starts = 1.0 - p.images[:count]
    logits = p.apply(p.variables, starts, xp=np)
    images, labels = p.images[:count], p.labels[:count]
    assert np.all(np.argmax(logits, axis=1) != labels), "the negative of an image is of another class"

    attack = functools.partial(
        adversarial.hop_skip_jump.attack, p.apply, p.variables, steps=steps, samples=samples, norm=norm, starts=starts
    )
    ours = jax.jit(attack)(images, labels, key=jax.random.key(0)).distance

    np.random.seed(0)  # noqa: NPY002 (foolbox draws from NumPy's global state)
    theirs = []
    model = foolbox.NumPyModel(functools.partial(p.apply, p.variables, xp=np), bounds=(0, 1))
    for i in range(count):
        oracle = foolbox.attacks.HopSkipJumpAttack(steps=steps, initial_gradient_eval_steps=samples, constraint=norm)
        criterion = foolbox.criteria.Misclassification(labels[i : i + 1])
        found = oracle.run(model, images[i : i + 1], criterion, starting_points=starts[i : i + 1])
        theirs.append(float(norms.NORMS[norm].length(found - images[i : i + 1])[0]))
    np.testing.assert_allclose(np.median(ours), np.median(theirs), rtol=0.15)


def test_epsilon_decides_what_comes_back_and_nothing_else():
    images, labels = clean_batch()
    every = compiled(steps=5, samples=20)(WEIGHTS, images, labels, key=jax.random.key(0))
    epsilon = np.asarray(every.distance) * np.where(np.arange(len(images)) % 2, 0.99, 1.01)
    bounded = functools.partial(adversarial.ATTACKS["hop_skip_jump_l2"].fn, linear, steps=5, samples=20)
    some = jax.jit(bounded)(WEIGHTS, images, labels, key=jax.random.key(0), epsilon=epsilon)
    np.testing.assert_array_equal(some.success, np.arange(len(images)) % 2 == 0)
    np.testing.assert_array_equal(some.images[::2], every.images[::2])
    np.testing.assert_array_equal(some.images[1::2], images[1::2])
    np.testing.assert_allclose(some.loss, outcomes.loss(linear(WEIGHTS, some.images), labels, "binary"), rtol=1e-5)


def test_distance_is_0_where_clean_is_wrong_and_inf_where_nothing_is():
    images, labels = clean_batch(2)
    attack = compiled(steps=2, samples=4, tries=3)
    wrong = attack(WEIGHTS, images, 1 - labels, key=jax.random.key(0))
    np.testing.assert_array_equal(wrong.distance, [0.0, 0.0])
    np.testing.assert_array_equal(wrong.images, images)
    assert bool(wrong.success.all())
    never = attack(0 * WEIGHTS, images, 0 * labels, key=jax.random.key(0))
    np.testing.assert_array_equal(never.distance, [np.inf, np.inf])
    np.testing.assert_array_equal(never.images, images)
    assert not bool(never.success.any())


@pytest.mark.parametrize("task", ["binary", "multi-label"])
def test_targeted_from_given_starts(task):
    """In multi-label the target is every label at once, here both of them turned: a corner of two planes."""
    draws = np.random.default_rng(3)
    weights, images = draws.normal(size=(SIZE, 2)).astype(np.float32), draws.uniform(0.4, 0.6, (4, SIZE))
    images = images.astype(np.float32)

    def two(weights, x):
        return (x - 0.5) @ weights

    decided = np.asarray(outcomes.decisions(two(weights, images), task))
    attack = functools.partial(
        adversarial.hop_skip_jump.attack, two, steps=15, samples=40, task=task, targeted=True, tries=0
    )
    found = jax.jit(attack)(weights, images, 1 - decided, key=jax.random.key(0), starts=1.0 - images)
    assert bool(found.success.all())
    assert bool(outcomes.correct(two(weights, found.images), 1 - decided, task).all())
    if task == "binary":
        normal = weights[:, 0] - weights[:, 1]
        optimum = np.abs((images - 0.5) @ normal) / np.linalg.norm(normal)
        np.testing.assert_allclose(found.distance, optimum, rtol=0.1)


def test_groups_change_the_memory_and_not_the_result():
    images, labels = clean_batch(3)
    results = [
        compiled(steps=3, samples=11, samples_at_once=at_once)(WEIGHTS, images, labels, key=jax.random.key(0)).distance
        for at_once in (2, 32)
    ]
    np.testing.assert_allclose(*results, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"tries": -1}, "tries must be at least 0, got -1"),
        ({"norm": "l1"}, "norm must be one of .*, got 'l1'"),
        ({"starts": np.zeros((2, 3), np.float32)}, r"starts must be of the images' shape \(2, 20\), got \(2, 3\)"),
        ({"key": None}, "key must be a jax.random.key, got None"),
    ],
)
def test_bad_options_are_named(options, message):
    arguments = {"images": np.zeros((2, SIZE), np.float32), "labels": np.zeros(2, np.int32), "key": jax.random.key(0)}
    with pytest.raises(ValueError, match=message):
        adversarial.hop_skip_jump.attack(linear, WEIGHTS, **(arguments | options))
