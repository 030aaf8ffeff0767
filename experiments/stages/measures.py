"""Logits and labels to measured numbers with intervals: what every stage says of a set of images.

Right or wrong per image gives Wilson's interval, a share of right labels per image (multi-label) Student's, and a
statistic of the whole set the bootstrap's: percentiles for AUC and balanced accuracy, the basic one for the calibration
error, which noise makes larger.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from numpy import typing as npt

from mamba_jax.training import metrics as scores
from threats import outcomes, statistics

WHOLE_SET = ("auc", "balanced_accuracy", "ece")


def of_images(shares: npt.ArrayLike) -> statistics.Interval:
    """The mean over independent images: Wilson's interval if each is 0 or 1, Student's cut to [0, 1] if not.

    Args:
      shares: [n] in [0, 1], such as right or wrong, a share of right labels, or a mean over an image's random draws.
    """
    shares = np.asarray(shares, np.float64)
    if np.all((shares == 0) | (shares == 1)):
        return statistics.wilson(int(shares.sum()), len(shares))
    return statistics.mean(shares, bounds=(0.0, 1.0))


def accuracy(logits: np.ndarray, labels: np.ndarray, task: str) -> dict[str, statistics.Interval]:
    """`accuracy`, and where the task is multi-label also `exact_match`, the share of images with every label right.

    Args:
      logits: [n, k]; a row that is not finite is never right.
      labels: [n] or [n, k].
      task: one of `outcomes.TASKS`; in multi-label, accuracy is the share of right labels.
    """
    exact = of_images(outcomes.correct(jnp.asarray(logits), jnp.asarray(labels), task))
    if task != "multi-label":
        return {"accuracy": exact}
    shares = outcomes.accuracy(jnp.asarray(logits), jnp.asarray(labels), task)
    return {"accuracy": of_images(shares), "exact_match": exact}


def recall(decided: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, statistics.Interval]:
    """`recall/A`, the share of class A that is decided rightly.

    The intervals are Wilson's, over the images of class A. Classes without an image are left out. In multi-label it is
    the share of images with label A for which it is given.

    Args:
      decided: [n] classes, or [n, k] labels in multi-label; -1 is neither.
      labels: [n] or [n, k].
      names: of the k classes.
    """
    members = {name: (labels == a if labels.ndim == 1 else labels[:, a] == 1) for a, name in enumerate(names)}
    hits = {name: (decided == a if labels.ndim == 1 else decided[:, a] == 1) for a, name in enumerate(names)}
    return {f"recall/{name}": _share(hits[name], members[name]) for name in names if members[name].any()}


def by_class(decided: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, statistics.Interval]:
    """`recall/A` as `recall`, and `confusion/A > B`, the share of class A that is decided as B.

    In multi-label there is no confusion. Arguments as of `recall`.
    """
    found = recall(decided, labels, names)
    for a in (a for a in range(len(names)) if labels.ndim == 1 and (labels == a).any()):
        pairs = {b: f"confusion/{names[a]} > {names[b]}" for b in range(len(names))}
        found |= {pair: _share(decided == b, labels == a) for b, pair in pairs.items()}
    return found


def _share(hits: np.ndarray, among: np.ndarray) -> statistics.Interval:
    return statistics.wilson(int((hits & among).sum()), int(among.sum()))


def nonfinite(logits: np.ndarray) -> statistics.Interval:
    """The share of images with a NaN or infinite logit."""
    return of_images(~np.isfinite(logits).all(axis=-1))


def whole_set(
    logits: np.ndarray, labels: np.ndarray, task: str, *, metrics: tuple[str, ...], seed: int
) -> dict[str, statistics.Interval]:
    """Scores of the set as a whole, with bootstrap intervals over images.

    Args:
      logits: [n, k], or [d, n, k] of d random draws on the same images, over which scores are averaged.
      labels: [n] or [n, k].
      task: one of `outcomes.TASKS`.
      metrics: of `WHOLE_SET`.
      seed: of the resampling: 1,000 resamples, fewer of large sets, whose intervals are narrow and slow to compute.
    """
    draws = logits[None] if logits.ndim == 2 else logits
    replicates = int(np.clip(4_000_000 // (len(draws) * len(labels)), 200, 1000))

    def score(name: str, by_image: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean([_score(name, task, by_image[:, draw], labels) for draw in range(len(draws))]))

    return {
        name: statistics.bootstrap(
            functools.partial(score, name),
            np.swapaxes(draws, 0, 1),
            labels,
            seed=seed,
            replicates=replicates,
            method="basic" if name == "ece" else "percentile",
            bounds=(0.0, 1.0),
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
