"""PGD and its kin: the optimum of linear models, what is kept, what a NaN does, what is refused, what recompiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial
from threats.adversarial import objectives

WEIGHTS = np.array([0.5, -1.0, 2.0, -0.1, 0.0], np.float32)


def linear(weights, images):
    """Two classes by a plane: class 1 where (x - 1/2) @ w > 0."""
    score = (images - 0.5) @ weights
    return jnp.stack([jnp.zeros_like(score), score], axis=-1)


def wavy(weights, images):
    """A model with many local optima."""
    score = jnp.sin(40.0 * images) @ weights
    return jnp.stack([jnp.zeros_like(score), score], axis=-1)


def clean_batch(count=3):
    images = np.random.default_rng(0).uniform(0.3, 0.7, (count, 5)).astype(np.float32)
    return images, np.arange(count, dtype=np.int32) % 2


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "mi_fgsm", "apgd_ce", "apgd_dlr", "apgd_t"])
def test_linf_optimum_of_a_linear_model(name):
    images, labels = clean_batch()
    attack = jax.jit(functools.partial(adversarial.ATTACKS[name].fn, linear))
    sides = np.where(labels == 0, 1.0, -1.0)[:, None]
    used = WEIGHTS != 0
    for epsilon in (0.03, 0.4):
        found = attack(WEIGHTS, images, labels, key=jax.random.key(1), epsilon=epsilon)
        optimum = np.clip(images + epsilon * sides * np.sign(WEIGHTS), 0.0, 1.0)
        np.testing.assert_allclose(found.images[:, used], optimum[:, used], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fgsm_l2", {}),
        ("mi_fgsm_l2", {}),
        ("pgd_l2", {"steps": 25, "step_size": 0.2}),
        ("apgd_ce_l2", {}),
        ("apgd_dlr_l2", {}),
        ("apgd_t_l2", {}),
    ],
)
def test_l2_optimum_of_a_linear_model(name, options):
    images, labels = clean_batch()
    attack = jax.jit(functools.partial(adversarial.ATTACKS[name].fn, linear, **options))
    found = attack(WEIGHTS, images, labels, key=jax.random.key(1), epsilon=0.2)
    sides = np.where(labels == 0, 1.0, -1.0)[:, None]
    # The momentum of APGD comes near, and no nearer.
    np.testing.assert_allclose(found.images, images + 0.2 * sides * WEIGHTS / np.linalg.norm(WEIGHTS), atol=3e-4)


def test_r_fgsm_is_half_a_random_step_and_half_a_gradient_step_from_there():
    images, labels = clean_batch(50)
    found = adversarial.r_fgsm(wavy, WEIGHTS, images, labels, key=jax.random.key(3), epsilon=0.1, keep="last")
    sides = np.where(labels == 0, 1.0, -1.0)[:, None]
    explained = np.zeros((50, 4), bool)
    for sign in (-0.05, 0.05):
        corner = np.clip(images + sign, 0.0, 1.0)
        step = 0.05 * sides * np.sign(np.cos(40.0 * corner) * WEIGHTS)
        explained |= np.isclose(found.images, np.clip(corner + step, 0.0, 1.0), atol=1e-6)[:, :4]
    assert explained.all(), "each used pixel comes from one of its two corners"


def test_a_success_is_kept_though_later_steps_lose_it():
    """Class 1 is a narrow band that the climb jumps into and out of again; at its end the loss is higher."""

    def band(variables, x):
        score = x[:, 0]
        inside = jnp.exp(-(((score - 0.5) / 0.03) ** 2))
        return jnp.stack([1.5 - score, 2.0 * inside], axis=-1)

    images, labels = jnp.array([[0.4]]), jnp.array([0])
    attack = functools.partial(
        adversarial.pgd, band, None, images, labels, key=None, epsilon=0.4, random_start=False, step_size=0.1
    )

    def objective(logits, labels):
        return -logits[:, 0]

    best = attack(steps=3, objective=objective)
    last = attack(steps=3, objective=objective, keep="last")
    np.testing.assert_allclose(last.images, [[0.7]], atol=1e-6)
    np.testing.assert_allclose(best.images, [[0.5]], atol=1e-6)
    assert bool(best.success[0])
    assert not bool(last.success[0])
    assert float(best.loss[0]) < float(last.loss[0])


def test_best_is_never_below_last_and_more_restarts_never_help_the_model():
    images, labels = clean_batch(8)
    attack = functools.partial(adversarial.pgd, wavy, key=jax.random.key(2), steps=3)

    def run(**options):
        compiled = jax.jit(functools.partial(attack, **options))
        return compiled(WEIGHTS, images, labels, epsilon=0.3, step_size=0.1)

    def rank(result):
        return np.asarray(result.success) * 1e3 + np.asarray(result.loss)

    last, one, three = run(keep="last"), run(), run(restarts=3)
    assert np.all(rank(one) >= rank(last))
    assert np.all(rank(three) >= rank(one))
    assert np.any(rank(three) > rank(one))
    assert np.any(rank(one) > rank(last))


def test_a_non_finite_output_counts_as_success_and_touches_no_other_row():
    """The first image breaks the model as soon as it moves; the second must not notice."""

    def fragile(variables, images):
        weights, threshold, value = variables
        return jnp.where(images[:, :1] > threshold, value, linear(weights, images))

    images, labels = np.full((2, 5), 0.5, np.float32), np.array([0, 0])
    images[1, 0] = 0.2
    for targeted in (False, True):
        attack = jax.jit(functools.partial(adversarial.fgsm, fragile, targeted=targeted, epsilon=0.1))
        wanted, weights = (1 - labels, WEIGHTS) if targeted else (labels, WEIGHTS)
        whole = attack((weights, 9.0, 0.0), images, wanted)
        for value in (np.nan, np.inf):
            broken = attack((weights, 0.55, value), images, wanted)
            assert bool(broken.success[0])
            assert float(broken.images[0, 0]) > 0.55
            assert not np.isfinite(broken.loss[0])
            np.testing.assert_array_equal(broken.images[1], whole.images[1])
            np.testing.assert_array_equal(broken.loss[1], whole.loss[1])


def test_targeted_prefers_the_target_to_a_broken_model():
    """The first step reaches the target, the second breaks the model, at a loss of 0 for the target."""

    def fragile(weights, images):
        return jnp.where(images[:, :1] > 0.65, jnp.array([[-jnp.inf, 0.0]]), linear(weights, images))

    images = np.full((1, 5), 0.5, np.float32)
    options = {"key": None, "random_start": False, "epsilon": 0.2, "step_size": 0.1, "steps": 2}
    aimed = adversarial.pgd(fragile, WEIGHTS, images, np.array([1]), targeted=True, **options)
    np.testing.assert_allclose(aimed.images[0, 0], 0.6, atol=1e-6)
    worst = adversarial.pgd(fragile, WEIGHTS, images, np.array([0]), **options)
    np.testing.assert_allclose(worst.images[0, 0], 0.7, atol=1e-6)


def test_margin_attacks_a_model_too_certain_for_cross_entropy():
    weights, images, labels = 1e4 * WEIGHTS, np.full((1, 5), 0.5, np.float32) + 0.05 * np.sign(WEIGHTS), np.array([1])
    attack = functools.partial(
        adversarial.pgd, linear, weights, images, labels, key=None, random_start=False, epsilon=0.1
    )
    assert not bool(attack().success[0])
    assert bool(attack(objective=objectives.margin("binary")).success[0])


def test_epsilon_step_size_labels_and_weights_do_not_recompile(problem):
    p = problem()
    traces = []

    def counted(variables, images):
        traces.append(images.shape)
        return p.apply(variables, images)

    attack = jax.jit(functools.partial(adversarial.pgd, counted, steps=3, restarts=2))
    attack(p.variables, p.images, p.labels, key=jax.random.key(0), epsilon=0.1, step_size=0.01)
    count = len(traces)
    assert count == 3, "one gradient, one forward pass of the last iterate, one of the clean images"
    variables = jax.tree.map(lambda x: 2 * x, p.variables)
    attack(variables, p.images, p.targets, key=jax.random.key(1), epsilon=0.2, step_size=0.3)
    assert len(traces) == count


def test_maps_over_epsilons():
    images, labels = clean_batch()
    attack = functools.partial(adversarial.pgd, linear, WEIGHTS, images, labels, key=None, random_start=False, steps=2)
    mapped = jax.jit(jax.vmap(lambda epsilon: attack(epsilon=epsilon)))(jnp.array([0.0, 0.05]))
    np.testing.assert_array_equal(mapped.images[0], images)
    np.testing.assert_allclose(mapped.images[1], attack(epsilon=0.05).images, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"norm": "l1"}, "norm must be one of .*'linf', 'l2'.*, got 'l1'"),
        ({"keep": "first"}, "keep must be one of .*'best', 'last'.*, got 'first'"),
        ({"task": "regression"}, "task must be one of .*, got 'regression'"),
        ({"epsilon": -0.1}, "epsilon must be 0 or more, got -0.1"),
        ({"epsilon": float("nan")}, "epsilon must be 0 or more, got nan"),
        ({"step_size": -0.1}, "step_size must be 0 or more, got -0.1"),
        ({"decay": -1.0}, "decay must be 0 or more, got -1.0"),
        ({"epsilon": np.ones(2)}, r"epsilon must be a scalar or of shape \(3,\)"),
        ({"key": None}, "key must be a jax.random.key with random_start=True, got None"),
        ({"random_start": False, "restarts": 2}, "restarts must be 1 without random_start"),
        ({"objective": lambda logits, labels: logits.sum()}, r"objective must return one value per image, \(3,\)"),
        ({"images": np.full((3, 5), 2.0, np.float32)}, r"images must be in \[0, 1\], got values in \[2.0, 2.0\]"),
        ({"images": np.full((3, 5), 255, np.uint8)}, "images must be float32 .* divide 8-bit images by 255"),
    ],
)
def test_bad_options_are_named(options, message):
    images, labels = clean_batch()
    arguments = {"images": images, "labels": labels, "key": jax.random.key(0), "epsilon": 0.1, "steps": 1} | options
    with pytest.raises(ValueError, match=message):
        adversarial.pgd(linear, WEIGHTS, **arguments)
