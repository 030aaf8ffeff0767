"""The loss of each task against NumPy, and the training step against Optax by hand; it lowers for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from mamba_jax import data, models, training


def _logits(shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("task", ["multi-class", "binary", "ordinal"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(task, smoothing):
    logits, labels = _logits((6, 2)), np.array([0, 1, 1, 0, 1, 0])
    targets = np.eye(2)[labels] * (1 - smoothing) + smoothing / 2
    wanted = -(targets * scipy.special.log_softmax(logits, axis=-1)).sum(-1)
    got = training.loss(
        jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32), task, label_smoothing=smoothing
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_binary_cross_entropy_is_a_mean_over_labels():
    logits, labels = _logits((5, 3)), np.random.default_rng(1).integers(0, 2, (5, 3))
    p = scipy.special.expit(logits)
    wanted = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean(-1)
    got = training.loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32), "multi-label")
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_weight_decay_spares_norms_biases_and_time_scales():
    model = models.create_model("medmamba", num_classes=2, image_size=8, depths=(1,) * 4, dims=(4, 8, 16, 32))
    params = jax.tree.map(jnp.ones_like, model.init(jax.random.key(0))["params"])
    config = training.TrainConfig(epochs=2, learning_rate=0.1, warmup_epochs=0, weight_decay=0.5)
    optimizer = training.make_optimizer(config, steps_per_epoch=4)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(lambda p: optimizer.update(jax.tree.map(jnp.zeros_like, p), optimizer.init(p), p))(params)
    block = updates["stages_0"]["block_0"]
    for spared in (block["ssm"]["A_log"], block["ssm"]["D"], block["ssm"]["dt_bias"], block["norm"]["scale"]):
        np.testing.assert_array_equal(spared, 0)
    np.testing.assert_array_equal(block["conv"]["conv_0"]["bias"], 0)
    for decayed in (block["ssm"]["B_proj"], block["conv"]["conv_0"]["kernel"], updates["head"]["kernel"]):
        np.testing.assert_allclose(decayed, -0.05, rtol=1e-5)


def test_a_step_is_the_optimizer_on_the_batch_it_names():
    images = np.random.default_rng(2).integers(0, 256, (12, 28, 28, 3)).astype(np.uint8)
    labels = jnp.arange(12, dtype=jnp.int32) % 3

    def apply(variables, x, *, train, rngs, mutable):
        assert train
        assert mutable == ["batch_stats"]
        return jnp.mean(x, axis=(1, 2)) @ variables["params"]["kernel"], {}

    model = models.Model(models.ModelConfig(name="resnet18", num_classes=3), lambda key: None, apply)
    optimizer = optax.sgd(0.5)
    step = training.make_resident_step(
        training.make_update(model, optimizer, task="multi-class", policy=data.POLICIES["none"])
    )
    kernel = jnp.asarray(_logits((3, 3)), jnp.float32)
    state = training.train.create_state({"params": {"kernel": kernel}}, optimizer)
    chosen = jnp.array([3, 0, 7, 8])
    after, figures = step(state, jnp.asarray(images), labels, chosen[None], jax.random.key(0))

    x = images[np.asarray(chosen)].astype(np.float64).mean((1, 2)) / 255
    y = np.eye(3)[np.asarray(labels)[np.asarray(chosen)]]
    p = scipy.special.softmax(x @ np.asarray(kernel, np.float64), axis=-1)
    np.testing.assert_allclose(after.params["kernel"], kernel - 0.5 * x.T @ (p - y) / 4, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(figures["loss"], -np.log((p * y).sum(-1)).mean(), rtol=1e-5)
    assert int(after.step) == 1


def test_the_training_step_lowers_for_accelerators():
    model = models.create_model("medmamba", num_classes=3, depths=(1,) * 4, dims=(8, 16, 32, 64), d_state=4)
    optimizer = training.make_optimizer(training.TrainConfig(), steps_per_epoch=4)
    step = training.make_resident_step(
        training.make_update(model, optimizer, task="multi-class", policy=data.POLICIES["dihedral"])
    )
    state = jax.eval_shape(lambda key: training.train.create_state(model.init(key), optimizer), jax.random.key(0))
    key = jax.eval_shape(lambda: jax.random.key(0))
    images, labels = jax.ShapeDtypeStruct((9, 28, 28, 3), jnp.uint8), jax.ShapeDtypeStruct((9,), jnp.int32)
    order = jax.ShapeDtypeStruct((2, 4), jnp.int32)
    exported = jax.export.export(step, platforms=("tpu", "cuda"))(state, images, labels, order, key)
    assert exported.platforms == ("tpu", "cuda")
