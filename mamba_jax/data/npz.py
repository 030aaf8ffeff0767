"""A user's own images: a file in MedMNIST's layout, whose task and classes are read off its labels.

Such a file is never taken for an official set, whatever it is called: nothing but the MD5 that `medmnist` lists would
show that it is one (see `medmnist.load_medmnist`).
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mamba_jax.data import dataset, layout, medmnist, synthetic


def load_npz(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    task: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    size: int | None = None,
) -> dataset.Dataset:
    """Reads a user's own file in MedMNIST's layout (see `layout`); what is not said is inferred.

    Args:
      path: the npz file.
      name: what results are filed under. By default the file's stem, with "own_" before it where that is the name of
        a set known here.
      task: by default multi-label where labels have several columns, binary where there are two classes, multi-class
        otherwise. Ordinal grades look like classes, so "ordinal" has to be said.
      num_classes: by default the largest label plus one, or the number of label columns.
      class_names: "class 0", "class 1" ... by default.
      size: side in pixels to which the images are resized.

    Raises:
      DataError: the file is missing, is no npz or breaks the layout, or an argument contradicts its labels.
    """
    path = pathlib.Path(path).expanduser()
    arrays = layout.read(path)
    task = _task(path, {split: array.labels for split, array in arrays.items()}, task, num_classes)
    labels = {s: a.labels if task == "multi-label" else a.labels[:, 0] for s, a in arrays.items()}
    num_classes = _num_classes(path, labels, task, num_classes)
    own = dataset.Dataset(
        name=_name(path, name),
        task=task,
        num_classes=num_classes,
        class_names=_class_names(path, class_names, num_classes),
        splits={split: dataset.Split(arrays[split].images, labels[split]) for split in dataset.SPLITS},
        source=f"file {path.name}",
    )
    return own if size is None else dataset.resize(own, size)


def _task(path: pathlib.Path, labels: Mapping[str, np.ndarray], task: str | None, num_classes: int | None) -> str:
    if task is not None and task not in dataset.TASKS:
        raise dataset.DataError(f"task must be one of {dataset.TASKS}, got {task!r}")
    rows = np.concatenate(list(labels.values()))
    columns = rows.shape[1]
    if columns > 1 and task not in (None, "multi-label"):
        raise dataset.DataError(
            f"{path}: task {task!r} needs one label per image, the labels have {columns} columns; "
            "save class numbers [n, 1] (labels.argmax(1) if they are one-hot), or ask for task 'multi-label'"
        )
    if (columns > 1 or task == "multi-label") and rows.max() > 1:
        raise dataset.DataError(
            f"{path}: labels in {columns} columns must be 0 or 1, got {rows.max()}; save class numbers [n, 1]"
        )
    if task is None and columns > 1 and np.all(rows.sum(axis=1) == 1):
        raise dataset.DataError(
            f"{path}: the labels look one-hot ({columns} columns, one 1 per row); "
            "save class numbers [n, 1] by labels.argmax(1), or ask for task 'multi-label'"
        )
    if task is not None:
        return task
    if columns > 1:
        return "multi-label"
    return "binary" if (num_classes or rows.max() + 1) == 2 else "multi-class"


def _num_classes(path: pathlib.Path, labels: Mapping[str, np.ndarray], task: str, num_classes: int | None) -> int:
    if task == "multi-label":
        columns = labels["train"].shape[1]
        if num_classes not in (None, columns):
            raise dataset.DataError(f"{path}: num_classes must be {columns} (the label columns), got {num_classes}")
        return columns
    largest = {split: int(values.max()) for split, values in labels.items()}
    count = max(largest.values()) + 1 if num_classes is None else num_classes
    for split, label in largest.items():
        if label >= count:
            raise dataset.DataError(
                f"{path}: {split}_labels holds the label {label}, beyond 0..{count - 1}; "
                f"give num_classes={max(largest.values()) + 1} or correct the labels"
            )
    if count < 2:
        raise dataset.DataError(f"{path}: at least 2 classes are needed, all labels are 0; check the labels")
    if task == "binary" and count != 2:
        raise dataset.DataError(f"{path}: task 'binary' needs 2 classes, got {count}; ask for 'multi-class'")
    return count


def _class_names(path: pathlib.Path, names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"class {index}" for index in range(num_classes))
    if len(names) != num_classes:
        raise dataset.DataError(f"{path}: class_names must hold {num_classes} names, got {len(names)}")
    return tuple(names)


def _name(path: pathlib.Path, name: str | None) -> str:
    if name is not None:
        if _is_known(name):
            raise dataset.DataError(
                f"{path}: name {name!r} is that of a known set, and a file given by its path is not shown to be it; "
                f"choose another name, e.g. 'own_{name}'"
            )
        return name
    return f"own_{path.stem}" if _is_known(path.stem) else path.stem


def _is_known(name: str) -> bool:
    base = name.lower().partition("_")[0]
    return base in medmnist.info() or name.lower() == synthetic.NAME
