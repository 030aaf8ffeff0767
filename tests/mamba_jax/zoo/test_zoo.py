"""What is saved is what is loaded, and every model that comes with the library is whole."""

import json

import chex
import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import mamba_jax
from mamba_jax import models, zoo

CARD = {"command": "x", "accuracy": [0.9, 0.8, 0.95]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model, its variables and the file that they were saved to."""
    model = models.create_model("medmamba", num_classes=3, depths=(1,) * 4, dims=(4, 8, 16, 32), normalize=None)
    variables = jax.jit(model.init)(jax.random.key(0))
    path = tmp_path_factory.mktemp("zoo") / "a" / "b.safetensors"
    zoo.save(path, model, variables, CARD)
    return model, variables, path


@pytest.fixture
def altered(saved, tmp_path):
    """Writes the saved model again with other tensors or metadata (None takes an entry away); returns the path."""

    def _altered(tensors=None, **changes):
        with safetensors.safe_open(saved[2], framework="numpy") as file:
            metadata = file.metadata() | {f"mamba_jax.{key}": value for key, value in changes.items()}
        tensors = safetensors.numpy.load_file(saved[2]) | (tensors or {})
        metadata = {key: value for key, value in metadata.items() if value is not None}
        safetensors.numpy.save_file(tensors, tmp_path / "altered.safetensors", metadata)
        return tmp_path / "altered.safetensors"

    return _altered


def test_a_saved_model_comes_back(saved):
    model, variables, path = saved
    again = zoo.load(path)
    assert again.model.config == model.config
    assert again.card == CARD
    chex.assert_trees_all_equal(again.variables, variables)
    assert zoo.is_own(path)
    assert [other.name for other in path.parent.iterdir()] == ["b.safetensors"]


def test_what_the_file_says_of_itself(saved):
    """Held literally: files outlive the code that wrote them."""
    with safetensors.safe_open(saved[2], framework="numpy") as file:
        metadata = file.metadata()
    assert set(metadata) == {"mamba_jax.format", "mamba_jax.config", "mamba_jax.card"}
    assert metadata["mamba_jax.format"] == "1"
    assert json.loads(metadata["mamba_jax.config"])["dims"] == [4, 8, 16, 32]


@pytest.mark.parametrize("name", ["x/y", "../x", "a/../a/b", "/etc/passwd", ""])
def test_a_name_that_is_not_listed_is_refused(saved, monkeypatch, name):
    """Also one that would lead to a file that is there."""
    root = saved[2].parents[1]
    (root / "inner").mkdir(exist_ok=True)
    (root / "x.safetensors").touch()
    monkeypatch.setattr(zoo.store, "_FOLDER", root / "inner" if name == "../x" else root)
    with pytest.raises(ValueError, match=f"there is no trained model '{name}'; there are "):
        mamba_jax.load_pretrained(name)


def test_a_listed_name_is_loaded(saved, monkeypatch):
    monkeypatch.setattr(zoo.store, "_FOLDER", saved[2].parents[1])
    assert zoo.names() == ("a/b",)
    assert mamba_jax.load_pretrained("a/b")[0].config == saved[0].config


def test_what_is_not_a_saved_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        zoo.load(tmp_path / "missing.safetensors")
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3)}, other, {"config": "{}"})
    assert not zoo.is_own(other)
    with pytest.raises(ValueError, match="holds no model configuration"):
        zoo.load(other)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": '{"name": "resnet18"'}, "Expecting ',' delimiter"),
        ({"config": "[1]"}, "must be a mapping"),
        ({"config": '{"name": "resnet18", "num_classes": 2, "colour": 1}'}, "unexpected keyword argument 'colour'"),
        ({"config": '{"name": "resnet18"}'}, "missing 1 required keyword-only argument: 'num_classes'"),
        ({"config": '{"name": "vgg", "num_classes": 2}'}, "model must be one of"),
        ({"config": '{"name": "resnet18", "num_classes": "2"}'}, "not supported between"),
        ({"config": '{"name": "resnet18", "num_classes": 2}'}, "the weights do not fit the configuration"),
        ({"card": "{"}, "Expecting property name"),
        ({"format": "2"}, "the format '2' and this version reads '1': use the version that wrote it"),
        ({"format": None}, "the format None and this version reads '1'"),
        ({"tensors": {"params/head/bias": np.zeros(4, np.float32)}}, "the weights do not fit"),
        ({"tensors": {"params/head/bias": np.zeros(3, np.float64)}}, "the weights do not fit"),
        ({"tensors": {"params/tail": np.zeros(3, np.float32)}}, "the weights do not fit"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_remedy_in_one_line(altered, changes, reason):
    path = altered(**changes)
    with pytest.raises(ValueError, match=r"write the file again with mamba_jax\.zoo\.save") as error:
        zoo.load(path)
    assert str(error.value).startswith(str(path))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_the_trained_models_are_there():
    sets = ("breastmnist", "pbc_blood_28", "pneumoniamnist", "retinamnist")
    assert set(zoo.names()) >= {f"{name}/medmamba_n" for name in sets}


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
