"""Taps: every promised place is there, reading changes nothing, and an entry replaces exactly its activation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import models


@pytest.fixture(scope="module")
def tiny():
    model = models.create_model("medmamba", num_classes=3, depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), d_state=4)
    variables = model.init(jax.random.key(0))
    return model, variables, jax.random.uniform(jax.random.key(1), (2, 28, 28, 3))


def _flat(sown):
    leaves = jax.tree_util.tree_leaves_with_path(sown["tap_values"])
    return {"/".join(key.key for key in path if hasattr(key, "key")): value for path, value in leaves}


def test_every_block_has_its_taps_batch_first(tiny):
    model, variables, images = tiny
    _, sown = jax.eval_shape(lambda: model.apply(variables, images, mutable=["tap_values"]))
    shapes = {name: value.shape for name, value in _flat(sown).items()}
    assert shapes["patch_embed/out"] == (2, 14, 14, 8)
    block = {name.removeprefix("stages_1/block_0/"): s for name, s in shapes.items() if name.startswith("stages_1/")}
    assert block == {
        "conv_branch": (2, 7, 7, 8),
        "out": (2, 7, 7, 16),
        "ssm/in_proj_out": (2, 7, 7, 16),
        "ssm/dt": (2, 4, 49, 16),
        "ssm/B": (2, 4, 49, 4),
        "ssm/C": (2, 4, 49, 4),
        "ssm/scan": (2, 7, 7, 16),
    }


def test_reading_the_taps_leaves_the_logits_alone(tiny):
    model, variables, images = tiny
    logits, sown = jax.jit(lambda: model.apply(variables, images, mutable=["tap_values"]))()
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, images), rtol=1e-5, atol=1e-6)
    assert set(variables) == {"params", "batch_stats"}
    pooled = _flat(sown)["stages_3/block_0/out"].mean((1, 2))
    head = variables["params"]["head"]
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"][None], logits, rtol=1e-5, atol=1e-6)


def test_an_entry_replaces_its_activation_and_can_be_batched(tiny):
    model, variables, images = tiny

    @jax.jit
    @jax.vmap
    def logits(factor):
        entry = jax.tree_util.Partial(lambda factor, x: factor * x, factor)
        return model.apply({**variables, "taps": {"stages_3": {"block_0": {"out": entry}}}}, images)

    none, same = logits(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(none, jnp.broadcast_to(variables["params"]["head"]["bias"], none.shape), atol=1e-7)
    np.testing.assert_allclose(same, jax.jit(model.apply)(variables, images), rtol=1e-5, atol=1e-6)
