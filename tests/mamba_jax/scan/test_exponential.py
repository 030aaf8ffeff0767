import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mamba_jax.scan import exponential


def test_powers_of_two_against_float64():
    drawn = np.random.default_rng(0).normal(size=100_000)
    t = np.concatenate([np.linspace(-126, 128, 400_001)[:-1], np.arange(-126, 128), drawn]).astype(np.float32)
    y = np.asarray(jax.jit(exponential.exp2)(t), np.float64)
    np.testing.assert_allclose(y, np.exp2(t.astype(np.float64)), rtol=2e-7)


def test_ends_of_the_range():
    t = jnp.array([128.0, 1e30, jnp.inf, -126.1, -127.0, -1e30, -jnp.inf])
    np.testing.assert_array_equal(jax.jit(exponential.exp2)(t), [np.inf, np.inf, np.inf, 0, 0, 0, 0])


def test_every_nan_stays_one():
    """Bit flips make NaNs of all kinds."""
    bits = np.array([0x7FC00000, 0x7FC00001, 0x7FCC9F54, 0x7FFFFFFF, 0xFFC12345, 0x7F800001], np.uint32)
    assert np.isnan(jax.jit(exponential.exp2)(bits.view(np.float32))).all()


def test_derivatives_of_every_order():
    t = np.float32(1.5)
    derivative = exponential.exp2
    for order in range(3):
        np.testing.assert_allclose(derivative(t), np.log(2) ** order * 2**1.5, rtol=1e-6)
        derivative = jax.grad(derivative)


def test_as_it_is_compiled_outside_of_tests():
    """The suite compiles without optimisation; this is what users get."""
    program = """
import jax, numpy as np
from mamba_jax import scan
from mamba_jax.scan import exponential
t = np.linspace(-126, 128, 400_001, dtype=np.float32)[:-1]
y = np.asarray(jax.jit(exponential.exp2)(t), np.float64)
np.testing.assert_allclose(y, np.exp2(t.astype(np.float64)), rtol=2e-7)
assert np.isnan(jax.jit(exponential.exp2)(np.uint32([0x7FCC9F54] * 8).view(np.float32))).all()
draw = np.random.default_rng(0)
u, B, C = (draw.standard_normal((2, 28, m), np.float32) for m in (8, 3, 3))
dt, A = draw.uniform(0.01, 0.5, (2, 28, 8)).astype(np.float32), -draw.uniform(0.5, 4, (8, 3)).astype(np.float32)
for reverse in (False, True):
    def gradients(method):
        objective = lambda *x: (scan.selective_scan(*x, reverse=reverse, method=method) ** 2).sum()
        return jax.jit(jax.grad(objective, argnums=(0, 1, 2, 3, 4)))(u, dt, A, B, C)
    for found, wanted in zip(gradients("sequential"), gradients("associative"), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
"""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
