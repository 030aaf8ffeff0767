"""A batch in micro-batches gives the update of the batch at once, where no norm looks at the batch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamba_jax import data, models, training
from mamba_jax.training import gradients


def _dense_model():
    """Logits linear in the pixels, and a count of the batches seen in place of running statistics."""

    def apply(variables, x, *, train, rngs, mutable):
        seen = {"seen": variables["batch_stats"]["seen"] + 1}
        return x.reshape((x.shape[0], -1)) @ variables["params"]["kernel"], {"batch_stats": seen}

    return models.Model(models.ModelConfig(name="resnet18", num_classes=3), lambda key: None, apply)


@pytest.fixture(scope="module")
def material():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (8, 4, 4, 1)).astype(np.uint8))
    labels = jnp.asarray(rng.integers(0, 3, 8), jnp.int32)
    kernel = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)
    return images, labels, {"params": {"kernel": kernel}, "batch_stats": {"seen": jnp.int32(0)}}


def _step(material, accumulate):
    images, labels, variables = material
    optimizer = optax.sgd(0.5)
    update = training.make_update(
        _dense_model(), optimizer, task="multi-class", policy=data.POLICIES["dihedral"], accumulate=accumulate
    )
    state = training.train.create_state(variables, optimizer)
    return jax.jit(update)(state, images, labels, jax.random.key(3))


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_parts_add_up_to_the_whole(material, accumulate):
    whole, parts = _step(material, 1), _step(material, accumulate)
    chex.assert_trees_all_close(parts[0].params, whole[0].params, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(parts[1], whole[1], rtol=1e-6)
    assert (int(whole[0].batch_stats["seen"]), int(parts[0].batch_stats["seen"])) == (1, accumulate)
    assert int(parts[0].step) == 1, "one update"


def test_each_part_has_its_own_random_draw():
    def objective(params, batch_stats, images, targets, key):
        return params * jnp.mean(images), (batch_stats, {"draw": jax.random.uniform(key)})

    images, key = jnp.arange(4.0).reshape((4, 1)), jax.random.key(0)
    found = gradients.of_batch(objective, jnp.float32(1), {}, images, jnp.zeros((4,)), key, accumulate=4)
    draws = [float(jax.random.uniform(key)) for key in jax.random.split(key, 4)]
    assert len(set(draws)) == 4
    assert float(found.figures["draw"]) == pytest.approx(np.mean(draws), rel=1e-6)
    assert float(found.params) == pytest.approx(1.5)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="accumulate must divide the batch_size of 32, got 12: 4 would do"):
        training.TrainConfig(batch_size=32, accumulate=12)
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        training.TrainConfig(accumulate=0)
