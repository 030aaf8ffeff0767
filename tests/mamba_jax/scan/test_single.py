"""The scan of one step against the step-by-step recurrence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax.scan import selective, sequential, single


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
    "faults",
    [
        {"A": np.nan},
        {"A": -np.inf},
        {"A": np.inf},
        {"A": 1e4},
        {"A": -np.inf, "dt": 0.0},
        {"A": -0.0, "dt": np.inf},
        {"dt": -1e4},
        {"dt": np.nan},
        {"u": np.inf},
        {"B": np.inf},
        {"C": 3e38, "B": 10.0},
    ],
)
def test_values_that_faults_leave_are_those_of_the_recurrence(faults):
    inputs = dict(zip(("u", "dt", "A", "B", "C"), _inputs(), strict=True))
    for name, value in faults.items():
        inputs[name] = inputs[name].at[(0,) * inputs[name].ndim].set(value)
    steps = {name: jnp.moveaxis(inputs[name], 2, 0) for name in ("u", "dt", "B", "C")}
    transposed = jnp.swapaxes(inputs["A"], -1, -2)
    given = transposed, steps["u"], steps["dt"], steps["B"], steps["C"]
    np.testing.assert_allclose(jax.jit(single.scan)(*given), sequential._scan(False, *given), rtol=1e-5)
