"""From a configuration to what it names: the images, the model and the weights it starts from."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np

import mamba_jax
from experiments.settings import config, serial
from experiments.stages import measures
from mamba_jax import data, models, scan, torch_import, zoo
from mamba_jax.models import model as model_table
from mamba_jax.models import patches
from threats import corruptions

_ZOO = "zoo:"


def dataset(chosen: config.DataConfig, data_dir: str | None) -> data.Dataset:
    """The images.

    Args:
      chosen: which.
      data_dir: directory of MedMNIST files; a missing one is downloaded to it.

    Raises:
      DataError: the data cannot be had or used.
    """
    if chosen.npz is None:
        return data.load(chosen.dataset, root=data_dir, size=chosen.image_size or 28)
    given = {"task": chosen.task, "num_classes": chosen.num_classes, "class_names": chosen.class_names}
    return data.load_npz(chosen.npz, size=chosen.image_size, **given)


def check(chosen: config.ExperimentConfig, images: data.Dataset) -> None:
    """Refuses what does not fit the images, before anything is computed.

    Raises:
      ValueError: the occlusion grid is finer than the pixels, or a corruption has no such preset.
    """
    grid, preset = chosen.occlusion.grid, chosen.corruption.preset
    if grid is not None and grid > images.image_size:
        raise ValueError(f"occlusion_grid must be at most {images.image_size}, the side of the images, got {grid}")
    for name in chosen.corruption.corruptions:
        known = corruptions.CORRUPTIONS[name].presets
        if preset is not None and preset not in known:
            raise ValueError(f"corruption_preset must be one of {', '.join(known)} for {name}, got {preset!r}")


def model_and_weights(
    chosen: config.ModelConfig, images: data.Dataset, *, adapt: bool, seed: int
) -> tuple[models.Model, Any]:
    """The model, and the weights it starts from (None where they are random).

    Args:
      chosen: name or origin of the model.
      images: decide its number of classes and image size.
      adapt: whether weights for other classes or patches are taken with a fresh head or a resized patch embedding, as
        they are trained further.
      seed: of a fresh head.

    Raises:
      ValueError: the model cannot be made, or the weights do not fit the data.
      FileNotFoundError: there is no such file of weights.
    """
    if chosen.init_from is None:
        options = {"patch_size": chosen.patch_size, "depths": chosen.depths, "dims": chosen.dims}
        options |= {"dtype": chosen.dtype or "float32", "remat": chosen.remat}
        if chosen.scan_method != "auto":
            options["scan_method"] = chosen.scan_method
        return models.create_model(chosen.name, **_made_for(images), **options), None
    origin, variables = _weights(chosen.init_from)
    classes = origin.config.num_classes
    if classes != images.num_classes and not adapt:
        raise ValueError(
            f"init_from has weights for {classes} classes and {images.name} has {images.num_classes}: "
            "choose the data they were trained on, or add train to --stages to train a new head"
        )
    fitted = dataclasses.replace(origin.config, **_made_for(images), remat=chosen.remat)
    if chosen.dtype is not None:
        fitted = dataclasses.replace(fitted, dtype=chosen.dtype)
    if chosen.patch_size is not None:
        fitted = dataclasses.replace(fitted, patch_size=chosen.patch_size)
        variables = _with_patches(variables, chosen.patch_size, adapt=adapt)
    if chosen.scan_method != "auto":
        fitted = dataclasses.replace(fitted, scan_method=chosen.scan_method)
    model = models.from_config(fitted)
    if classes != images.num_classes:
        variables = _with_new_head(model, variables, seed)
    _check_shapes(model, variables, origin.config.image_size)
    return model, variables


def scan_method(model: models.Model) -> str | None:
    """The selective scan that the model runs on this machine; None where the model has none."""
    if model.config.name not in model_table.MEDMAMBA_PRESETS:
        return None
    return scan.resolve_method(model.config.scan_method or "auto")


def identity(
    chosen: config.ExperimentConfig, images: data.Dataset, model: models.Model, variables: Any
) -> dict[str, Any]:
    """All that decides a run's numbers, as JSON: the configuration with contents in place of paths.

    The scan method is the one that `auto` stands for here, since the results of faults depend on it.
    """
    values = serial.to_json(chosen)
    del values["data"]["npz"]
    values["data"]["content"] = images.sha256[:16]
    values["model"]["scan_method"] = scan_method(model)
    # What the weights' file says of the dtype counts like the flag; rematerialisation changes no number.
    values["model"] = {name: value for name, value in values["model"].items() if name not in ("dtype", "remat")}
    if model.config.dtype != "float32":
        values["model"]["dtype"] = model.config.dtype
    values["model"]["init_from"] = None if variables is None else f"weights {weights_hash(variables)[:16]}"
    return values


def weights_hash(variables: Any) -> str:
    """SHA-256 of every array of a nested dict with its path."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_flatten_with_path(variables)[0], key=lambda entry: str(entry[0])):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def facts(images: data.Dataset, model: models.Model) -> dict[str, Any]:
    """What a report says of the images and the model, so that it can be written without them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    return {
        "name": images.name,
        "source": images.source,
        "licence": images.licence,
        "task": images.task,
        "class_names": list(images.class_names),
        "image_size": images.image_size,
        "channels": images.channels,
        "images": {name: len(split) for name, split in images.splits.items()},
        "sha256": images.sha256,
        "majority": measures.majority(images.splits["test"].labels, images.task),
        "model": serial.to_json(model.config),
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)),
    }


def _weights(origin: str) -> tuple[models.Model, Any]:
    if origin.startswith(_ZOO):
        return mamba_jax.load_pretrained(origin.removeprefix(_ZOO))
    if not pathlib.Path(origin).is_file():
        raise FileNotFoundError(f"init_from must be a .pth or .safetensors file or zoo:NAME; there is no file {origin}")
    if zoo.is_own(origin):
        return zoo.load(origin)[:2]
    return torch_import.load_medmamba(origin)


def _made_for(images: data.Dataset) -> dict[str, int]:
    """What of a model's configuration the images decide."""
    return {"num_classes": images.num_classes, "image_size": images.image_size, "in_channels": images.channels}


def _with_new_head(model: models.Model, variables: Any, seed: int) -> Any:
    head = model.init(jax.random.key(seed))["params"]["head"]
    return {**variables, "params": {**variables["params"], "head": head}}


def _with_patches(variables: Any, patch_size: int, *, adapt: bool) -> Any:
    """The weights for patches of another side, see `models.patches`."""
    embedding = variables["params"].get("patch_embed")
    if embedding is None:
        raise ValueError("patch_size cannot be given with these weights of init_from: their model has no patches")
    found = embedding["proj"]["kernel"].shape[0]
    if patch_size == found:
        return variables
    if not adapt:
        raise ValueError(
            f"init_from has weights for patch_size={found}, got patch_size={patch_size}: leave the flag out, or add "
            "train to --stages to train them further on other patches"
        )
    projection = {**embedding["proj"], "kernel": patches.resize_kernel(embedding["proj"]["kernel"], patch_size)}
    resized = {**variables["params"], "patch_embed": {**embedding, "proj": projection}}
    return {**variables, "params": resized}


def _check_shapes(model: models.Model, variables: Any, image_size: int) -> None:
    """Refuses weights that do not fit the model as it is made for these images."""
    wanted, found = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in entries}
        for entries in map(jax.tree.leaves_with_path, (jax.eval_shape(model.init, jax.random.key(0)), variables))
    )
    differs = [path for path in sorted({*wanted, *found}) if wanted.get(path) != found.get(path)]
    if differs:
        size = model.config.image_size
        remedy = f"give --image_size={image_size}" if size != image_size else "the file is of another architecture"
        raise ValueError(
            f"init_from has weights that do not fit {model.name} for images of {size} px: {differs[0]} has shape "
            f"{found.get(differs[0])}, not {wanted.get(differs[0])}; {remedy}"
        )
