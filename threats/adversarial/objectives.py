"""What an attacker maximises: a number per image, high where the model is badly wrong.

An objective is a function `(logits, labels) -> [b]`. An attack receives it as an argument and never looks at the
logits' shape itself. The factories below make one for each task, by name or by `tasks.Rules` of your own:

    cross_entropy: the task's loss: -log p_y, or the sum over labels of binary cross-entropies
    margin:        the largest of the task's gaps: max_{i != y} z_i - z_y, or max_l -s_l z_l, s_l = +-1
    dlr:           the margin divided by z_(1) - z_(3), the largest logit less the third largest

The margin is positive exactly where the decision is wrong (ties aside), has no saturated regions, where softmax
rounds to 0 and 1 and the cross-entropy has no usable gradient, and works from two classes on (Carlini and Wagner,
"Towards Evaluating the Robustness of Neural Networks", 2017, f_6). The difference of logits ratio does not change
when all logits are scaled or shifted (Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble
of Diverse Parameter-free Attacks", 2020, equation 6; its targeted form, equation 7).

A targeted objective, `(logits, labels, targets) -> [b]`, is high where the model says `targets` rather than `labels`;
`likely_targets` proposes some.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from threats import outcomes, tasks

Objective = Callable[[jax.Array, jax.Array], jax.Array]
TargetedObjective = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy(task: outcomes.Task) -> Objective:
    """The task's own loss, `outcomes.loss`: what attacks maximise unless told otherwise.

    Args:
      task: one of `outcomes.TASKS`, or `tasks.Rules`.

    Returns:
      `(logits, labels) -> [b] float32`.

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
      task: one of `outcomes.TASKS`, or `tasks.Rules`.

    Returns:
      `(logits, labels) -> [b] float32`: max_{i != y} z_i - z_y; in multi-label, the value of the label that
      is nearest to turning wrong (or most wrong). -inf if there is one class only.

    Raises:
      ValueError: if the task is unknown.

    Example:
      >>> float(margin("multi-class")(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0]))[0])
      -1.0
    """
    gaps = tasks.rules(task).gaps
    return lambda logits, labels: jnp.max(gaps(logits, labels), axis=-1)


def dlr(task: outcomes.Task) -> Objective:
    """Difference of logits ratio: the margin in units of z_(1) - z_(3).

    It is the margin itself where there is no such unit: with fewer than three classes, where outputs are not one logit
    per class, and in rows whose three largest logits are the same.

    Args:
      task: one of `outcomes.TASKS`, or `tasks.Rules`.

    Returns:
      `(logits [b, k], labels) -> [b] float32`: in [-1, 1] where the label is among the two largest, above elsewhere.

    Raises:
      ValueError: if the task is unknown.

    Example:
      >>> float(dlr("multi-class")(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0]))[0])
      -0.5
    """
    plain, exclusive = margin(task), tasks.rules(task).exclusive

    def ratio(logits, labels):
        value = plain(logits, labels)
        if not exclusive or logits.shape[-1] < 3:
            return value
        largest = jax.lax.top_k(logits.astype(jnp.float32), 3)[0]
        return _over(value, largest[:, 0] - largest[:, 2])

    return ratio


def targeted_dlr(task: outcomes.Task) -> TargetedObjective:
    """Difference of logits ratio of a target: (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2).

    It is the margin of the target, z_t - z_y, with fewer than four classes and in rows whose four largest logits are
    the same; in multi-label that of turning label t, -s_t z_t.

    Args:
      task: one of `outcomes.TASKS`, or `tasks.Rules`.

    Returns:
      `(logits [b, k], labels, targets [b] int32) -> [b] float32`.

    Raises:
      ValueError: if the task is unknown.

    Example:
      >>> float(targeted_dlr("ordinal")(jnp.array([[3.0, 1.0, 2.0, 0.0]]), jnp.array([0]), jnp.array([2]))[0])
      -0.4000000059604645
    """
    rules = tasks.rules(task)

    def ratio(logits, labels, targets):
        if not rules.exclusive:
            return _at(rules.gaps(logits, labels), targets)
        logits = logits.astype(jnp.float32)
        value = _at(logits, targets) - _at(logits, labels)
        if logits.shape[-1] < 4:
            return value
        largest = jax.lax.top_k(logits, 4)[0]
        return _over(value, largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2)

    return ratio


def likely_targets(logits: jax.Array, labels: jax.Array, task: outcomes.Task, *, count: int) -> jax.Array:
    """The wrong answers that the model finds most likely.

    Args:
      logits: [b, k].
      labels: [b], or [b, k] where the task is multi-label.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      count: how many, at least 1; never more than there are.

    Returns:
      [t, b] int32, most likely first: classes other than the label, t = min(count, k - 1); in multi-label, the labels
      nearest to turning wrong, t = min(count, k).

    Raises:
      ValueError: if the task is unknown or count below 1.

    Example:
      >>> likely_targets(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0]), "multi-class", count=9).tolist()
      [[2], [1]]
    """
    rules = tasks.rules(task)
    if count < 1:
        raise ValueError(f"the number of targets must be at least 1, got {count}")
    gaps = rules.gaps(logits, labels)
    return jax.lax.top_k(gaps, min(count, gaps.shape[1] - rules.exclusive))[1].T


OBJECTIVES: dict[str, Callable[[outcomes.Task], Objective]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}


def _at(values: jax.Array, places: jax.Array) -> jax.Array:
    """[b]: each row's value at its place."""
    return jnp.take_along_axis(values, places[:, None].astype(jnp.int32), axis=-1)[:, 0]


def _over(value: jax.Array, unit: jax.Array) -> jax.Array:
    # The constant that the authors' code adds to the unit; its square, which the derivative divides by, is a number.
    return value / jnp.where(unit <= 1e-12, 1.0, unit)
