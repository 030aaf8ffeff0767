"""What every attack in the table promises: its ball, its box, its identity at 0, and never a worse image."""

import jax
import numpy as np
import pytest

from threats import adversarial, outcomes
from threats.adversarial import objectives

RADIUS = {"linf": 0.06, "l2": 0.8}
# Their draws show only where a restart finds something closer.
KEEPS_THE_CLOSEST = ("fab", "fab_l2")
# The loss that an attack reports is that of its own objective: the cross-entropy unless it is named here.
OBJECTIVE = {"apgd_dlr": objectives.dlr, "apgd_dlr_l2": objectives.dlr}
every_attack = pytest.mark.parametrize("name", adversarial.ATTACKS)


def lengths(name, offset):
    offset = np.abs(np.asarray(offset, np.float64)).reshape(len(offset), -1)
    return offset.max(axis=1) if adversarial.ATTACKS[name].norm == "linf" else np.sqrt((offset**2).sum(axis=1))


def radius(name):
    return RADIUS[adversarial.ATTACKS[name].norm]


def run(compiled, p, name, *, task="multi-class", epsilon=None, seed=0):
    epsilon = np.broadcast_to(np.float32(radius(name) if epsilon is None else epsilon), len(p.images))
    result = compiled(name, task)(p.variables, p.images, p.labels, key=jax.random.key(seed), epsilon=epsilon)
    return jax.tree.map(np.asarray, result)


# Tasks and norms are separate choices: every task is walked with one attack, every attack with one task. Those whose
# objective has no published form in some tasks are walked with these too.
@pytest.mark.parametrize(
    ("name", "task"),
    [(name, "multi-class") for name in adversarial.ATTACKS]
    + [(name, task) for name in ("bim", "square") for task in outcomes.TASKS[1:]]
    + [(name, task) for name in ("apgd_dlr", "apgd_t") for task in ("binary", "multi-label")],
)
def test_stays_in_ball_and_box_and_never_helps_the_model(compiled, problem, verdict, name, task):
    p = problem(task)
    result = run(compiled, p, name, task=task)
    assert result.images.min() >= 0.0
    assert result.images.max() <= 1.0
    assert np.all(lengths(name, result.images - p.images) <= radius(name) + 1e-6)

    objective = OBJECTIVE.get(name, objectives.cross_entropy)
    clean = verdict(p.variables, p.images, p.labels, task, objective)
    attacked = verdict(p.variables, result.images, p.labels, task, objective)
    np.testing.assert_array_equal(result.success, ~attacked.correct)
    np.testing.assert_allclose(result.loss, attacked.loss, rtol=1e-5)
    assert np.all(result.success | clean.correct)
    assert np.all((result.loss >= clean.loss) | (result.success & clean.correct))
    assert result.loss.mean() > clean.loss.mean() + 0.05


@every_attack
def test_epsilon_zero_is_the_identity(compiled, problem, name):
    p = problem()
    np.testing.assert_array_equal(run(compiled, p, name, epsilon=0.0).images, p.images)


@every_attack
def test_one_radius_per_image(compiled, problem, name):
    p = problem()
    some = np.where(np.arange(len(p.images)) % 2 == 0, 0.0, radius(name))
    each, all_of_them = run(compiled, p, name, epsilon=some), run(compiled, p, name)
    np.testing.assert_array_equal(each.images[::2], p.images[::2])
    np.testing.assert_array_equal(each.images[1::2], all_of_them.images[1::2])


@every_attack
def test_same_key_same_result_and_another_key_another(compiled, problem, name):
    first, again, other = (run(compiled, problem(), name, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    if name not in KEEPS_THE_CLOSEST:
        assert np.array_equal(first.images, other.images) != adversarial.ATTACKS[name].random


@every_attack
def test_row_does_not_depend_on_other_rows(compiled, problem, name):
    p = problem()
    images, labels = 1 - p.images, np.zeros_like(p.labels)
    images[0], labels[0] = p.images[0], p.labels[0]
    whole, changed = run(compiled, p, name), run(compiled, p._replace(images=images, labels=labels), name)
    np.testing.assert_array_equal(whole.images[0], changed.images[0])
    assert not np.array_equal(whole.images[1], changed.images[1])


@every_attack
def test_without_a_gradient_the_clean_images_come_back(compiled, problem, name):
    """A model that ignores its input: no image moves by NaN and no success is claimed."""
    p = problem()
    p = p._replace(variables=p.variables | {"dense": 0 * p.variables["dense"]}, labels=0 * p.labels)
    result = run(compiled, p, name)
    np.testing.assert_array_equal(result.images, p.images)
    assert not result.success.any()


@every_attack
def test_a_model_that_always_says_nan_is_never_robust(compiled, problem, name):
    p = problem()
    p = p._replace(variables=p.variables | {"dense": np.nan * p.variables["dense"]}, labels=0 * p.labels)
    result = run(compiled, p, name)
    np.testing.assert_array_equal(result.images, p.images)
    assert result.success.all()
    assert np.isnan(result.loss).all()


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("bim", "binary"),
        ("bim", "multi-label"),
        ("pgd_l2", "multi-class"),
        ("apgd_ce", "multi-class"),
        ("apgd_t", "multi-class"),
        ("autoattack", "multi-class"),
    ],
)
def test_targeted_reaches_the_target(compiled, problem, verdict, name, task):
    p = problem(task)
    attack = compiled(name, task, True)
    result = attack(p.variables, p.images, p.targets, key=jax.random.key(0), epsilon=10 * radius(name))
    decided = verdict(p.variables, result.images, p.targets, task).decisions
    np.testing.assert_array_equal(decided, p.targets)
    assert bool(result.success.all())


def test_targeted_single_step_moves_towards_the_target(compiled, problem, verdict):
    p = problem()
    result = compiled("fgsm", "multi-class", True)(p.variables, p.images, p.targets, epsilon=0.02)
    assert np.all(result.loss < verdict(p.variables, p.images, p.targets, "multi-class").loss)


def test_unknown_attack_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"attack must be one of \('fgsm', .*'pgd_l2'.*\), got 'pgdd'"):
        adversarial.get_attack("pgdd")
