"""A tiny Linen model that implements the tap protocol itself, with data."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from threats.faults import formats


class Example(NamedTuple):
    """A model's `apply` with its variables, images and labels."""

    apply: Any
    variables: Any
    images: jax.Array
    labels: jax.Array


def _tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    if module.has_variable("taps", name):
        x = module.get_variable("taps", name)(x)
    if module.is_mutable_collection("tap_values"):
        module.sow("tap_values", name, x)
    return x


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        decay = self.param("decay", nn.initializers.ones, (x.shape[-1],))
        hidden = _tap(self, "hidden", nn.tanh(nn.Dense(6)(x)))
        return x * decay[None, None, None] + nn.Dense(x.shape[-1])(hidden)


class _Tiny(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = _tap(self, "stem_out", nn.Conv(4, (3, 3), strides=2, name="stem")(images))
        x = nn.BatchNorm(use_running_average=True, name="norm")(_Block(name="block")(x))
        return nn.Dense(3, name="head")(jnp.mean(x, axis=(1, 2)))


@pytest.fixture(scope="session")
def tiny() -> Example:
    """float32, 10 images of 6 x 6 pixels in 3 classes, labelled so that the model is right on most of them."""
    key = jax.random.key(0)
    images = jax.random.uniform(key, (10, 6, 6, 1))
    model = _Tiny()
    variables = model.init(jax.random.key(1), images[:1])
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    kernel = 20.0 * variables["params"]["head"]["kernel"]
    centre = jnp.mean(jax.jit(model.apply)(variables, images), axis=0)
    head = {"kernel": kernel, "bias": -20.0 * centre}
    variables["params"] = {**variables["params"], "head": head}
    labels = jnp.argmax(jax.jit(model.apply)(variables, images), axis=-1).at[:2].set(0)
    return Example(model.apply, variables, images, labels)


@pytest.fixture(scope="session")
def tiny_bfloat16(tiny: Example) -> Example:
    """The same model with its variables held in bfloat16 and computed in float32."""
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny.variables)

    def apply(variables, images, **options):
        wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, variables)
        return tiny.apply(wide, images, **options)

    return tiny._replace(apply=apply, variables=variables)


@pytest.fixture(scope="session")
def tiny_int8(tiny: Example) -> Example:
    """The same model with its kernels held in int8."""
    return tiny._replace(apply=formats.apply_stored(tiny.apply), variables=formats.store(tiny.variables, "int8"))


@pytest.fixture(scope="session")
def tiny_float8(tiny: Example) -> Example:
    """The same model with its parameters held in float8_e4m3fn."""
    variables = formats.store(tiny.variables, "float8_e4m3fn")
    return tiny._replace(apply=formats.apply_stored(tiny.apply), variables=variables)
