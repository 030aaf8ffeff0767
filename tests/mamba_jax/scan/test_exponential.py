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
    above = jax.jit(exponential.exp2)(jnp.array([128.0, 1e30, jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(above, [np.inf, np.inf, np.inf, np.nan])
    below = jax.jit(exponential.exp2)(jnp.array([-126.5, -127.0, -1e30, -jnp.inf]))
    np.testing.assert_allclose(np.asarray(below, np.float64), 2.0**-126, rtol=2e-7)
