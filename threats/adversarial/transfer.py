"""Transfer between models: images made on one model, tried on all of them.

How often an attack on a model nobody sees succeeds, when the attacker has another: Papernot, McDaniel and Goodfellow,
"Transferability in Machine Learning: from Phenomena to Black-Box Attacks using Adversarial Samples", 2016. Rates are
among the images that both models get right, so that they say something of the attack and not of the models' accuracy.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import draws, outcomes, statistics
from threats.adversarial import candidates, minimal


class TransferResult(NamedTuple):
    """Of m models and b images; batches are joined along the last axis.

    right: [m, b] bool; model j gets the clean image right (targeted: does not say the target), with finite logits.
    success: [m, m, b] bool; model j gets the image made on model i wrong (targeted: says the target), or its output is
      not finite.
    """

    right: jax.Array
    success: jax.Array


def evaluate(
    attack: Callable[..., candidates.AttackResult],
    applies: Sequence[candidates.Apply],
    variables: Sequence[Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array | None = None,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    **options: Any,
) -> TransferResult:
    """Attacks every model and evaluates all of them on what comes out.

    Costs m attacks and m * (m + 1) forward passes. To be jitted by the caller, with attack and applies bound.

    Args:
      attack: called as the entries of `ATTACKS` are, e.g. `ATTACKS["pgd"].fn`.
      applies: m functions `(variables, images) -> logits`, of one task and one image shape.
      variables: the m models' parameters, in that order.
      images: [b, ...] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the models should say, or, targeted,
        should be made to say.
      key: consumed; model i draws from it and from i. None will do for attacks that draw nothing.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the models say `labels`.
      **options: of the attack; epsilon is one.

    Returns:
      TransferResult.

    Raises:
      ValueError: if there are not as many variables as applies, or none.
    """
    if not applies or len(applies) != len(variables):
        raise ValueError(f"applies and variables must be as many, at least 1, got {len(applies)} and {len(variables)}")

    def wrong(x):
        judged = (apply(own, x) for apply, own in zip(applies, variables, strict=True))
        return jnp.stack([minimal.fooled(logits, labels, task=task, targeted=targeted) for logits in judged])

    made = []
    for index, (apply, own) in enumerate(zip(applies, variables, strict=True)):
        drawn = None if key is None else draws.fold(key, index)
        made.append(attack(apply, own, images, labels, key=drawn, task=task, targeted=targeted, **options).images)
    return TransferResult(~wrong(images), jnp.stack([wrong(x) for x in made]))


def rates(result: TransferResult, *, confidence: float = 0.95) -> list[list[statistics.Interval]]:
    """Success rates with Wilson's intervals; on the host.

    Args:
      result: of any number of images, joined along the last axis.
      confidence: in (0, 1).

    Returns:
      `rates[i][j]`, of images made on model i and tried on model j, among those that both get right: how many these are
      is the interval's count. The diagonal is the white-box rate.
    """
    right, success = np.asarray(result.right, bool), np.asarray(result.success, bool)

    def rate(i, j):
        both = right[i] & right[j]
        return statistics.wilson(int((success[i, j] & both).sum()), int(both.sum()), confidence=confidence)

    return [[rate(i, j) for j in range(len(right))] for i in range(len(right))]
