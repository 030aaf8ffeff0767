"""Every preset by its parameter count and shapes, what is refused, and what a model promises as a pair of functions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import models

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64), "d_state": 4}


def _shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def _count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(_shapes(model)["params"]))


@pytest.fixture(scope="module")
def tiny():
    model = models.create_model("medmamba", num_classes=3, **TINY)
    return model, model.init(jax.random.key(0))


# Counted on the published code.
@pytest.mark.parametrize(
    ("name", "patch_size", "num_classes", "count"),
    [
        ("medmamba_t", 4, 8, 14_458_760),
        ("medmamba_t", 4, 1000, 15_221_608),
        ("medmamba_t", 2, 8, 14_455_304),
        ("medmamba_s", 4, 8, 18_626_696),
        ("medmamba_s", 4, 1000, 19_389_544),
        ("medmamba_b", 4, 8, 39_866_888),
        ("medmamba_b", 4, 1000, 40_883_688),
    ],
)
def test_parameter_counts_are_the_published_ones(name, patch_size, num_classes, count):
    assert _count(models.create_model(name, num_classes=num_classes, patch_size=patch_size, image_size=224)) == count


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize(("image_size", "in_channels"), [(28, 1), (64, 3)])
def test_every_model_maps_images_to_logits(name, image_size, in_channels):
    model = models.create_model(name, num_classes=5, image_size=image_size, in_channels=in_channels)
    images = jax.ShapeDtypeStruct((2, image_size, image_size, in_channels), jnp.float32)
    logits = jax.eval_shape(model.apply, _shapes(model), images)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_configuration_survives_json(name):
    config = models.create_model(name, num_classes=2, normalize=None).config
    restored = models.ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert restored == config
    assert hash(restored) == hash(config)


def test_leaves_are_addressed_by_path(tiny):
    _, variables = tiny
    ssm = variables["params"]["stages_2"]["block_0"]["ssm"]
    assert ssm["A_log"].shape == (4, 32, 4)
    np.testing.assert_allclose(ssm["A_log"][3, 5], np.log([1, 2, 3, 4]), rtol=1e-6)
    steps = jax.nn.softplus(ssm["dt_bias"])
    assert float(steps.min()) >= 1e-4
    assert float(steps.max()) <= 0.1 * 1.001
    assert set(variables) == {"params", "batch_stats"}


def test_rows_are_independent_and_grey_is_three_equal_channels(tiny):
    model, variables = tiny
    images = jax.random.uniform(jax.random.key(1), (3, 28, 28, 1))
    apply = jax.jit(model.apply)
    logits = apply(variables, images)
    changed = apply(variables, images.at[1].set(0.0))
    np.testing.assert_array_equal(logits[jnp.array([0, 2])], changed[jnp.array([0, 2])])
    assert float(jnp.max(jnp.abs(logits[1] - changed[1]))) > 0
    np.testing.assert_array_equal(logits, apply(variables, jnp.repeat(images, 3, axis=-1)))


def test_weights_are_drawn_alike_wherever_init_is_called(tiny):
    model, key = tiny[0], jax.random.key(3)
    wanted = model.init(key)
    one_of_one = jax.tree.map(lambda x: x[0], jax.vmap(model.init)(key[None]))
    for found in (jax.jit(model.init)(key), jax.jit(lambda: model.init(key))(), one_of_one):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), found, wanted)


def test_normalisation_is_inside(tiny):
    model, variables = tiny
    images = jax.random.uniform(jax.random.key(2), (2, 28, 28, 3))
    bare = models.create_model("medmamba", num_classes=3, normalize=None, **TINY)

    @jax.jit
    def both(images):
        return model.apply(variables, images), bare.apply(variables, (images - 0.5) / 0.5)

    np.testing.assert_allclose(*both(images), rtol=1e-5, atol=1e-6)


def test_drop_path_and_batch_statistics_in_training(tiny):
    model, variables = tiny
    images = jax.random.uniform(jax.random.key(3), (16, 28, 28, 3))

    @jax.jit
    def train(key):
        return model.apply(variables, images, train=True, rngs={"drop_path": key}, mutable=["batch_stats"])

    logits, updates = train(jax.random.key(0))
    again, _ = train(jax.random.key(0))
    other = jnp.stack([train(jax.random.key(k))[0] for k in range(1, 8)])
    np.testing.assert_array_equal(logits, again)
    assert float(jnp.max(jnp.abs(other - logits[None]))) > 0
    norm = updates["batch_stats"]["stages_0"]["block_0"]["conv"]["bn_0"]
    left = variables["params"]["patch_embed"]
    assert norm["mean"].shape == (left["proj"]["bias"].shape[0] // 2,)
    assert float(jnp.max(jnp.abs(norm["mean"]))) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "medmamba_x"}, "model must be one of"),
        ({"name": "medmamba_t", "patch_size": 4}, "patch_size=4 needs images of at least 32 x 32 px, got 28 px"),
        ({"name": "medmamba_t", "patch_size": 4}, "or patch_size=2 for 28 px"),
        ({"name": "medmamba_t", "image_size": 7}, "needs images of at least 8 x 8 px"),
        ({"name": "medmamba_t", "patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"name": "medmamba_t", "in_channels": 2}, "in_channels must be 1 or 3, got 2"),
        ({"name": "medmamba_t", "num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"name": "medmamba", "dims": (8, 16, 30, 60)}, "dims must be four even numbers, each twice the one before"),
        ({"name": "medmamba", "dims": (7, 14, 28, 56)}, "dims must be four even numbers"),
        ({"name": "medmamba", "dims": (0, 0, 0, 0)}, "dims must be four even numbers"),
        ({"name": "medmamba", "depths": (1, 1, 1)}, "depths must be four numbers"),
        ({"name": "medmamba_t", "drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"name": "medmamba_t", "normalize": (0.5, 0.0)}, "normalize must be"),
        ({"name": "vit_ti", "patch_size": 5}, "patch_size must divide"),
        ({"name": "vit_ti", "patch_size": 64}, "patch_size must divide"),
        ({"name": "resnet18", "depths": (2, 2, 2, 2)}, "resnet18 takes no depths; its options: none"),
        ({"name": "medmamba_t", "scan_method": "fast"}, "method must be one of"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_would_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create_model(**{"num_classes": 2, **arguments})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (jnp.zeros((1, 28, 28, 2)), r"images must be \[b, h, w, 1 or 3\]"),
        (jnp.zeros((28, 28, 3)), r"images must be \[b, h, w, 1 or 3\]"),
        (jnp.zeros((1, 28, 28, 3), jnp.uint8), "divide by 255 first"),
        (jnp.zeros((1, 12, 12, 3)), "needs images of at least 16 x 16 px, got 12 px"),
    ],
)
def test_images_that_do_not_fit_are_named(tiny, images, message):
    model, variables = tiny
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, variables, images)


@pytest.mark.parametrize("name", ["medmamba_n", "resnet18", "vit_ti"])
def test_the_forward_pass_lowers_for_accelerators(name):
    model = models.create_model(name, num_classes=4)
    images = jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.float32)
    variables = _shapes(model)
    forward = jax.export.export(jax.jit(model.apply), platforms=("tpu", "cuda"))(variables, images)
    assert forward.platforms == ("tpu", "cuda")
