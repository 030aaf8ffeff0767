"""The Mamba block for sequences is causal, shaped as promised, and the same under both scans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import models


@pytest.fixture(scope="module")
def sequence():
    return jax.random.normal(jax.random.key(0), (2, 11, 6))


def test_shapes_and_taps(sequence):
    block = models.MambaBlock()
    variables = jax.jit(block.init)(jax.random.key(1), sequence)
    y, sown = jax.jit(lambda: block.apply(variables, sequence, mutable=["tap_values"]))()
    assert y.shape == sequence.shape
    assert set(sown["tap_values"]) == {"in_proj_out", "dt", "B", "C", "scan"}
    assert variables["params"]["A_log"].shape == (12, 16)
    assert bool(jnp.all(sown["tap_values"]["dt"][0] > 0))


def test_step_t_does_not_see_the_future(sequence):
    block = models.MambaBlock()
    variables = jax.jit(block.init)(jax.random.key(1), sequence)
    changed = sequence.at[:, 7:].add(1.0)
    apply = jax.jit(block.apply)
    y, other = apply(variables, sequence), apply(variables, changed)
    np.testing.assert_array_equal(y[:, :7], other[:, :7])
    assert float(jnp.min(jnp.max(jnp.abs(y - other)[:, 7:], axis=-1))) > 0


def test_the_first_steps_by_hand(sequence):
    """With one token there is no state before it: y = D x + C . (dt B x), gated and projected back."""
    block = models.MambaBlock(d_state=3)
    token = sequence[:, :1]
    variables = jax.jit(block.init)(jax.random.key(2), token)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    v = np.asarray(token, np.float64)[:, 0]

    def silu(x):
        return x / (1 + np.exp(-x))

    x = silu(v @ p["in_proj"]["kernel"] * p["conv"]["kernel"][-1] + p["conv"]["bias"])
    dt = np.log1p(np.exp(x @ p["dt_down"]["kernel"] @ p["dt_up"]["kernel"] + p["dt_bias"]))
    B, C = x @ p["B_proj"]["kernel"], x @ p["C_proj"]["kernel"]
    y = p["D"] * x + (B * C).sum(-1, keepdims=True) * dt * x
    wanted = (y * silu(v @ p["gate_proj"]["kernel"])) @ p["out_proj"]["kernel"]
    np.testing.assert_allclose(jax.jit(block.apply)(variables, token)[:, 0], wanted, rtol=1e-4, atol=1e-6)


def test_both_scans_agree(sequence):
    variables = jax.jit(models.MambaBlock().init)(jax.random.key(1), sequence)
    blocks = [models.MambaBlock(scan_method=method) for method in ("sequential", "associative")]
    outputs = [jax.jit(block.apply)(variables, sequence) for block in blocks]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-6)
