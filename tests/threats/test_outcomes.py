"""What a prediction means: decisions, correctness and losses of all four tasks, and that NaN is never right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mamba_jax.training import metrics
from threats import outcomes

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, -2.0, -2.5]])
CLASSES = jnp.array([0, 0, 1])
PRESENT = jnp.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]])


def test_decisions_and_accuracy_by_class():
    for task in ("multi-class", "ordinal", "binary"):
        np.testing.assert_array_equal(outcomes.decisions(LOGITS, task), [0, 2, 1])
        np.testing.assert_array_equal(outcomes.correct(LOGITS, CLASSES, task), [True, False, True])
        np.testing.assert_array_equal(outcomes.accuracy(LOGITS, CLASSES, task), [1.0, 0.0, 1.0])


def test_multi_label_counts_an_image_right_only_when_every_label_is():
    np.testing.assert_array_equal(outcomes.decisions(LOGITS, "multi-label"), [[1, 0, 1], [1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(outcomes.correct(LOGITS, PRESENT, "multi-label"), [True, False, False])
    np.testing.assert_allclose(outcomes.accuracy(LOGITS, PRESENT, "multi-label"), [1.0, 2 / 3, 2 / 3], rtol=1e-6)


def test_losses_against_scipy():
    z = np.asarray(LOGITS, np.float64)
    expected = -scipy.special.log_softmax(z, axis=-1)[np.arange(3), np.asarray(CLASSES)]
    np.testing.assert_allclose(outcomes.loss(LOGITS, CLASSES, "multi-class"), expected, rtol=1e-6)
    present = np.asarray(PRESENT)
    expected = -np.where(present, scipy.special.log_expit(z), scipy.special.log_expit(-z)).sum(axis=-1)
    np.testing.assert_allclose(outcomes.loss(LOGITS, PRESENT, "multi-label"), expected, rtol=1e-6)


def test_losses_stay_finite_and_differentiable_where_the_model_is_certain():
    for task, labels in (("multi-class", jnp.array([1])), ("multi-label", jnp.array([[0, 1, 1]]))):
        value, gradient = jax.value_and_grad(lambda z, y=labels, t=task: outcomes.loss(z, y, t).sum())(
            jnp.array([[1e4, -1e4, 0.0]])
        )
        assert bool(jnp.isfinite(value))
        assert float(value) >= 1e4
        assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("task", outcomes.TASKS)
def test_a_non_finite_row_is_never_right_and_the_others_are_untouched(task, value):
    labels = outcomes.decisions(LOGITS, task)
    for column in range(3):
        broken = LOGITS.at[1, column].set(value)
        agreeing = labels.at[1].set(outcomes.decisions(broken, task)[1])
        np.testing.assert_array_equal(outcomes.correct(broken, agreeing, task), [True, False, True])
        np.testing.assert_array_equal(outcomes.accuracy(broken, agreeing, task), [1.0, 0.0, 1.0])
        np.testing.assert_array_equal(outcomes.finite(broken), [True, False, True])


@pytest.mark.parametrize("task", outcomes.TASKS)
def test_changed_is_silent_corruption_only(task):
    reference = LOGITS
    faulty = LOGITS.at[0].set(-LOGITS[0]).at[1, 0].set(jnp.nan)
    np.testing.assert_array_equal(outcomes.changed(faulty, reference, task), [True, False, False])


def test_unknown_task_lists_the_known_ones():
    message = "task must be one of .*'multi-class', 'binary', 'ordinal', 'multi-label'.*, got 'multilabel'"
    for call in (
        lambda: outcomes.check_task("multilabel"),
        lambda: outcomes.decisions(LOGITS, "multilabel"),
        lambda: outcomes.loss(LOGITS, CLASSES, "multilabel"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("task", outcomes.TASKS)
def test_auc_is_that_of_the_evaluator(task):
    rng = np.random.default_rng(0)
    classes = 2 if task == "binary" else 4
    logits = rng.normal(size=(300, classes)).astype(np.float32)
    logits[:50] = logits[50:100]  # ties
    labels = rng.integers(0, 2, (300, classes)) if task == "multi-label" else rng.integers(0, classes, 300)
    ours = jax.jit(outcomes.auc, static_argnums=2)(jnp.asarray(logits), jnp.asarray(labels), task)
    np.testing.assert_allclose(ours, metrics.auc(metrics.probabilities(logits, task), labels, task), rtol=1e-6)


def test_auc_of_rows_that_are_not_finite_and_of_absent_classes():
    logits = jnp.asarray([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    labels = jnp.asarray([0, 0, 1, 1])
    assert outcomes.auc(logits, labels, "binary") == 1.0
    assert outcomes.auc(logits.at[3, 0].set(jnp.nan), labels, "binary") == 0.5
    assert outcomes.auc(logits.at[0, 1].set(jnp.inf), labels, "binary") == 0.5
    assert outcomes.auc(jnp.full_like(logits, jnp.nan), labels, "binary") == 0.0
    assert jnp.isnan(outcomes.auc(logits, jnp.zeros_like(labels), "binary"))
    three = jnp.concatenate([logits, jnp.zeros((4, 1))], axis=1)
    assert outcomes.auc(three, labels, "multi-class") == 1.0
