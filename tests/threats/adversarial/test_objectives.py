"""Objectives: their values by hand, their sign against the decision, and their gradients where softmax is certain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import outcomes
from threats.adversarial import objectives


def test_margin_by_hand():
    two = objectives.margin("binary")(jnp.array([[2.0, 0.5], [2.0, 0.5]]), jnp.array([0, 1]))
    np.testing.assert_allclose(two, [-1.5, 1.5])
    four = objectives.margin("ordinal")(jnp.array([[1.0, 5.0, 3.0, 2.0]] * 2), jnp.array([1, 3]))
    np.testing.assert_allclose(four, [-2.0, 3.0])
    labels = objectives.margin("multi-label")(jnp.array([[2.0, -1.0], [2.0, 3.0]]), jnp.array([[1, 0], [1, 0]]))
    np.testing.assert_allclose(labels, [-1.0, 3.0])


@pytest.mark.parametrize("task", outcomes.TASKS)
def test_margin_is_positive_exactly_where_the_decision_is_wrong(task):
    classes = 2 if task == "binary" else 4
    logits = jax.random.normal(jax.random.key(0), (50, classes))
    if task == "multi-label":
        labels = outcomes.decisions(logits, task).at[::3, 1].set(1)
    else:
        labels = jax.random.randint(jax.random.key(1), (50,), 0, classes)
    wrong = ~outcomes.correct(logits, labels, task)
    assert 5 < int(wrong.sum()) < 45
    np.testing.assert_array_equal(objectives.margin(task)(logits, labels) > 0, wrong)


def test_cross_entropy_is_the_tasks_loss():
    logits = jnp.array([[0.3, -1.2, 4.0], [1.0, 1.0, 1.0]])
    for task, labels in (("multi-class", jnp.array([0, 2])), ("multi-label", jnp.array([[0, 1, 1], [1, 0, 0]]))):
        np.testing.assert_array_equal(
            objectives.cross_entropy(task)(logits, labels), outcomes.loss(logits, labels, task)
        )


def test_margin_has_a_gradient_where_cross_entropy_has_none():
    logits, labels = jnp.array([[200.0, 0.0]]), jnp.array([0])
    entropy = jax.grad(lambda z: objectives.cross_entropy("binary")(z, labels).sum())(logits)
    margin = jax.grad(lambda z: objectives.margin("binary")(z, labels).sum())(logits)
    np.testing.assert_array_equal(entropy, [[0.0, 0.0]])
    np.testing.assert_array_equal(margin, [[-1.0, 1.0]])


def test_a_nan_logit_stays_visible():
    assert bool(jnp.isnan(objectives.margin("multi-class")(jnp.array([[1.0, jnp.nan, 0.0]]), jnp.array([0])))[0])
    assert bool(jnp.isnan(objectives.margin("multi-label")(jnp.array([[1.0, jnp.nan]]), jnp.array([[0, 0]])))[0])


def test_difference_of_logits_ratio_by_hand():
    logits, labels = jnp.array([[4.0, 1.0, 2.0, 0.0]] * 3), jnp.array([0, 2, 3])
    np.testing.assert_allclose(objectives.dlr("ordinal")(logits, labels), [-2 / 3, 2 / 3, 4 / 3], rtol=1e-6)
    targets = jnp.array([1, 0, 2])
    np.testing.assert_allclose(
        objectives.targeted_dlr("ordinal")(logits, labels, targets), np.array([-3, 2, 2]) / 3.5, rtol=1e-6
    )
    for scaled in (100.0 * logits, logits + 7.0):
        np.testing.assert_allclose(objectives.dlr("ordinal")(scaled, labels), [-2 / 3, 2 / 3, 4 / 3], rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "task"), [(2, "binary"), (2, "multi-class"), (3, "multi-label"), (5, "multi-label")]
)
def test_difference_of_logits_ratio_is_the_margin_where_it_has_no_unit(classes, task):
    logits = jax.random.normal(jax.random.key(0), (9, classes))
    labels = jnp.zeros((9, classes), jnp.int32) if task == "multi-label" else jnp.zeros(9, jnp.int32)
    np.testing.assert_array_equal(objectives.dlr(task)(logits, labels), objectives.margin(task)(logits, labels))


def test_targeted_margin_with_two_and_three_classes_and_many_labels():
    logits, labels = jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0])
    ratio = objectives.targeted_dlr("multi-class")
    np.testing.assert_allclose(ratio(logits, labels, jnp.array([2])), [-1.0])
    np.testing.assert_allclose(ratio(logits[:, :2], labels, jnp.array([1])), [-2.0])
    present = jnp.array([[1, 0, 0]])
    several = objectives.targeted_dlr("multi-label")
    np.testing.assert_allclose([several(logits, present, jnp.array([l]))[0] for l in (0, 1)], [-3.0, 1.0])


@pytest.mark.parametrize("task", ["multi-class", "ordinal"])
@pytest.mark.parametrize("spread", [0.0, 1e-30, 1e-13, 1e-6])
def test_ratios_have_finite_gradients_where_logits_tie(task, spread):
    logits = 1e-7 * jnp.ones((2, 5)) + spread * jnp.arange(5.0)[None]
    labels, targets = jnp.array([0, 3]), jnp.array([1, 1])
    for value in (
        lambda z: objectives.dlr(task)(z, labels).sum(),
        lambda z: objectives.targeted_dlr(task)(z, labels, targets).sum(),
    ):
        assert bool(jnp.isfinite(jax.grad(value)(logits)).all())


def test_likely_targets_are_wrong_answers_and_never_more_than_there_are():
    logits = jnp.array([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
    chosen = objectives.likely_targets(logits, jnp.array([0, 1]), "multi-class", count=9)
    np.testing.assert_array_equal(chosen, [[1, 2], [2, 0]])
    assert objectives.likely_targets(logits[:, :2], jnp.array([0, 1]), "binary", count=9).tolist() == [[1, 0]]
    labels = jnp.array([[1, 0, 0], [1, 1, 1]])
    nearest = objectives.likely_targets(logits, labels, "multi-label", count=2)
    np.testing.assert_array_equal(nearest, [[1, 0], [2, 2]])
    with pytest.raises(ValueError, match="number of targets must be at least 1, got 0"):
        objectives.likely_targets(logits, labels, "multi-label", count=0)


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_unknown_task_is_named(name):
    with pytest.raises(ValueError, match=r"task must be one of .* got 'regression'"):
        objectives.OBJECTIVES[name]("regression")
