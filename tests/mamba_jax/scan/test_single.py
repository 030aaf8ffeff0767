"""The scan of one step against the step-by-step recurrence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax.scan import selective, sequential


def _inputs(groups=(2,)):
    rng = np.random.default_rng(0)
    u, dt = rng.normal(size=(3, *groups, 1, 5)), rng.uniform(0.1, 1.0, (3, *groups, 1, 5))
    A = -rng.uniform(0.5, 2.0, (*groups, 5, 4))
    B, C = rng.normal(size=(2, 3, *groups, 1, 4))
    return tuple(jnp.asarray(x, jnp.float32) for x in (u, dt, A, B, C))


@pytest.mark.parametrize("groups", [(), (2,)])
@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_gradients_are_those_of_other_methods(groups, reverse):
    inputs = _inputs(groups)

    def objective(method):
        return lambda *x: jnp.sum(jnp.sin(selective.selective_scan(*x, reverse=reverse, method=method)))

    for a, b in zip(
        jax.value_and_grad(objective("sequential"), range(5))(*inputs)[1],
        jax.value_and_grad(objective("associative"), range(5))(*inputs)[1],
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(objective("sequential")(*inputs), objective("associative")(*inputs), rtol=1e-5)


@pytest.mark.parametrize(
    ("place", "value"), [(2, np.nan), (2, -np.inf), (2, -0.0), (0, np.inf), (1, np.inf), (3, np.inf), (4, 3e38)]
)
def test_values_that_faults_leave_are_those_of_the_recurrence(place, value):
    """A sequence of two steps that is cut after the first has the recurrence's own first step."""
    inputs = list(_inputs())
    inputs[place] = inputs[place].at[(0,) * inputs[place].ndim].set(value)
    u, dt, A, B, C = inputs
    twice = [jnp.concatenate([x, x], axis=-2) for x in (u, dt, B, C)]
    recurrence = sequential.scan(*twice[:2], A, *twice[2:], reverse=False)[:, :, :1]
    np.testing.assert_allclose(sequential.scan(*inputs, reverse=False), recurrence, rtol=1e-5)
