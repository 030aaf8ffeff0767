"""The search against the published progressive bit search: ours needs no more flips to ruin a trained network."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets

from threats import faults, outcomes
from threats.faults import injection, slots


class _Net(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(images))
        x = nn.relu(nn.Dense(24)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


@pytest.fixture(scope="module")
def trained():
    """Right on nearly all of 200 handwritten digits of 8 x 8 pixels."""
    digits = sklearn.datasets.load_digits()
    images = jnp.asarray(digits.images[:1000, :, :, None] / 16, jnp.float32)
    labels = jnp.asarray(digits.target[:1000], jnp.int32)
    variables = _Net().init(jax.random.key(0), images[:1])
    optimiser = optax.sgd(0.1, momentum=0.9)

    def step(state, _):
        variables, moments = state
        gradients = jax.grad(lambda v: jnp.mean(outcomes.loss(_Net().apply(v, images), labels, "multi-class")))(
            variables
        )
        updates, moments = optimiser.update(gradients, moments)
        return (optax.apply_updates(variables, updates), moments), None

    start = (variables, optimiser.init(variables))
    (variables, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=150))(start)
    return variables, images[:200], labels[:200]


def _published(
    apply: Any, variables: Any, images: Any, labels: Any, *, flips: int, per_layer: int, limit: float
) -> list[float]:
    """Accuracy after each flip of Rakin, He, Fan (2019), section 3.2, by NumPy but for the network and its gradient.

    In every layer the bits of the largest |gradient of the loss by the bit|, of those whose flip follows it upwards,
    are flipped one by one and evaluated; the flip of the layer that loses most is kept. The gradient by a bit is the
    gradient by the weight times the change that the bit makes: a power of two of an integer, as published, and the
    difference of the values of a float, of which flips to NaN, infinity and beyond `limit` are left out.
    """
    table = faults.weight_sites(variables, include="*/kernel")
    decode = apply.decode if isinstance(apply, faults.StoredApply) else dict
    model = apply.apply if isinstance(apply, faults.StoredApply) else apply

    @jax.jit
    def slopes_of(variables):
        loss = lambda plain: jnp.mean(outcomes.loss(model(plain, images), labels, "multi-class"))  # noqa: E731
        return jax.grad(loss)(decode(variables))

    @jax.jit
    def evaluate(variables):
        logits = apply(variables, images)
        right = jnp.mean(outcomes.accuracy(logits, labels, "multi-class"))
        return right, jnp.mean(outcomes.loss(logits, labels, "multi-class"))

    def leaves(tree):
        return {i: np.asarray(x) for i, x in injection.leaves_of(tree, table, range(len(table))).items()}

    accuracies, taken = [], set()
    for _ in range(flips):
        slopes, now = leaves(slopes_of(variables)), leaves(decode(variables))
        tried = []
        for index, held in leaves(variables).items():
            gain = np.full((table[index].width, held.size), -np.inf)
            for bit in range(table[index].width):
                mask = np.asarray(faults.mask(bit, held.dtype))
                view = (held.view(mask.dtype) ^ mask).view(held.dtype)
                flipped = leaves(decode(injection.replaced(variables, table, {index: jnp.asarray(view)})))[index]
                with np.errstate(over="ignore", invalid="ignore"):
                    change = slopes[index].astype(np.float64) * (flipped.astype(np.float64) - now[index])
                gain[bit] = np.where(np.abs(flipped) <= limit, change, -np.inf).reshape(-1)
            ranked = (np.unravel_index(place, gain.shape) for place in np.argsort(-gain.reshape(-1)))
            free = (f for f in ((index, int(element), int(bit)) for bit, element in ranked) if f not in taken)
            tried += itertools.islice(free, per_layer)
        results = []
        for found in tried:
            faulty = faults.inject(variables, table, slots.Faults(*(jnp.asarray([x], jnp.int32) for x in found)))
            right, loss = map(float, evaluate(faulty))
            results.append((right, -np.nan_to_num(loss, nan=np.inf), found, faulty))
        right, _, found, variables = min(results, key=lambda result: result[:2])
        taken.add(found)
        accuracies.append(right)
    return accuracies


def _needed(accuracies: Any, below: float) -> int:
    reached = np.flatnonzero(np.asarray(accuracies) < below)
    return int(reached[0]) + 1 if reached.size else len(accuracies) + 1


@pytest.mark.parametrize(
    ("number_format", "limit", "flips"), [("int8", None, 5), ("float32", None, 2), ("float32", 1.0, 5)]
)
def test_no_more_flips_than_the_published_search(trained, number_format, limit, flips):
    variables, images, labels = trained
    apply, stored = faults.apply_stored(_Net().apply), faults.store(variables, number_format)
    clean = np.mean(outcomes.accuracy(jax.jit(apply)(stored, images), labels, "multi-class"))
    assert clean > 0.95
    table = faults.weight_sites(stored, include="*/kernel")
    per_layer = 5
    options = {"limit": limit or float(jnp.finfo(jnp.float32).max), "per_layer": per_layer}
    published = _published(apply, stored, images, labels, flips=flips, **options)
    options = {"candidates": per_layer * len(table), "largest_magnitude": limit}
    find = functools.partial(faults.worst_case, apply, table=table, flips=flips, **options)
    ours = jax.jit(find)(stored, images, labels).accuracy
    below = 0.1 + 0.1  # ten classes, and ten points
    assert _needed(ours, below) <= _needed(published, below) <= flips
