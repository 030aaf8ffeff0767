import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax.models import convolution


def _reference(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (1, 3), (2, 1)])
def test_values_and_gradients_are_those_of_the_convolution(shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *shape, 5)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 5, 4)), jnp.float32)
    np.testing.assert_allclose(convolution.on_small_map(x, kernel), _reference(x, kernel), atol=1e-5)
    ours, theirs = (
        jax.grad(lambda x, k, f=f: jnp.sum(jnp.sin(f(x, k))), (0, 1))(x, kernel)
        for f in (convolution.on_small_map, _reference)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_tap_that_never_meets_the_map_has_no_effect():
    x, kernel = jnp.ones((1, 1, 1, 2)), jnp.ones((3, 3, 2, 1)).at[0, 0].set(jnp.inf)
    assert convolution.on_small_map(x, kernel).item() == 2.0
