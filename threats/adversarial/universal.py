"""Universal perturbations: one perturbation that changes the decision on most images of a set.

    maximise over d, ||d|| <= epsilon:    sum_i min(objective(f(clip(x_i + d)), y_i), cap)

by projected ascent over minibatches, d <- P(d + step * s(mean gradient)). The problem is that of Moosavi-Dezfooli et
al., "Universal adversarial perturbations", 2017; the method is not theirs (DeepFool image by image) but the gradient
one of Shafahi, Najibi, Xu, Dickerson, Davis and Goldstein, "Universal Adversarial Training", 2020, section 3: the loss
of each image is capped, so that none that is badly wrong already decides where d goes. s is that of `norms`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy import typing as npt

from threats import convolutions, outcomes, statistics
from threats.adversarial import candidates, minimal, norms, objectives


class UniversalResult(NamedTuple):
    """What was found. perturbation: [...], one image's shape; fooled: [n] bool, by image, as of `fooled`."""

    perturbation: jax.Array
    fooled: jax.Array


def attack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    epsilon: float | jax.Array,
    norm: str = "linf",
    epochs: int = 10,
    batch_size: int = 32,
    step_size: float | jax.Array | None = None,
    cap: float = 9.0,
    task: outcomes.Task = "multi-class",
    objective: objectives.Objective | None = None,
) -> UniversalResult:
    """One perturbation for all images: the last iterate of an ascent from zero.

    Costs `epochs` gradients per image and two forward passes. To be jitted by the caller; everything but the shapes,
    norm, epochs, batch_size, task and objective may change without recompiling. A NaN in an image's gradient counts as
    zero.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [n, ...] float32 in [0, 1].
      labels: [n] int32, [n, k] 0/1 in multi-label, or the task's own: what the model should say.
      key: consumed; orders the images of each epoch.
      epsilon: scalar radius in the images' unit.
      norm: a name in `norms.NORMS`.
      epochs: passes over the images, at least 1.
      batch_size: images of one step, at least 1; a last batch that is not full counts with what it has.
      step_size: in the images' unit, scalar. None: epsilon / 10.
      cap: largest objective of an image that still moves the perturbation.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      objective: `(logits, labels) -> [b]`, maximised. None: `objectives.cross_entropy(task)`.

    Returns:
      UniversalResult; the perturbation is within epsilon, and images are clipped to [0, 1] after it is added.

    Raises:
      ValueError: if a count is below 1, a name is unknown, or, where its value is known, an image leaves [0, 1].

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> images, labels = jnp.array([[0.6, 0.4], [0.7, 0.3]]), jnp.array([0, 0])
      >>> attack(linear, jnp.eye(2), images, labels, key=jax.random.key(0), epsilon=0.15).fooled.tolist()
      [True, False]
    """
    minimal.check(images, epochs=epochs, batch_size=batch_size)
    ball, objective = norms.get_norm(norm), objective or objectives.cross_entropy(task)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    step = epsilon / 10 if step_size is None else step_size
    count, size = images.shape[0], min(batch_size, images.shape[0])
    places = jnp.arange(-(-count // size) * size).reshape(-1, size)

    def total(shifts, batch, wanted, counts):
        values = objective(apply(variables, jnp.clip(batch + shifts, 0.0, 1.0)), wanted)
        return jnp.sum(jnp.where(counts, jnp.minimum(values, cap), 0.0))

    slopes_of = convolutions.in_loops(jax.grad(total))

    def climb(shift, drawn):
        rows, counts = drawn
        batch = images[rows]
        slopes = slopes_of(jnp.broadcast_to(shift, batch.shape), batch, labels[rows], counts)
        slope = jnp.sum(jnp.where(jnp.isnan(slopes), 0.0, slopes), axis=0, keepdims=True)
        return _project(shift + step * ball.steepest(slope), epsilon, norm), None

    def epoch(shift, number):
        order = jax.random.permutation(jax.random.fold_in(key, number), count)
        return jax.lax.scan(climb, shift, (order[places % count], places < count))[0], None

    shift, _ = jax.lax.scan(epoch, jnp.zeros_like(images[:1]), jnp.arange(epochs))
    return UniversalResult(shift[0], fooled(apply, variables, images, shift[0], batch_size=batch_size, task=task))


def fooled(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    perturbation: jax.Array,
    *,
    batch_size: int = 32,
    task: outcomes.Task = "multi-class",
) -> jax.Array:
    """Which images the perturbation fools: the decision is not that of the clean image, whether that was right or not.

    A non-finite output counts as fooled. (Moosavi-Dezfooli et al. 2017, section 2.) To be jitted by the caller.

    Args:
      apply, variables, task: as in `attack`.
      images: [n, ...] float32 in [0, 1], such as the perturbation has not seen.
      perturbation: [...], added to every image before clipping to [0, 1].
      batch_size: images evaluated at once.

    Returns:
      [n] bool.
    """

    def judge(image):
        moved = jnp.clip(image + perturbation[None], 0.0, 1.0)
        logits = apply(variables, moved)
        return outcomes.changed(logits, apply(variables, image), task) | ~outcomes.finite(logits)

    return _in_batches(judge, images, min(batch_size, images.shape[0]))


def fooling_rate(fooled: npt.ArrayLike, *, confidence: float = 0.95) -> statistics.Interval:
    """Share of images fooled with Wilson's interval; on the host. fooled: [n] bool of all batches together."""
    fooled = np.asarray(fooled, bool)
    return statistics.wilson(int(fooled.sum()), fooled.size, confidence=confidence)


def _in_batches(function: Callable[[jax.Array], jax.Array], images: jax.Array, size: int) -> jax.Array:
    images, count = jnp.asarray(images), images.shape[0]
    places = jnp.arange(-(-count // size) * size).reshape(-1, size)
    return jax.lax.map(lambda rows: function(images[rows % count]), places).reshape(-1)[:count]


def _project(shift: jax.Array, epsilon: float | jax.Array, norm: str) -> jax.Array:
    """Into the ball around zero; `norms` also clips to [0, 1], where a perturbation does not live."""
    if norm == "linf":
        return jnp.clip(shift, -epsilon, epsilon)
    length = norms.get_norm(norm).length(shift)
    return shift * norms.per_image(
        jnp.where(length > epsilon, epsilon / jnp.where(length > 0, length, 1.0), 1.0), shift
    )
