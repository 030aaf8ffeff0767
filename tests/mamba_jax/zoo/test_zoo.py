"""What is saved is what is loaded, and every model that comes with the library is whole."""

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

import mamba_jax
from mamba_jax import models, zoo


def test_a_saved_model_comes_back(tmp_path):
    model = models.create_model("medmamba", num_classes=3, depths=(1,) * 4, dims=(4, 8, 16, 32), normalize=None)
    variables = model.init(jax.random.key(0))
    zoo.save(tmp_path / "a" / "b.safetensors", model, variables, {"command": "x", "accuracy": [0.9, 0.8, 0.95]})
    again = zoo.load(tmp_path / "a" / "b.safetensors")
    assert again.model.config == model.config
    assert again.card == {"command": "x", "accuracy": [0.9, 0.8, 0.95]}
    chex.assert_trees_all_equal(again.variables, variables)
    assert zoo.is_own(tmp_path / "a" / "b.safetensors")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.safetensors"]


def test_what_is_not_a_saved_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no trained model 'x/y'; there are "):
        mamba_jax.load_pretrained("x/y")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        zoo.load(tmp_path / "missing.safetensors")
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3)}, other)
    assert not zoo.is_own(other)
    with pytest.raises(ValueError, match="holds no model configuration"):
        zoo.load(other)


@pytest.mark.parametrize("name", zoo.names())
def test_every_trained_model_is_whole_and_says_how_it_was_made(name):
    path = zoo.path_of(name)
    assert path.stat().st_size <= 5e6
    model, variables, card = zoo.load(path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    images = np.zeros((2, model.config.image_size, model.config.image_size, model.config.in_channels), np.float32)
    assert jax.eval_shape(model.apply, variables, images).shape == (2, model.config.num_classes)
    assert {"dataset", "dataset_sha256", "command", "task", "test"} <= set(card)
    value, low, high, count = (card["test"]["accuracy"][k] for k in ("value", "low", "high", "count"))
    assert low <= value <= high
    assert count > 0
