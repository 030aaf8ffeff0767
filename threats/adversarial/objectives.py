"""What an attacker maximises: a number per image, high where the model is badly wrong.

An objective is a function `(logits, labels) -> [b]`. An attack receives it as an argument and never looks at the
logits' shape itself. The factories below make one for each task:

    cross_entropy: -log p_y, or the sum over labels of binary cross-entropies where the task is multi-label
    margin:        max_{i != y} z_i - z_y, or max_l -s_l z_l with s_l = +-1 for present and absent labels

The margin is positive exactly where the decision is wrong (ties aside), has no saturated regions, where softmax
rounds to 0 and 1 and the cross-entropy has no usable gradient, and works from two classes on (Carlini and Wagner,
"Towards Evaluating the Robustness of Neural Networks", 2017, f_6).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from threats import outcomes

Objective = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(task: outcomes.Task) -> Objective:
    """The task's own loss, `outcomes.loss`: what attacks maximise unless told otherwise.

    Args:
      task: one of `outcomes.TASKS`.

    Returns:
      `(logits [b, k], labels) -> [b] float32`.

    Raises:
      ValueError: if the task is unknown.

    Example:
      >>> float(cross_entropy("binary")(jnp.array([[0.0, 0.0]]), jnp.array([1]))[0])  # log 2
      0.6931471824645996
    """
    outcomes.check_task(task)
    return lambda logits, labels: outcomes.loss(logits, labels, task)


def margin(task: outcomes.Task) -> Objective:
    """By how much the strongest wrong answer beats the right one.

    Args:
      task: one of `outcomes.TASKS`.

    Returns:
      `(logits [b, k], labels) -> [b] float32`: max_{i != y} z_i - z_y; in multi-label, the value of the label that
      is nearest to turning wrong (or most wrong). -inf if there is one class only.

    Raises:
      ValueError: if the task is unknown.

    Example:
      >>> float(margin("multi-class")(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0]))[0])
      -1.0
    """
    outcomes.check_task(task)
    return _label_margin if task == "multi-label" else _class_margin


OBJECTIVES: dict[str, Callable[[outcomes.Task], Objective]] = {"cross_entropy": cross_entropy, "margin": margin}


def _class_margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    logits = logits.astype(jnp.float32)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    best_other = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return best_other - jnp.take_along_axis(logits, labels[:, None].astype(jnp.int32), axis=-1)[:, 0]


def _label_margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    signs = 2.0 * labels.astype(jnp.float32) - 1.0
    return jnp.max(-signs * logits.astype(jnp.float32), axis=-1)
