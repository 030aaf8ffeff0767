"""How good a classifier's outputs are, as medmnist's own evaluator counts it, in NumPy float64.

Accuracy and AUC equal `medmnist.evaluator.getACC` and `getAUC` (Yang et al., "MedMNIST v2", Scientific Data, 2023):

  * multi-class, ordinal: the largest score decides; AUC is the unweighted mean of one-versus-rest AUCs.
  * binary: the second score decides, where it is strictly above 1/2; AUC is that of the second score.
  * multi-label: every score decides where it is strictly above 1/2; accuracy and AUC are means over the labels.

A row with a NaN or infinite logit has no score. It counts as wrong, whatever `argmax` would say of it, and what needs a
score of every row (AUC, calibration error) is NaN where one is missing, as AUC is where a class is absent.
"""

import numpy as np
import scipy.special
import scipy.stats

from mamba_jax.data import dataset

_BINS = 15


def evaluate_scores(logits: np.ndarray, labels: np.ndarray, task: str) -> dict[str, float]:
    """Every metric of a split.

    * accuracy, auc: see above.
    * balanced_accuracy: mean recall over the classes that occur; in multi-label, the mean of that over labels.
    * ece: expected calibration error, sum_m |B_m|/n |acc(B_m) - conf(B_m)| over 15 bins of equal width of the
      confidence, which is the largest score (Guo et al., "On Calibration of Modern Neural Networks", 2017, Eq. 3); in
      multi-label every label is a decision of its own with confidence max(p, 1 - p).
    * nonfinite: share of rows with a NaN or infinite logit.

    Args:
      logits: [n, k], any float dtype.
      labels: [n] class numbers, or [n, k] 0/1 where the task is multi-label.
      task: one of "multi-class", "binary", "ordinal", "multi-label".

    Raises:
      ValueError: the task is unknown, or the shapes do not belong together.
    """
    logits, labels = _checked(logits, labels, task)
    scores = probabilities(logits, task)
    finite = _finite(logits)
    return {
        "accuracy": float(np.mean(correct_per_image(logits, labels, task))),
        "auc": auc(scores, labels, task),
        "balanced_accuracy": _balanced_accuracy(scores, labels, task, finite),
        "ece": _calibration_error(scores, labels, task) if np.all(finite) else float("nan"),
        "nonfinite": float(1.0 - np.mean(finite)),
    }


def probabilities(logits: np.ndarray, task: str) -> np.ndarray:
    """Scores [n, k] float64: sigmoids in multi-label, softmax otherwise; NaN in rows that are not finite.

    Args:
      logits: [n, k], any float dtype.
      task: as in `evaluate_scores`.
    """
    _check_task(task)
    logits = np.asarray(logits).astype(np.float64)
    finite = _finite(logits)[:, None]
    safe = np.where(finite, logits, 0.0)
    scores = scipy.special.expit(safe) if task == "multi-label" else scipy.special.softmax(safe, axis=-1)
    return np.where(finite, scores, np.nan)


def correct_per_image(logits: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
    """[n] float64, of which accuracy is the mean: 1 or 0, or the share of right labels; 0 in rows that are not finite.

    Args:
      logits, labels, task: as in `evaluate_scores`.
    """
    logits, labels = _checked(logits, labels, task)
    right = (_decisions(probabilities(logits, task), task) == labels).astype(np.float64)
    right = right.mean(axis=-1) if task == "multi-label" else right
    return np.where(_finite(logits), right, 0.0)


def auc(scores: np.ndarray, labels: np.ndarray, task: str) -> float:
    """Area under the ROC curve, as medmnist averages it, from ranks: quick enough to bootstrap.

    With the rank r of a score (ties share their mean), and n1 positives among n: AUC = (sum of the positives' r -
    n1 (n1 + 1) / 2) / (n1 (n - n1)), the Mann-Whitney statistic (Hanley and McNeil, "The meaning and use of the area
    under a ROC curve", 1982).

    Args:
      scores: [n, k]; only their order within a column matters.
      labels, task: as in `evaluate_scores`.

    Returns:
      NaN where a class (or a value of a label) is absent, or a score is not finite.
    """
    scores, labels = _checked(scores, labels, task)
    if not np.all(np.isfinite(scores)):
        return float("nan")
    positive = labels == 1 if task == "multi-label" else labels[:, None] == np.arange(scores.shape[1])
    if task == "binary":
        scores, positive = scores[:, -1:], positive[:, -1:]
    ranks = scipy.stats.rankdata(scores, axis=0)
    count = np.sum(positive, axis=0).astype(np.float64)
    pairs = count * (len(scores) - count)
    wins = np.sum(ranks * positive, axis=0) - count * (count + 1.0) / 2.0
    return float(np.mean(np.divide(wins, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)))


def _decisions(scores: np.ndarray, task: str) -> np.ndarray:
    if task == "multi-label":
        return (scores > 0.5).astype(np.int64)
    if task == "binary":
        return (scores[:, -1] > 0.5).astype(np.int64)
    return np.argmax(scores, axis=-1)


def _balanced_accuracy(scores: np.ndarray, labels: np.ndarray, task: str, finite: np.ndarray) -> float:
    right = _decisions(scores, task) == labels
    if task != "multi-label":
        return _mean_recall(right & finite, labels)
    right = right & finite[:, None]
    return float(np.mean([_mean_recall(right[:, j], labels[:, j]) for j in range(labels.shape[1])]))


def _mean_recall(right: np.ndarray, labels: np.ndarray) -> float:
    count = np.bincount(labels)
    hits = np.bincount(labels, weights=right.astype(np.float64))
    return float(np.mean(hits[count > 0] / count[count > 0]))


def _calibration_error(scores: np.ndarray, labels: np.ndarray, task: str) -> float:
    confidence = np.maximum(scores, 1.0 - scores).ravel() if task == "multi-label" else scores.max(axis=-1)
    right = (_decisions(scores, task) == labels).ravel()
    # Bins are (m/15, (m+1)/15], as in the paper.
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_BINS)
    return float(np.sum(np.abs(gaps)) / len(right))


def _finite(logits: np.ndarray) -> np.ndarray:
    return np.all(np.isfinite(logits), axis=-1)


def _check_task(task: str) -> None:
    if task not in dataset.TASKS:
        raise ValueError(f"task must be one of {dataset.TASKS}, got {task!r}")


def _checked(logits: np.ndarray, labels: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
    _check_task(task)
    logits, labels = np.asarray(logits).astype(np.float64), np.asarray(labels).astype(np.int64)
    if logits.ndim != 2 or not len(logits):
        raise ValueError(f"logits must be [n, k] with at least one row, got {list(logits.shape)}")
    expected = logits.shape if task == "multi-label" else logits.shape[:1]
    if labels.shape != expected:
        raise ValueError(f"labels must be {list(expected)} for task {task!r}, got {list(labels.shape)}")
    if task == "binary" and logits.shape[1] != 2:
        raise ValueError(f"task 'binary' needs 2 logits per row, got {logits.shape[1]}")
    return logits, labels
