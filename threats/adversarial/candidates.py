"""The images an attack tries: which may be attacked, how two compare, and what is handed back.

Every attack keeps, per image, the best candidate it saw, where an image that succeeded beats any that did not and the
objective decides between equals. So a success is never lost to a later step, and the loss of an image is never below
the clean one unless the decision changed at a lower loss. A non-finite output is never robust: it counts as a success
and outranks a finite one.

    best = nothing(images)
    best = better(best, tried, judge(objective, task, targeted, apply(variables, tried), labels))  # for each one
    return result(best, targeted)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import outcomes
from threats.adversarial import objectives

Apply = Callable[[Any, jax.Array], jax.Array]


class AttackResult(NamedTuple):
    """What an attack found. Success and loss are those of the returned images.

    images: [b, ...] in [0, 1] and within epsilon of the clean ones.
    success: [b] bool; the decision is not the label (targeted: it is the target), or a logit is not finite.
    loss: [b] float32; the objective at `labels`. NaN where the model's own output makes it so.
    """

    images: jax.Array
    success: jax.Array
    loss: jax.Array


class Score(NamedTuple):
    """How good a candidate is, to the attacker: by level, then by value.

    level: [b] int32; 0 robust, 1 and 2 successes of rising rank, -1 no candidate yet.
    value: [b] float32; the objective, negated where the attack is targeted.
    """

    level: jax.Array
    value: jax.Array


class Best(NamedTuple):
    """Per image, the best candidate so far. images: [b, ...]."""

    images: jax.Array
    score: Score


def judge(
    objective: objectives.Objective, task: outcomes.Task, targeted: bool, logits: jax.Array, labels: jax.Array
) -> Score:
    """The score of candidates by their outputs; a broken output ranks above a wrong one, and below a reached target.

    Raises:
      ValueError: if the objective does not return one value per image.
    """
    value = check_value("objective", objective(logits, labels), labels)
    reached, broken = outcomes.correct(logits, labels, task), ~outcomes.finite(logits)
    if targeted:
        return Score(jnp.where(reached, 2, jnp.where(broken, 1, 0)), -value)
    return Score(jnp.where(broken, 2, jnp.where(reached, 0, 1)), value)


def nothing(images: jax.Array) -> Best:
    """No candidate yet; any candidate beats it."""
    count = images.shape[0]
    return Best(images, Score(jnp.full(count, -1, jnp.int32), jnp.full(count, -jnp.inf, jnp.float32)))


def better(best: Best, images: jax.Array, score: Score) -> Best:
    """Per image, the candidate if it beats the best so far; a NaN value loses within its level."""
    new, old = (jnp.where(jnp.isnan(s.value), -jnp.inf, s.value) for s in (score, best.score))
    wins = (score.level > best.score.level) | ((score.level == best.score.level) & (new > old))
    return choose(wins, Best(images, score), best)


def choose(where: jax.Array, yes: Any, no: Any) -> Any:
    """Per image, one of two. where: [b] bool; yes, no: pytrees of [b, ...]."""

    def of_leaf(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(where.reshape(where.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(of_leaf, yes, no)


def result(best: Best, targeted: bool) -> AttackResult:
    """What the attack returns."""
    return AttackResult(best.images, best.score.level > 0, -best.score.value if targeted else best.score.value)


def check_value(name: str, value: jax.Array, labels: jax.Array) -> jax.Array:
    """The value as float32; raises ValueError, naming what made it, if it is not one number per image."""
    if value.shape != labels.shape[:1]:
        raise ValueError(f"{name} must return one value per image, {labels.shape[:1]}, got {value.shape}")
    return value.astype(jnp.float32)


def check_images(images: jax.Array) -> None:
    """Raises ValueError if images are not floats or, where their values are known (outside jit), leave [0, 1]."""
    if images.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"images must be float32 in [0, 1], got {images.dtype}; divide 8-bit images by 255")
    if not isinstance(images, jax.core.Tracer) and images.size:
        values = np.asarray(images)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(
                f"images must be in [0, 1], got values in [{low}, {high}]; normalise inside apply, "
                "so that epsilon means pixels"
            )


def check_sizes(**sizes: float | jax.Array | None) -> None:
    """Raises ValueError, naming it, if a size is negative or NaN where its value is known (outside jit)."""
    for name, value in sizes.items():
        if value is not None and not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) >= 0):
            raise ValueError(f"{name} must be 0 or more, got {value}")


def check_runs(steps: int, restarts: int, random_start: bool, key: jax.Array | None) -> None:
    """Raises ValueError, naming it, if an option of an attack of several steps from several starts is out of range."""
    for name, value in (("steps", steps), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without random_start, as all would be the same, got {restarts}")
    if random_start and key is None:
        raise ValueError("key must be a jax.random.key with random_start=True, got None")
