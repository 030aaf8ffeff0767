"""The search against the published progressive bit search: ours needs no more flips to ruin a trained network."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets

from mamba_jax import models
from tests.threats.faults import published
from threats import faults, outcomes
from threats.faults import sites

BELOW = 0.1 + 0.1  # ten classes, and ten points


class Trained(NamedTuple):
    """A network that is right on nearly all of these images [n, 8, 8, 1], and its weights."""

    apply: Any
    variables: Any
    images: jax.Array
    labels: jax.Array


class _Net(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(images))
        x = nn.relu(nn.Dense(24)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def _digits(first: int, last: int) -> tuple[jax.Array, jax.Array]:
    """Handwritten digits of 8 x 8 pixels."""
    found = sklearn.datasets.load_digits()
    images = jnp.asarray(found.images[first:last, :, :, None] / 16, jnp.float32)
    return images, jnp.asarray(found.target[first:last], jnp.int32)


@pytest.fixture(scope="module")
def network():
    """A convolution and two dense layers."""
    images, labels = _digits(0, 1000)
    optimiser = optax.sgd(0.1, momentum=0.9)

    def step(state, _):
        variables, moments = state
        gradients = jax.grad(lambda v: jnp.mean(outcomes.loss(_Net().apply(v, images), labels, "multi-class")))(
            variables
        )
        updates, moments = optimiser.update(gradients, moments)
        return (optax.apply_updates(variables, updates), moments), None

    variables = _Net().init(jax.random.key(0), images[:1])
    start = (variables, optimiser.init(variables))
    (variables, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=150))(start)
    return Trained(_Net().apply, variables, images[:200], labels[:200])


@pytest.fixture(scope="module")
def medmamba():
    """MedMamba of two blocks, evaluated on digits it was not trained on."""
    images, labels = _digits(0, 1400)
    size = {"depths": (1, 1, 0, 0), "dims": (8, 16, 32, 64), "d_state": 4, "patch_size": 1, "drop_path_rate": 0.0}
    model = models.create_model("medmamba", num_classes=10, image_size=8, in_channels=1, **size)
    variables, optimiser = model.init(jax.random.key(0)), optax.adamw(1e-2)

    def step(state, number):
        variables, moments = state
        batch = [jax.lax.dynamic_slice_in_dim(rows, number * 100 % 1300, 100) for rows in (images, labels)]

        def loss(params):
            given = {**variables, "params": params}
            logits, changed = model.apply(given, batch[0], train=True, mutable=["batch_stats"])
            return jnp.mean(outcomes.loss(logits, batch[1], "multi-class")), changed

        gradients, changed = jax.grad(loss, has_aux=True)(variables["params"])
        updates, moments = optimiser.update(gradients, moments, variables["params"])
        return ({**variables, **changed, "params": optax.apply_updates(variables["params"], updates)}, moments), None

    start = (variables, optimiser.init(variables["params"]))
    with jax.numpy_dtype_promotion("standard"):  # Optax counts its steps in integers
        (variables, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(150)))(start)
    return Trained(model.apply, variables, *_digits(1400, 1528))


def _needed(given: Trained, number_format: str, limit: float | None, flips: int, per_layer: int) -> tuple[int, int]:
    """Flips that the search and the published procedure need, evaluating as many bits, among the same layers."""
    in_int8 = faults.store(given.variables, "int8")
    layers = tuple(site.path for site in faults.weight_sites(in_int8) if site.dtype == "int8")
    stored, apply = faults.store(given.variables, number_format), faults.apply_stored(given.apply)
    clean = outcomes.accuracy(jax.jit(apply)(stored, given.images), given.labels, "multi-class")
    assert np.mean(clean) > 0.85
    held = {path: array for path, array in sites.leaves_by_path(stored["params"]).items() if path in layers}
    scales = sites.leaves_by_path(in_int8["scales"]) if number_format == "int8" else None
    data = given.images, given.labels
    options = {"flips": flips, "per_layer": per_layer, "scales": scales, "limit": limit}
    theirs = published.search(given.apply, given.variables, held, *data, **options)
    table = faults.weight_sites(stored, include=layers)
    options = {"flips": flips, "candidates": per_layer * len(table), "largest_magnitude": limit}
    ours = jax.jit(lambda v: faults.worst_case(apply, v, *data, table, **options))(stored)
    return published.needed(ours.accuracy, BELOW), published.needed([flip.accuracy for flip in theirs], BELOW)


@pytest.mark.parametrize(
    ("number_format", "limit", "flips"), [("int8", None, 5), ("float32", None, 2), ("float32", 1.0, 5)]
)
def test_no_more_flips_than_the_published_search(network, number_format, limit, flips):
    ours, theirs = _needed(network, number_format, limit, flips, per_layer=5)
    assert ours <= theirs <= flips


@pytest.mark.parametrize(("number_format", "flips"), [("int8", 4), ("float32", 2)])
def test_no_more_flips_on_medmamba(medmamba, number_format, flips):
    """float32 with values no larger than the largest weight: without a limit, one exponent bit does it."""
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(medmamba.variables["params"]))
    limit = largest if number_format == "float32" else None
    ours, theirs = _needed(medmamba, number_format, limit, flips, per_layer=1)
    assert ours <= theirs
    assert ours <= flips
