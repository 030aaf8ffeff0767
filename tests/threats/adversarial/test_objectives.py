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


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_unknown_task_is_named(name):
    with pytest.raises(ValueError, match=r"task must be one of .* got 'regression'"):
        objectives.OBJECTIVES[name]("regression")
