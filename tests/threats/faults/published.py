"""The published progressive bit search, written out plainly: the baseline of the search under test, sharing no code.

Rakin, He, Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search" (2019), section 3.2. In every
layer the bits of the largest |gradient of the loss by the bit|, of those whose flip follows it upwards, are flipped one
by one and evaluated; of all layers the flip with the highest loss is kept. As published, one bit per layer is tried.

The gradient by a bit is the gradient by the weight times the change that the bit makes: a power of two of an integer,
as published, and the difference of the values of a float. NumPy computes all but the network and its gradient.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from threats import outcomes


class Flip(NamedTuple):
    """A flip that was kept, and the model after it and those before it."""

    path: str
    element: int
    bit: int
    accuracy: float
    loss: float


def search(
    apply: Callable[[Any, jax.Array], jax.Array],
    variables: Mapping[str, Any],
    held: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    flips: int,
    per_layer: int = 1,
    task: outcomes.Task = "multi-class",
    scales: Mapping[str, Any] | None = None,
    limit: float | None = None,
) -> list[Flip]:
    """The flips in the order in which they are kept.

    Args:
      apply: (variables, images) -> logits, on float32 variables.
      variables: nested dict of collections, float32.
      held: by path in `params`, the layers that are searched as memory holds them: float32 or int8.
      images, labels, task: what the loss is of.
      flips: how many.
      per_layer: bits of each layer that are evaluated for every flip.
      scales: by path, [channels] of the last axis: of int8, what its codes are multiplied by.
      limit: magnitude that no flip may exceed, NaN and infinities included; by default that of the largest float.
    """
    weights = {path: np.array(array) for path, array in held.items()}
    scales = {path: np.asarray((scales or {}).get(path, np.float32(1))) for path in weights}
    limit = np.finfo(np.float32).max if limit is None else limit
    params = traverse_util.flatten_dict(variables["params"], sep="/")

    def loss(params: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = apply({**variables, "params": traverse_util.unflatten_dict(params, sep="/")}, images)
        right = jnp.mean(outcomes.accuracy(logits, labels, task))
        return jnp.mean(outcomes.loss(logits, labels, task)), right

    evaluate = jax.jit(loss)
    slopes_of = jax.jit(lambda chosen, params: jax.grad(lambda chosen: loss({**params, **chosen})[0])(chosen))
    found: list[Flip] = []
    for _ in range(flips):
        params |= {path: _decoded(array, scales[path]) for path, array in weights.items()}
        slopes = slopes_of({path: params[path] for path in weights}, params)
        tried = []
        for path, array in weights.items():
            taken = [(flip.element, flip.bit) for flip in found if flip.path == path]
            for element, bit in _best(array, scales[path], np.asarray(slopes[path]), taken, per_layer, limit):
                faulty = _decoded(_flipped(array, element, bit), scales[path])
                high, right = map(float, evaluate({**params, path: faulty}))
                tried.append(Flip(path, element, bit, right, high))
        worst = max(tried, key=lambda flip: np.inf if np.isnan(flip.loss) else flip.loss)
        weights[worst.path] = _flipped(weights[worst.path], worst.element, worst.bit)
        found.append(worst)
    return found


def needed(accuracies: Any, below: float) -> int:
    """How many flips until the accuracy falls below; one more than there are if it never does."""
    reached = np.flatnonzero(np.asarray(accuracies) < below)
    return int(reached[0]) + 1 if reached.size else len(accuracies) + 1


def _best(
    array: np.ndarray, scale: np.ndarray, slopes: np.ndarray, taken: list[tuple[int, int]], count: int, limit: float
) -> list[tuple[int, int]]:
    """(element, bit) of the largest gains of one layer."""
    now, width = _decoded(array, scale), 8 * array.dtype.itemsize
    gains = np.empty((width, array.size))
    for bit in range(width):
        with np.errstate(over="ignore", invalid="ignore"):
            after = _decoded(_every_flipped(array, bit), scale)
            gain = np.nan_to_num(slopes).astype(np.float64) * (after.astype(np.float64) - now)
        gains[bit] = np.where(np.abs(after) <= limit, gain, -np.inf).reshape(-1)
    for element, bit in taken:
        gains[bit, element] = -np.inf
    order = np.argpartition(-gains, min(count, gains.size) - 1, axis=None)[:count]
    found = [np.unravel_index(place, gains.shape) for place in order if gains.flat[place] > -np.inf]
    return [(int(element), int(bit)) for bit, element in found]


def _decoded(array: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) * scale


def _every_flipped(array: np.ndarray, bit: int) -> np.ndarray:
    view = array.view(f"u{array.dtype.itemsize}")
    return (view ^ view.dtype.type(1 << bit)).view(array.dtype)


def _flipped(array: np.ndarray, element: int, bit: int) -> np.ndarray:
    one = _every_flipped(array, bit).flat[element]
    changed = array.copy()
    changed.flat[element] = one
    return changed
