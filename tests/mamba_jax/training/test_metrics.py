"""Metrics against medmnist's evaluator, scikit-learn and hand-counted cases."""

import contextlib
import io
import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from mamba_jax.training import metrics

with contextlib.redirect_stdout(io.StringIO()):
    from medmnist import evaluator

MEDMNIST_TASK = {
    "multi-class": "multi-class",
    "ordinal": "ordinal-regression",
    "binary": "binary-class",
    "multi-label": "multi-label, binary-class",
}


def _case(task, n=97, ties=False, seed=0):
    rng = np.random.default_rng(seed)
    k = {"multi-class": 5, "ordinal": 4, "binary": 2, "multi-label": 6}[task]
    logits = rng.normal(size=(n, k)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    labels = rng.integers(0, 2, (n, k)) if task == "multi-label" else rng.permutation(np.arange(n) % k)
    return logits, labels.astype(np.int32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("task", MEDMNIST_TASK)
def test_accuracy_and_auc_are_the_evaluators(task, ties):
    logits, labels = _case(task, ties=ties)
    scores = metrics.probabilities(logits, task)
    found = metrics.evaluate_scores(logits, labels, task)
    shaped = labels if task == "multi-label" else labels[:, None]
    assert found["accuracy"] == pytest.approx(evaluator.getACC(shaped, scores, MEDMNIST_TASK[task]), abs=1e-9)
    assert found["auc"] == pytest.approx(evaluator.getAUC(shaped, scores, MEDMNIST_TASK[task]), abs=1e-9)
    assert found["nonfinite"] == 0.0


@pytest.mark.parametrize("task", MEDMNIST_TASK)
def test_extreme_logits_agree_with_the_evaluator(task):
    logits, labels = _case(task, seed=3)
    logits[::3] *= 1e4
    logits[1::3] = 0.0  # equal scores: class 0 in multi-class, not above one half in the others
    scores = metrics.probabilities(logits, task)
    shaped = labels if task == "multi-label" else labels[:, None]
    found = metrics.evaluate_scores(logits, labels, task)
    assert found["accuracy"] == pytest.approx(evaluator.getACC(shaped, scores, MEDMNIST_TASK[task]), abs=1e-9)
    assert found["auc"] == pytest.approx(evaluator.getAUC(shaped, scores, MEDMNIST_TASK[task]), abs=1e-9)


def test_an_absent_class_gives_nan_auc_as_the_evaluator_does():
    logits, labels = _case("multi-class")
    labels[labels == 4] = 0
    scores = metrics.probabilities(logits, "multi-class")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = evaluator.getAUC(labels, scores, "multi-class")
    assert math.isnan(reference)
    found = metrics.evaluate_scores(logits, labels, "multi-class")
    assert math.isnan(found["auc"])
    assert found["accuracy"] == pytest.approx(evaluator.getACC(labels, scores, "multi-class"), abs=1e-9)


def test_one_row_is_enough_for_accuracy():
    found = metrics.evaluate_scores(np.array([[0.0, 2.0]]), np.array([1]), "binary")
    assert found["accuracy"] == 1.0
    assert math.isnan(found["auc"])


@pytest.mark.parametrize("task", MEDMNIST_TASK)
def test_balanced_accuracy_is_scikit_learns(task):
    logits, labels = _case(task, seed=1)
    decided = (logits > 0).astype(int) if task == "multi-label" else logits.argmax(axis=1)
    pairs = zip(labels.T, decided.T, strict=True) if task == "multi-label" else [(labels, decided)]
    expected = np.mean([sklearn.metrics.balanced_accuracy_score(a, b) for a, b in pairs])
    assert metrics.evaluate_scores(logits, labels, task)["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", MEDMNIST_TASK)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_wrong_and_leaves_no_auc(task, bad):
    logits, labels = _case(task)
    right = 10.0 * (2 * labels - 1) if task == "multi-label" else 10.0 * np.eye(logits.shape[1])[labels]
    assert metrics.evaluate_scores(right, labels, task)["accuracy"] == 1.0
    broken = right.copy()
    broken[7, 0] = bad
    found = metrics.evaluate_scores(broken, labels, task)
    n = len(labels)
    assert found["accuracy"] == pytest.approx((n - 1) / n)
    assert found["balanced_accuracy"] < 1.0
    assert found["nonfinite"] == pytest.approx(1 / n)
    assert math.isnan(found["auc"])
    assert math.isnan(found["ece"])
    per_image = metrics.correct_per_image(broken, labels, task)
    assert per_image[7] == 0.0
    assert per_image.sum() == n - 1


def test_calibration_error_counted_by_hand():
    # Ten rows of confidence 0.8, seven of them right; ten of 0.6, nine right: (10 |0.7 - 0.8| + 10 |0.9 - 0.6|) / 20.
    scores = np.array([[0.2, 0.8]] * 10 + [[0.4, 0.6]] * 10)
    labels = np.array([1] * 7 + [0] * 3 + [1] * 9 + [0])
    found = metrics.evaluate_scores(np.log(scores), labels, "binary")
    assert found["ece"] == pytest.approx(0.2, abs=1e-12)


def test_calibration_error_of_labels_takes_each_as_a_decision():
    scores = np.array([[0.9, 0.1], [0.9, 0.1]])
    logits = np.log(scores / (1 - scores))
    assert metrics.evaluate_scores(logits, np.array([[1, 0], [1, 1]]), "multi-label")["ece"] == pytest.approx(0.15)


def test_scores_take_any_float_dtype_and_sum_to_one():
    logits = jnp.array([[1.0, 2.0, 3.0]], jnp.bfloat16)
    scores = metrics.probabilities(logits, "ordinal")
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(metrics.probabilities(logits, "multi-label"), 1 / (1 + np.exp([[-1.0, -2.0, -3.0]])))


@pytest.mark.parametrize(
    ("logits", "labels", "task", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2), "multiclass", "task must be one of"),
        (np.zeros(3), np.zeros(3), "multi-class", r"logits must be \[n, k\]"),
        (np.zeros((0, 3)), np.zeros(0), "multi-class", "at least one row"),
        (np.zeros((2, 3)), np.zeros(3), "multi-class", r"labels must be \[2\]"),
        (np.zeros((2, 3)), np.zeros(2), "multi-label", r"labels must be \[2, 3\]"),
        (np.zeros((2, 3)), np.zeros(2), "binary", "needs 2 logits"),
    ],
)
def test_bad_input_is_named(logits, labels, task, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate_scores(logits, labels, task)
