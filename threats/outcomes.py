"""What became of a prediction: the decision, whether it is right, changed or broken, and how bad it is.

Every threat shares these definitions, so that "robust", "corrupted" and "silent data corruption" rest on one decision.
A row with a non-finite logit decides nothing: it is never correct, whatever `argmax` would say of it. What outputs and
labels mean in each task is said in `tasks`.
"""

import jax
import jax.numpy as jnp

from threats import tasks
from threats.tasks import Task

TASKS: tuple[str, ...] = tuple(tasks.TASKS)


def check_task(task: Task) -> None:
    """Raises ValueError if `task` is neither one of `TASKS` nor `tasks.Rules`."""
    tasks.rules(task)


def decisions(logits: jax.Array, task: Task) -> jax.Array:
    """What is decided, [b, ...] int32: a class [b], or labels [b, k] of 0 and 1 where the task is multi-label.

    Args:
      logits: [b, k], or what the task takes.
      task: one of `TASKS`, or `tasks.Rules`.
    """
    return tasks.rules(task).decisions(logits)


def finite(logits: jax.Array) -> jax.Array:
    """[b] bool: every logit of the row is finite."""
    return jnp.all(jnp.isfinite(logits), axis=tuple(range(1, logits.ndim)))


def correct(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """[b] bool: the decision is right (every label of it), and no logit of the row is NaN or infinite."""
    return tasks.rules(task).correct(logits, labels) & finite(logits)


def accuracy(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """[b] float32 in [0, 1]: 1 where right, or the share of right labels; 0 where a logit is not finite."""
    return jnp.where(finite(logits), tasks.rules(task).accuracy(logits, labels).astype(jnp.float32), 0.0)


def loss(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """[b] float32: the task's own: cross-entropy, or binary cross-entropy summed over labels in multi-label."""
    return tasks.rules(task).loss(logits, labels).astype(jnp.float32)


def changed(logits: jax.Array, reference: jax.Array, task: Task) -> jax.Array:
    """[b] bool: the decision differs from the fault-free one (silent data corruption); any entry of it counts.

    A row that is no longer finite is not silent: it counts as detected (see `finite`), not as changed.
    """
    differs = decisions(logits, task) != decisions(reference, task)
    return jnp.any(differs, axis=tuple(range(1, differs.ndim))) & finite(logits)


def auc(logits: jax.Array, labels: jax.Array, task: Task) -> jax.Array:
    """Area under the ROC curve, scalar float32: the unweighted mean over classes, one versus the rest; NaN without any.

    In binary tasks that of the second class; classes (or labels) that occur nowhere or everywhere are passed over. Ties
    count half. A row that is not finite ranks as wrong as can be: behind all others where the class is its own, before
    them where it is not. From ranks (Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve", 1982).
    NaN of a task without (`tasks.Rules.ranked`).

    Args:
      logits: [n, k]; below 5,793 rows all sums of ranks are exact in float32.
      labels: [n], or [n, k] where the task is multi-label.
      task: one of `TASKS`.
    """
    ranked = tasks.rules(task).ranked
    if ranked is None:
        return jnp.float32(jnp.nan)
    scores, positive = ranked(logits.astype(jnp.float32), labels)
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
      logits: [b, k], or what the task takes.
      labels: [b], or [b, k] where the task is multi-label.
      reference: fault-free logits, as `logits`.
      valid: [b] bool, the rows that count.
      task: one of `TASKS`, or `tasks.Rules`.
    """
    silent = changed(logits, reference, task).astype(jnp.float32)
    nonfinite = 1.0 - finite(logits).astype(jnp.float32)
    rows = jnp.stack([accuracy(logits, labels, task), loss(logits, labels, task), silent, nonfinite])
    return jnp.sum(jnp.where(valid[None], rows, 0.0), axis=1)
