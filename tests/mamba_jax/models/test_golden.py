"""Parity with the published network: its weights, its inputs, and what it computed from them.

Errors are measured against the largest magnitude of the expected array. At 28 px the sequences of the last stage have
one step, so that A has no gradient at all: that array is held to zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import traverse_util

from mamba_jax import torch_import

TOLERANCE = 2e-5
NETWORKS = ("tiny_p4_64", "tiny_p2_28")


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    largest = np.max(np.abs(expected))
    return np.max(np.abs(np.asarray(actual, np.float64) - expected)) / np.where(largest > 0, largest, TOLERANCE)


def load(golden_root, network, scan_method):
    return torch_import.load_medmamba(
        golden_root / f"{network}.pth", normalize=None, scan_method=scan_method, drop_path_rate=0.0
    )


def golden(golden_root, network):
    with np.load(golden_root / f"{network}_io.npz") as file:
        vectors = dict(file)
    images = jnp.asarray(np.moveaxis(vectors["x"], 1, -1))
    return vectors, images, jnp.asarray(vectors["y"], jnp.int32)


@pytest.mark.parametrize("scan_method", ["associative", "sequential"])
@pytest.mark.parametrize("network", NETWORKS)
def test_evaluation_mode_agrees(golden_root, network, scan_method):
    model, variables = load(golden_root, network, scan_method)
    vectors, images, labels = golden(golden_root, network)

    def objective(images):
        logits, sown = model.apply(variables, images, mutable=["tap_values"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (logits, sown["tap_values"])

    run = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, (logits, values)), gradient = run(images)

    activations = {
        "act.patch_embed": values["patch_embed"]["out"],
        **{f"act.layers.{i}.blocks.0": values[f"stages_{i}"]["block_0"]["out"] for i in range(4)},
    }
    errors = {name: relative_error(value, vectors[name]) for name, (value,) in activations.items()}
    (branch,) = values["stages_0"]["block_0"]["conv_branch"]
    errors["conv branch"] = relative_error(branch, np.moveaxis(vectors["act.b0.conv_nchw"], 1, -1))
    errors["logits"] = relative_error(logits, vectors["logits"])
    errors["logits in float64"] = relative_error(logits, vectors["logits_f64"])
    errors["loss"] = relative_error(loss, vectors["loss"])
    errors["input gradient"] = relative_error(gradient, np.moveaxis(vectors["grad_x"], 1, -1))
    errors["input gradient in float64"] = relative_error(gradient, np.moveaxis(vectors["grad_x_f64"], 1, -1))
    assert {name: error for name, error in errors.items() if not error < TOLERANCE} == {}


# Each method's backward pass once: their agreement on other shapes is the scan's own test.
@pytest.mark.parametrize(("network", "scan_method"), [("tiny_p4_64", "associative"), ("tiny_p2_28", "sequential")])
def test_training_mode_agrees(golden_root, tmp_path, network, scan_method):
    model, variables = load(golden_root, network, scan_method)
    vectors, images, labels = golden(golden_root, network)

    def objective(params, images):
        logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits, updates["batch_stats"])

    run = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
    (loss, (logits, statistics)), (gradients, image_gradient) = run(variables["params"], images)

    # The importer is linear, so it carries the published gradients and statistics to our layout as well.
    expected = {name.removeprefix("train.grad."): v for name, v in vectors.items() if name.startswith("train.grad.")}
    expected |= {name.removeprefix("train.buf."): v for name, v in vectors.items() if name.startswith("train.buf.")}
    safetensors.numpy.save_file(expected, tmp_path / "expected.safetensors")
    _, expected = torch_import.load_medmamba(tmp_path / "expected.safetensors")
    expected = traverse_util.flatten_dict(expected, sep="/")
    actual = traverse_util.flatten_dict({"params": gradients, "batch_stats": statistics}, sep="/")
    assert actual.keys() == expected.keys()

    # A norm takes these biases out again, that of bn_0 where the map is a single pixel: their gradients are noise.
    silent = ["conv_0/bias", "conv_1/bias"] + (["stages_3/block_0/conv/bn_0/bias"] if network == "tiny_p2_28" else [])
    errors = {
        path: relative_error(actual[path], expected[path]) for path in expected if not path.endswith(tuple(silent))
    }
    errors["logits"] = relative_error(logits, vectors["train.logits"])
    errors["loss"] = relative_error(loss, vectors["train.loss"])
    errors["input gradient"] = relative_error(image_gradient, np.moveaxis(vectors["train.grad_x"], 1, -1))
    assert {name: error for name, error in errors.items() if not error < TOLERANCE} == {}
