"""What a model's output means, per task: the decision, whether it is right, and the loss.

Every threat shares these definitions, so that "robust", "corrupted" and "silent data corruption" rest on one decision.
A row with a non-finite logit decides nothing: it is never correct, whatever `argmax` would say of it.

Tasks: `multi-class`, `binary` (two logits) and `ordinal` (one logit per grade) take integer labels [b] and decide by
the largest logit; `multi-label` takes 0/1 labels [b, k] and decides each label by the sign of its logit.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Task = Literal["multi-class", "binary", "ordinal", "multi-label"]
TASKS: tuple[str, ...] = get_args(Task)


def check_task(task: str) -> None:
    """Raises ValueError if `task` is not one of `TASKS`."""
    if task not in TASKS:
        raise ValueError(f"task must be one of {TASKS}, got {task!r}")


def decisions(logits: jax.Array, task: Task) -> jax.Array:
    """Decided class [b] int32, or decided labels [b, k] int32 where the task is multi-label.

    Args:
      logits: [b, k].
      task: one of `TASKS`.
    """
    check_task(task)
    if task == "multi-label":
        return (logits > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def finite(logits: jax.Array) -> jax.Array:
    """[b] bool: every logit of the row is finite."""
    return jnp.all(jnp.isfinite(logits), axis=tuple(range(1, logits.ndim)))


def correct(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """[b] bool: the decision is right (every label of it), and no logit of the row is NaN or infinite."""
    right = decisions(logits, task) == labels.astype(jnp.int32)
    if task == "multi-label":
        right = jnp.all(right, axis=-1)
    return right & finite(logits)


def accuracy(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """[b] float32 in [0, 1]: 1 where right, or the share of right labels; 0 where a logit is not finite."""
    right = (decisions(logits, task) == labels.astype(jnp.int32)).astype(jnp.float32)
    if task == "multi-label":
        right = jnp.mean(right, axis=-1)
    return jnp.where(finite(logits), right, 0.0)


def loss(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """[b] float32: cross-entropy, or binary cross-entropy summed over the labels where the task is multi-label."""
    check_task(task)
    logits = logits.astype(jnp.float32)
    if task == "multi-label":
        signs = 2.0 * labels.astype(jnp.float32) - 1.0
        return jnp.sum(jax.nn.softplus(-signs * logits), axis=-1)
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, labels[:, None].astype(jnp.int32), axis=-1)[:, 0]


def changed(logits: jax.Array, reference: jax.Array, task: Task) -> jax.Array:
    """[b] bool: the decision differs from the fault-free one (silent data corruption); any label of it counts.

    A row that is no longer finite is not silent: it counts as detected (see `finite`), not as changed.
    """
    differs = decisions(logits, task) != decisions(reference, task)
    if task == "multi-label":
        differs = jnp.any(differs, axis=-1)
    return differs & finite(logits)


def auc(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """Area under the ROC curve, scalar float32: the unweighted mean over classes, one versus the rest; NaN without any.

    In binary tasks that of the second class; classes (or labels) that occur nowhere or everywhere are passed over. Ties
    count half. A row that is not finite ranks as wrong as can be: behind all others where the class is its own, before
    them where it is not. From ranks (Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve", 1982).

    Args:
      logits: [n, k]; below 5,793 rows all sums of ranks are exact in float32.
      labels: [n], or [n, k] where the task is multi-label.
      task: one of `TASKS`.
    """
    check_task(task)
    logits = logits.astype(jnp.float32)
    if task == "multi-label":
        scores, positive = logits, labels.astype(bool)
    else:
        scores = jax.nn.softmax(logits, axis=-1)
        positive = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    if task == "binary":
        scores, positive = scores[:, 1:], positive[:, 1:]
    worst = jnp.where(positive, -jnp.inf, jnp.inf)
    return jnp.nanmean(jax.vmap(_area, 1)(jnp.where(finite(logits)[:, None], scores, worst), positive))


def _area(scores: jax.Array, positive: jax.Array) -> jax.Array:
    """scores, positive: [n]."""
    ordered = jnp.sort(scores)
    ranks = jnp.searchsorted(ordered, scores, side="left") + jnp.searchsorted(ordered, scores, side="right")
    ones = jnp.sum(positive).astype(jnp.float32)
    zeros = scores.shape[0] - ones
    total = jnp.sum(jnp.where(positive, ranks + 1, 0).astype(jnp.float32)) / 2
    return jnp.where((ones > 0) & (zeros > 0), (total - ones * (ones + 1) / 2) / (ones * zeros), jnp.nan)


def sums(logits: jax.Array, labels: jax.Array, reference: jax.Array, valid: jax.Array, task: Task) -> jax.Array:
    """[4] float32: accuracy, loss, silent data corruption and non-finite rows, each summed over the valid rows.

    Args:
      logits: [b, k].
      labels: [b], or [b, k] where the task is multi-label.
      reference: [b, k] fault-free logits.
      valid: [b] bool, the rows that count.
      task: one of `TASKS`.
    """
    silent = changed(logits, reference, task).astype(jnp.float32)
    nonfinite = 1.0 - finite(logits).astype(jnp.float32)
    rows = jnp.stack([accuracy(logits, labels, task), loss(logits, labels, task), silent, nonfinite])
    return jnp.sum(jnp.where(valid[None], rows, 0.0), axis=1)
