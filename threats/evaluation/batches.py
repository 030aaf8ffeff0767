"""An attack on any number of images: in batches of one shape, compiled once, whatever the radius."""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import adversarial, outcomes
from threats.adversarial import norms

_PIXELS_AT_ONCE = 128 * 28 * 28


class Problem(NamedTuple):
    """What is attacked.

    apply: (variables, images) -> logits. variables: its parameters. images: [n, h, w, c] in [0, 1]. labels: [n, ...] as
    the task takes them. task: one of `outcomes.TASKS`, or `tasks.Rules`. images_at_once: in a batch.
    """

    apply: Callable[..., jax.Array]
    variables: Any
    images: np.ndarray
    labels: np.ndarray
    task: outcomes.Task
    images_at_once: int

    @property
    def count(self) -> int:
        return len(self.images)


class Broken(NamedTuple):
    """Of n images: success [n] bool, and distance [n] of what was found from the clean image, in the attack's norm."""

    success: np.ndarray
    distance: np.ndarray


def problem(
    apply: Callable[..., jax.Array],
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    task: outcomes.Task,
    images_at_once: int | None,
) -> Problem:
    """The arguments, checked.

    Raises:
      ValueError: no images, not as many labels, or a batch size below 1.
    """
    outcomes.check_task(task)
    images, labels = np.asarray(images), np.asarray(labels)
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"images and labels must be equally many and not none, got {len(images)} and {len(labels)}")
    if images_at_once is not None and images_at_once < 1:
        raise ValueError(f"images_at_once must be at least 1, got {images_at_once}")
    default = max(1, _PIXELS_AT_ONCE // max(1, int(np.prod(images.shape[1:3]))))
    return Problem(apply, variables, images, labels, task, even_size(len(images), images_at_once or default))


def even_size(count: int, most: int) -> int:
    """The smallest size of which as few batches hold `count` images as of `most`: little of the last one is padding.

    Example:
      >>> even_size(300, 256)
      150
    """
    return -(-count // -(-count // most))


def compiled(
    given: Problem, attack: adversarial.Attack, options: Mapping[str, Any]
) -> Callable[[jax.Array, float], Broken]:
    """`(key, epsilon) -> Broken`: the attack on all images, compiled at the first call and not again.

    Each batch's key is folded by its number.
    """
    length = norms.get_norm(attack.norm).length

    @jax.jit
    def run(variables, images, labels, key, epsilon):
        found = attack.fn(given.apply, variables, images, labels, key=key, epsilon=epsilon, task=given.task, **options)
        return found.success, length(found.images - images)

    def attacked(key: jax.Array, epsilon: float) -> Broken:
        return Broken(*in_batches(given, functools.partial(_with_key, run, given.variables, key, epsilon)))

    return attacked


def _with_key(run, variables, key, epsilon, number, images, labels):
    return run(variables, images, labels, jax.random.fold_in(key, number), jnp.float32(epsilon))


def in_batches(given: Problem, function: Callable[[int, jax.Array, jax.Array], Any]) -> Any:
    """`function(number of the batch, images, labels)`, b of each, over all images, its arrays [b, ...] as [n, ...].

    The last batch is filled up with copies of the last image.
    """
    size, made = given.images_at_once, []
    for number, start in enumerate(range(0, given.count, size)):
        rows = np.minimum(np.arange(start, start + size), given.count - 1)
        found = function(number, jnp.asarray(given.images[rows]), jnp.asarray(given.labels[rows]))
        valid = min(size, given.count - start)
        made.append(jax.tree.map(lambda x, valid=valid: np.asarray(x)[:valid], found))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *made)


def key_for(key: jax.Array, *names: str | float) -> jax.Array:
    """The key folded by names, so that no two attacks or radii share draws."""
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(repr(name).encode()))
    return key
