"""A trained model as one file: its variables, its configuration and its card.

The file is in safetensors' format. Its tensors are the variables by path (`params/stages_0/block_0/ssm/A_log`); its
metadata holds the format's number, the model's configuration and its card, the latter two as JSON. The models that come
with the library lie beside this file as `DATASET/MODEL.safetensors`.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import safetensors
import safetensors.numpy
from flax import traverse_util

from mamba_jax import identity, models, types

_FOLDER = pathlib.Path(__file__).parent
_FORMAT = "1"
_FORMAT_KEY, _CONFIG_KEY, _CARD_KEY = "mamba_jax.format", "mamba_jax.config", "mamba_jax.card"
_REMEDY = "write the file again with mamba_jax.zoo.save"


class Pretrained(NamedTuple):
    """A model, its variables, and its card: data set and its hash, command, test figures."""

    model: models.Model
    variables: types.Variables
    card: dict[str, Any]


def names() -> tuple[str, ...]:
    """What `load_pretrained` knows: "pneumoniamnist/medmamba_n", ..."""
    found = (path.relative_to(_FOLDER).with_suffix("") for path in _FOLDER.glob("*/*.safetensors"))
    return tuple(sorted(path.as_posix() for path in found))


def load_pretrained(name: str) -> tuple[models.Model, types.Variables]:
    """A trained model by name, ready for `model.apply(variables, images)`, images in [0, 1].

    Args:
      name: one of `names()`.

    Raises:
      ValueError: there is no such model.

    Example:
      >>> model, variables = mamba_jax.load_pretrained("pneumoniamnist/medmamba_n")
    """
    pretrained = load(path_of(name))
    return pretrained.model, pretrained.variables


def path_of(name: str) -> pathlib.Path:
    """The file of a trained model; ValueError if there is none of that name."""
    if name not in names():
        raise ValueError(f"there is no trained model {name!r}; there are {', '.join(names()) or 'none'}")
    return _FOLDER / f"{name}.safetensors"


def load(path: str | os.PathLike[str]) -> Pretrained:
    """A model that `save` wrote.

    Raises:
      ValueError: the file is not one, its format or configuration is not known here, or its weights do not fit its own
        configuration.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): give a file that can") from error
    model, expected, card = _described(path, metadata)
    expected = {key: (leaf.shape, leaf.dtype) for key, leaf in _flatten(expected).items()}
    if expected != {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}:
        raise ValueError(f"{path}: the weights do not fit the configuration in the same file; {_REMEDY}")
    variables = traverse_util.unflatten_dict({k: jax.numpy.asarray(v) for k, v in tensors.items()}, sep="/")
    return Pretrained(model, variables, card)


def is_own(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file was written by `save` (and not a published PyTorch checkpoint)."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return _CONFIG_KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def save(
    path: str | os.PathLike[str], model: models.Model, variables: types.Variables, card: Mapping[str, Any]
) -> None:
    """Writes a model beside its place and renames it.

    Args:
      path: ends in `.safetensors`; folders are made.
      model, variables: what to keep.
      card: JSON data on how it was made: data set, its sha256, command, test figures with counts and intervals.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: jax.device_get(v) for k, v in _flatten(variables).items()}
    metadata = {
        _FORMAT_KEY: _FORMAT,
        _CONFIG_KEY: json.dumps(identity.describe(model.config)),
        _CARD_KEY: json.dumps(dict(card)),
    }
    partial = path.with_suffix(".partial")
    safetensors.numpy.save_file(tensors, partial, metadata)
    partial.replace(path)


def _described(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> tuple[models.Model, Any, dict[str, Any]]:
    """The model that the metadata describes, the shapes of its variables, and the card."""
    if _CONFIG_KEY not in metadata:
        raise ValueError(f"{path} holds no model configuration: it was not written by mamba_jax.zoo.save")
    if metadata.get(_FORMAT_KEY) != _FORMAT:
        raise ValueError(
            f"{path} has the format {metadata.get(_FORMAT_KEY)!r} and this version reads {_FORMAT!r}: "
            f"use the version that wrote it, or {_REMEDY}"
        )
    try:
        config = models.ModelConfig(**json.loads(metadata[_CONFIG_KEY]))
        model = models.from_config(config)
        card = dict(json.loads(metadata.get(_CARD_KEY, "{}")))
        return model, jax.eval_shape(model.init, jax.random.key(0)), card
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds a configuration or card that cannot be used ({reason}); {_REMEDY}") from error


def _flatten(variables: types.Variables) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(variables), sep="/")
