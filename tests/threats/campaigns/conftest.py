"""A linear classifier with a few hundred bits, so that every fault of it can be tried, and its data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest


class Example(NamedTuple):
    """A model's `apply` with its variables, images and labels."""

    apply: Any
    variables: Any
    images: jax.Array
    labels: jax.Array


def _apply(variables, images, mutable=()):
    params = variables["params"]
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ params["first"]["kernel"])
    entry = variables.get("taps", {}).get("hidden", lambda x: x)
    logits = entry(hidden) @ params["second"]["kernel"] + params["second"]["bias"][None]
    return (logits, {"tap_values": {"hidden": (hidden,)}}) if mutable else logits


@pytest.fixture(scope="session")
def small() -> Example:
    """bfloat16-sized numbers in float32: 4 pixels, 3 hidden values, 2 classes, 12 images; right on 10 of them."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "first": {"kernel": jax.random.normal(keys[0], (4, 3))},
        "second": {"kernel": jax.random.normal(keys[1], (3, 2)), "bias": jnp.asarray([0.1, -0.1])},
    }
    images = jax.random.uniform(keys[2], (12, 2, 2, 1))
    logits = jax.jit(_apply)({"params": params}, images)
    margin = logits[:, 0] - logits[:, 1]
    params["second"]["bias"] = params["second"]["bias"].at[1].add(jnp.median(margin))
    labels = jnp.argmax(jax.jit(_apply)({"params": params}, images), axis=-1).astype(jnp.int32)
    return Example(_apply, {"params": params}, images, labels.at[:2].set(1 - labels[:2]))
