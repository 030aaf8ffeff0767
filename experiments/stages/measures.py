"""Logits and labels to measured numbers with intervals: what every stage says of a set of images.

Right or wrong per image gives Wilson's interval, a share of right labels per image (multi-label) Student's, and a
statistic of the whole set (AUC, balanced accuracy, calibration error) the bootstrap's.
"""

import functools

import jax.numpy as jnp
import numpy as np

from mamba_jax.training import metrics as scores
from threats import outcomes, statistics

WHOLE_SET = ("auc", "balanced_accuracy", "ece")


def accuracy(logits: np.ndarray, labels: np.ndarray, task: str) -> dict[str, statistics.Interval]:
    """`accuracy`, and where the task is multi-label also `exact_match`, the share of images with every label right.

    Args:
      logits: [n, k]; a row that is not finite is never right.
      labels: [n] or [n, k].
      task: one of `outcomes.TASKS`; in multi-label, accuracy is the share of right labels.
    """
    right = np.asarray(outcomes.correct(jnp.asarray(logits), jnp.asarray(labels), task))
    exact = statistics.wilson(int(right.sum()), len(right))
    if task != "multi-label":
        return {"accuracy": exact}
    shares = np.asarray(outcomes.accuracy(jnp.asarray(logits), jnp.asarray(labels), task))
    return {"accuracy": statistics.mean(shares, bounds=(0.0, 1.0)), "exact_match": exact}


def nonfinite(logits: np.ndarray) -> statistics.Interval:
    """The share of images with a NaN or infinite logit."""
    finite = np.isfinite(logits).all(axis=-1)
    return statistics.wilson(int((~finite).sum()), len(finite))


def whole_set(
    logits: np.ndarray, labels: np.ndarray, task: str, *, metrics: tuple[str, ...], seed: int
) -> dict[str, statistics.Interval]:
    """Scores of the set as a whole, with bootstrap intervals over images.

    Args:
      logits: [n, k].
      labels: [n] or [n, k].
      task: one of `outcomes.TASKS`.
      metrics: of `WHOLE_SET`.
      seed: of the resampling: 1,000 resamples, fewer of large sets, whose intervals are narrow and slow to compute.
    """
    replicates = int(np.clip(4_000_000 // len(logits), 200, 1000))
    return {
        name: statistics.bootstrap(
            functools.partial(_score, name, task), logits, labels, seed=seed, replicates=replicates
        )
        for name in metrics
    }


def majority(labels: np.ndarray, task: str) -> float:
    """Accuracy of always giving the most frequent answer: the level that says nothing of the image."""
    if task == "multi-label":
        return float(np.maximum(labels.mean(axis=0), 1 - labels.mean(axis=0)).mean())
    return float(np.bincount(labels).max() / len(labels))


def _score(name: str, task: str, logits: np.ndarray, labels: np.ndarray) -> float:
    if name == "auc":
        return scores.auc(scores.probabilities(logits, task), labels, task)
    return scores.evaluate_scores(logits, labels, task)[name]
