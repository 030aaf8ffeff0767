"""bfloat16 computes near float32 and keeps float32 parameters; rematerialisation saves memory and changes no number."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import identity, models

TINY = {"image_size": 8, "dims": (4, 8, 16, 32), "d_state": 2, "scan_method": "sequential"}


def _medmamba(*, depths=(1, 1, 1, 1), **options):
    return models.create_model("medmamba", num_classes=3, depths=depths, **TINY, **options)


def _loss(model, variables, images):
    def loss(params):
        logits, updates = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"drop_path": jax.random.key(2)},
            mutable=["batch_stats"],
        )
        return jnp.mean(jnp.square(logits)), updates

    return loss


@pytest.fixture(scope="module")
def material():
    variables = _medmamba().init(jax.random.key(0))
    return variables, jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))


def test_bfloat16_is_near_float32_with_finite_gradients_of_float32_parameters(material):
    variables, images = material
    model = _medmamba(dtype="bfloat16")
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(model.init, jax.random.key(0)), variables)
    wanted = jax.jit(_medmamba().apply)(variables, images)
    logits = jax.jit(model.apply)(variables, images)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, wanted, atol=0.05 * float(jnp.std(wanted)) + 1e-3)
    assert float(jnp.max(jnp.abs(logits - wanted))) > 0, "it was not computed in bfloat16"
    gradients, updates = jax.jit(jax.grad(_loss(model, variables, images), has_aux=True))(variables["params"])
    chex.assert_tree_all_finite(gradients)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, updates))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["medmamba_n", "resnet18", "vit_ti"])
def test_activations_are_bfloat16_and_steps_of_the_recurrence_float32(name):
    model = models.create_model(name, num_classes=3, dtype="bfloat16", remat=True)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.float32)
    logits, sown = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["tap_values"]), variables, images)
    assert logits.dtype == jnp.float32
    dtypes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(sown["tap_values"]):
        dtypes.setdefault([key.key for key in path if hasattr(key, "key")][-1], set()).add(leaf.dtype)
    assert dtypes.pop("dt", {jnp.dtype("float32")}) == {jnp.dtype("float32")}
    assert set.union(*dtypes.values()) == {jnp.dtype("bfloat16")}


def test_rematerialisation_gives_the_same_paths_gradients_and_statistics(material):
    variables, images = material
    model = _medmamba(remat=True, drop_path_rate=0.5)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(model.init, jax.random.key(0)), variables)
    found, wanted = (
        jax.jit(jax.grad(_loss(m, variables, images), has_aux=True))(variables["params"])
        for m in (model, _medmamba(drop_path_rate=0.5))
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_taps_are_read_and_replaced_inside_rematerialised_blocks(material):
    variables, images = material
    plain, remat = _medmamba(), _medmamba(remat=True)
    read = [jax.jit(lambda m=m: m.apply(variables, images, mutable=["tap_values"]))() for m in (plain, remat)]
    chex.assert_trees_all_close(*read, rtol=1e-5, atol=1e-6)
    entry = jax.tree_util.Partial(lambda factor, x: factor * x, jnp.float32(0.0))
    taps = {"stages_3": {"block_0": {"out": entry, "ssm": {"dt": entry}}}}
    logits = jax.jit(remat.apply)({**variables, "taps": taps}, images)
    np.testing.assert_allclose(logits, jnp.broadcast_to(variables["params"]["head"]["bias"], logits.shape), atol=1e-7)


def test_rematerialisation_of_a_deep_model_keeps_less_for_the_gradient():
    """What lies between the forward and the backward pass: the arrays that the transposed function holds on to."""

    def kept(depth, **options):
        model = _medmamba(depths=(depth, 0, 0, 0), **options)
        variables = jax.eval_shape(model.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((32, 8, 8, 3), jnp.float32)
        pullback = jax.eval_shape(
            lambda params, variables, images: jax.vjp(_loss(model, variables, images), params, has_aux=True)[1],
            variables["params"],
            variables,
            images,
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback))

    per_block, per_block_remat = kept(8) - kept(7), kept(8, remat=True) - kept(7, remat=True)
    block_input = 32 * 8 * 8 * 4 * 4
    assert block_input <= per_block_remat < 2 * block_input
    assert per_block > 10 * per_block_remat


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"dtype must be one of \('float32', 'bfloat16'\), got 'float16'"):
        _medmamba(dtype="float16")


def test_a_configuration_is_described_as_before_it_had_these_fields():
    config = models.ModelConfig(name="resnet18", num_classes=2)
    added = {"dtype", "remat"}
    assert set(identity.describe(config)) == {field.name for field in dataclasses.fields(config)} - added
    changed = identity.describe(dataclasses.replace(config, dtype="bfloat16"))
    assert (changed["dtype"], "remat" in changed) == ("bfloat16", False)
    assert models.ModelConfig(**changed).dtype == "bfloat16"
