"""Elementwise functions against NumPy in float64, and what XLA makes of them."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax.models import elementwise

_X = np.concatenate([np.linspace(-80, 80, 40_001), np.random.default_rng(0).normal(size=10_000)]).astype(np.float32)


def test_softplus_has_the_accuracy_of_float32():
    y = np.asarray(jax.jit(elementwise.softplus)(_X), np.float64)
    np.testing.assert_allclose(y, np.logaddexp(_X.astype(np.float64), 0.0), rtol=3e-7)


def test_silu_has_the_accuracy_of_float32():
    x = _X.astype(np.float64)
    np.testing.assert_allclose(jax.jit(elementwise.silu)(_X), x / (1 + np.exp(-x)), rtol=3e-7)


@pytest.mark.parametrize("name", ["softplus", "silu"])
def test_first_and_second_derivatives(name):
    x = np.linspace(-8, 8, 33)
    p = 1 / (1 + np.exp(-x))
    slopes = {"softplus": (p, p * (1 - p)), "silu": (p + x * p * (1 - p), p * (1 - p) * (2 + x * (1 - 2 * p)))}
    first = jax.grad(getattr(elementwise, name))
    np.testing.assert_allclose(jax.vmap(first)(x.astype(np.float32)), slopes[name][0], atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(first))(x.astype(np.float32)), slopes[name][1], atol=1e-6)


def test_values_that_faults_leave():
    x = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 3e38, -3e38])
    np.testing.assert_array_equal(elementwise.softplus(x), [np.inf, 0, np.nan, np.float32(3e38), 0])
    np.testing.assert_array_equal(elementwise.silu(x), [np.inf, np.nan, np.nan, np.float32(3e38), 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_dtype_stays(dtype):
    x = jnp.ones((3,), dtype)
    assert {f(x).dtype.name for f in (elementwise.softplus, elementwise.silu, elementwise.once)} == {dtype}


def test_once_is_the_identity_and_so_is_its_derivative():
    x = jnp.array([0.0, -0.0, 1e-37, 3.4e38, -jnp.inf, jnp.inf, 0.1, jnp.nan])
    same = np.asarray(jax.jit(elementwise.once)(x))
    assert same[:-1].tobytes() == np.asarray(x)[:-1].tobytes()
    assert np.isnan(same[-1])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(elementwise.once(x) * x))(x[:4]), 2 * x[:4])


def test_what_is_read_by_many_is_computed_once():
    """The suite compiles without optimisation; this is what users get."""
    program = """
import jax, jax.numpy as jnp
from mamba_jax.models import elementwise, ssm
def products():
    layer, x = ssm.SS2D(d_state=4), jnp.ones((16, 6, 6, 32))
    variables = layer.init(jax.random.key(0), x)
    return jax.jit(lambda x: layer.apply(variables, x)).lower(x).compile().as_text().count(" multiply(")
found = products()
elementwise.silu, elementwise.once = jax.nn.silu, lambda x: x
plain = products()
assert found < 0.7 * plain, (found, plain)
"""
    flags = {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **flags}, check=True)
