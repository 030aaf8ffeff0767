"""Attacks that look for the smallest perturbation: closed forms of linear models, every task, what counts as found."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial, outcomes
from threats.adversarial import carlini_wagner, deepfool, fab, minimal

KEY = jax.random.key(0)
# How much farther than the optimum an attack may end: DeepFool by its overshoot of 2 % and 1e-4, FAB by what its steps
# beyond the plane and back, and the bias, leave of eta (on a plane 1.0052, whatever the plane).
WAGNER = functools.partial(carlini_wagner.attack, steps=60, searches=5, learning_rate=0.01, initial_c=0.1)
ATTACKS = {
    "cw_l2": (WAGNER, "l2", 1.02, 0.0),
    "fab": (functools.partial(fab.attack, steps=20), "linf", 1.006, 1e-6),
    "fab_l2": (functools.partial(fab.attack, steps=20, norm="l2"), "l2", 1.006, 1e-6),
    "deepfool_l2": (functools.partial(deepfool.attack, norm="l2"), "l2", 1.02, 1.1e-4),
    "deepfool": (functools.partial(deepfool.attack, norm="linf"), "linf", 1.02, 1.1e-4),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)


def linear(variables, images):
    """Planes through the middle of the box; row i depends on image i only."""
    return (images - 0.5).reshape(images.shape[0], -1) @ variables


@functools.cache
def compiled(name, task="multi-class", targeted=False):
    return jax.jit(functools.partial(ATTACKS[name][0], linear, task=task, targeted=targeted))


def lengths(offset, norm):
    offset = np.abs(np.asarray(offset)).reshape(len(offset), -1)
    return offset.max(axis=1) if norm == "linf" else np.sqrt((offset**2).sum(axis=1))


def linear_problem(outputs, count=6):
    """Images near the middle, where the box does not matter; of this seed none is very near a plane, 0.02 and more."""
    draws = np.random.default_rng(844)
    images = draws.uniform(0.35, 0.65, (count, 2, 4, 1)).astype(np.float32)
    return draws.normal(size=(8, outputs)).astype(np.float32), images


def to_planes(weights, logits, labels, task, norm):
    """Distance of each image to the nearest plane, and to that of the largest gap: [b] each."""
    if task == "multi-label":
        gaps, normals = -np.abs(logits), np.broadcast_to(weights.T, (*logits.shape, len(weights)))
    else:
        others = np.array([[k for k in range(logits.shape[1]) if k != label] for label in labels])
        gaps = np.take_along_axis(logits, others, 1) - np.take_along_axis(logits, labels[:, None], 1)
        normals = weights.T[others] - weights.T[labels][:, None]
    dual = np.abs(normals).sum(axis=2) if norm == "linf" else np.sqrt((normals**2).sum(axis=2))
    return np.min(-gaps / dual, axis=1), np.take_along_axis(-gaps / dual, gaps.argmax(axis=1)[:, None], 1)[:, 0]


@every_attack
@pytest.mark.parametrize("task", outcomes.TASKS)
def test_optimum_of_a_linear_model(name, task):
    weights, images = linear_problem(2 if task == "binary" else 4)
    logits = np.array(linear(weights, images))
    labels = np.array(outcomes.decisions(logits, task))
    _, norm, factor, extra = ATTACKS[name]
    nearest, likeliest = to_planes(weights, logits, labels, task, norm)
    found = compiled(name, task)(weights, images, labels, key=KEY)
    assert bool(found.success.all())
    assert not outcomes.correct(linear(weights, found.images), labels, task).any()
    np.testing.assert_allclose(found.distance, lengths(found.images - images, norm), rtol=1e-4)
    assert np.all(found.distance >= nearest * (1 - 1e-4))
    # Carlini and Wagner's margin is the largest gap: it leads to that class, which need not be the nearest.
    assert np.all(found.distance <= (likeliest if name == "cw_l2" else nearest) * factor + extra)


TARGETED = [(name, "multi-class") for name in ATTACKS] + [("cw_l2", "multi-label"), ("deepfool", "multi-label")]


@pytest.mark.parametrize(("name", "task"), TARGETED)
def test_targeted_makes_the_model_say_the_labels(name, task):
    weights, images = linear_problem(4)
    decided = np.array(outcomes.decisions(linear(weights, images), task))
    targets = 1 - decided if task == "multi-label" else (decided + 1) % 4
    found = compiled(name, task, True)(weights, images, targets, key=KEY)
    assert outcomes.correct(linear(weights, found.images), targets, task).all()
    assert bool(found.success.all())
    already = compiled(name, task, True)(weights, images, decided, key=KEY)
    np.testing.assert_array_equal(already.images, images)
    np.testing.assert_array_equal(already.distance, 0.0)


@every_attack
def test_what_is_wrong_already_stays_and_what_cannot_be_wrong_is_not_claimed(name):
    weights, images = linear_problem(2)
    weights[:, 1] = -weights[:, 0]
    images[0, 0, 0] += 0.01
    labels = np.array(outcomes.decisions(linear(weights, images), "binary"))
    labels[0] = 1 - labels[0]
    found = compiled(name, "binary")(weights, images, labels, key=KEY)
    np.testing.assert_array_equal(found.images[0], images[0])
    assert float(found.distance[0]) == 0.0
    assert bool(found.success[0])

    def certain(variables, images):
        return linear(variables, images) + jnp.array([[100.0, 0.0]])

    stuck = jax.jit(functools.partial(ATTACKS[name][0], certain))(weights, images, 0 * labels, key=KEY)
    np.testing.assert_array_equal(stuck.images, images)
    assert not stuck.success.any()
    assert np.isinf(stuck.distance).all()


@every_attack
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_output_is_a_success_and_touches_no_other_row(name, value):
    """The first image breaks its model on the way to a boundary that lies outside the box."""

    def fragile(variables, images):
        weights, threshold, bias = variables
        logits = linear(weights, images) + bias
        return jnp.where(images[:, 0, 0] > threshold, value, logits)

    weights, images = np.stack([-np.ones(8), np.ones(8)], 1).astype(np.float32), np.full((2, 2, 4, 1), 0.5, np.float32)
    threshold, bias = np.array([[0.6], [9.0]], np.float32), np.array([[9.0, 0.0], [1.0, 0.0]], np.float32)
    attack = jax.jit(functools.partial(ATTACKS[name][0], fragile))
    found = attack((weights, threshold, bias), images, np.zeros(2, np.int32), key=KEY)
    assert np.isfinite(found.images).all()
    assert bool(found.success.all())
    assert float(found.images[0, 0, 0, 0]) > 0.6
    whole = attack((weights, 9 + threshold, bias), images, np.zeros(2, np.int32), key=KEY)
    np.testing.assert_array_equal(whole.success, [False, True])
    np.testing.assert_array_equal(found.images[1], whole.images[1])


@every_attack
def test_labels_and_weights_do_not_recompile_and_a_flat_image_will_do(name):
    weights, images = linear_problem(3)
    flat = images.reshape(len(images), -1)
    attack = jax.jit(functools.partial(ATTACKS[name][0], linear))
    attack(weights, flat, np.zeros(len(images), np.int32), key=KEY)
    attack(2 * weights, flat, np.ones(len(images), np.int32), key=jax.random.key(1))
    assert attack._cache_size() == 1


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_linearised_boundaries_survive_tiny_and_huge_gradients(scale):
    weights, images = linear_problem(3)
    labels = np.array(outcomes.decisions(linear(weights, images), "multi-class"))
    for name in ("deepfool_l2", "deepfool", "fab", "fab_l2"):
        found = compiled(name)(np.float32(scale) * weights, images, labels, key=KEY)
        np.testing.assert_allclose(found.images, compiled(name)(weights, images, labels, key=KEY).images, atol=1e-5)


def test_within_gives_up_what_is_outside():
    weights, images = linear_problem(3)
    labels = np.array(outcomes.decisions(linear(weights, images), "multi-class"))
    found = compiled("deepfool_l2")(weights, images, labels)
    radius = np.where(np.arange(len(images)) % 2 == 0, found.distance, 0.999 * found.distance)
    attack = minimal.within(functools.partial(deepfool.attack, norm="l2"))
    result = attack(linear, weights, images, labels, epsilon=radius)
    np.testing.assert_array_equal(result.success, np.arange(len(images)) % 2 == 0)
    np.testing.assert_array_equal(result.images[::2], found.images[::2])
    np.testing.assert_array_equal(result.images[1::2], images[1::2])
    with pytest.raises(ValueError, match=r"epsilon must be a scalar or of shape \(6,\)"):
        attack(linear, weights, images, labels, epsilon=np.ones(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1 or None for all, got 0"),
        ({"norm": "l1"}, "norm must be one of .*, got 'l1'"),
        ({"task": "regression"}, "task must be one of .*, got 'regression'"),
        ({"images": np.full((2, 8), 2.0, np.float32)}, r"images must be in \[0, 1\]"),
        ({"variables": np.ones((8, 1), np.float32)}, r"at least two logits per image, got .*\(2, 1\)"),
    ],
)
def test_bad_options_are_named(options, message):
    given = {"variables": np.ones((8, 2), np.float32), "images": np.zeros((2, 8), np.float32), **options}
    with pytest.raises(ValueError, match=message):
        adversarial.deepfool.attack(linear, labels=np.zeros(2, np.int32), **given)
