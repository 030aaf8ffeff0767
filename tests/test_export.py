"""MedMamba itself, its training step, attacks and fault trials on it lower for TPU and CUDA, on a machine without."""

import functools

import jax
import jax.numpy as jnp
import pytest

import threats
from mamba_jax import data, models, training

PLATFORMS = ("tpu", "cuda")


@pytest.fixture(scope="module", params=["associative", "chunked", "pallas", "sequential"])
def material(request):
    model = models.create_model(
        "medmamba", num_classes=3, depths=(1,) * 4, dims=(4, 8, 16, 32), d_state=2, scan_method=request.param
    )
    variables = jax.eval_shape(model.init, jax.random.key(0))
    images, labels = jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    return model, variables, images, labels


def test_forward_pass(material):
    model, variables, images, _ = material
    exported = jax.export.export(jax.jit(model.apply), platforms=PLATFORMS)(variables, images)
    assert exported.platforms == PLATFORMS
    assert [(out.shape, out.dtype) for out in exported.out_avals] == [((2, 3), jnp.float32)]


def test_training_step(material):
    model, variables, _, _ = material
    optimizer = training.make_optimizer(training.TrainConfig(), steps_per_epoch=2)
    step = training.make_resident_step(
        training.make_update(model, optimizer, task="multi-class", policy=data.POLICIES["dihedral"])
    )
    state = jax.eval_shape(lambda v: training.train.create_state(v, optimizer), variables)
    images, labels = jax.ShapeDtypeStruct((4, 28, 28, 3), jnp.uint8), jax.ShapeDtypeStruct((4,), jnp.int32)
    order = jax.ShapeDtypeStruct((2, 2), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    exported = jax.export.export(step, platforms=PLATFORMS)(state, images, labels, order, key)
    assert exported.platforms == PLATFORMS


def test_pgd(material):
    model, variables, images, labels = material
    attack = jax.jit(functools.partial(threats.pgd, model.apply, steps=2))
    key = jax.eval_shape(lambda: jax.random.key(0))
    epsilon = jax.ShapeDtypeStruct((), jnp.float32)
    exported = jax.export.export(attack, platforms=PLATFORMS)(variables, images, labels, key=key, epsilon=epsilon)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("target", ["weights", "activations", "states"])
def test_vmapped_trials(material, target):
    model, variables, images, labels = material
    if target == "weights":
        table = threats.faults.weight_sites(variables, include="stages_1/*")
    else:
        find = {"activations": threats.faults.activation_sites, "states": threats.faults.state_sites}[target]
        table = find(model.apply, variables, images, include="stages_1/*")
    trials = jax.jit(functools.partial(threats.faults.trial_outcomes, model.apply, table=table, strategy="vmap"))
    faults = jax.eval_shape(lambda: threats.faults.no_faults(4, 2))
    exported = jax.export.export(trials, platforms=PLATFORMS)(variables, images, labels, faults=faults)
    assert exported.platforms == PLATFORMS
