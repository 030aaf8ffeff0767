"""The twelve 2-D sets of MedMNIST, from official files on disk; a file that is missing is downloaded.

Every file is compared with the MD5 that the package `medmnist` lists, at each reading, so that a result filed under an
official name rests on the official images. An existing file is never written to.

Reference: Yang, Shi, Wei et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
classification", Scientific Data, 2023.
"""

import contextlib
import functools
import io
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import pooch

from mamba_jax.data import dataset, download, layout

SIZES: tuple[int, ...] = (28, 64, 128, 224)

_TASKS = {
    "multi-class": "multi-class",
    "binary-class": "binary",
    "ordinal-regression": "ordinal",
    "multi-label, binary-class": "multi-label",
}


def names() -> tuple[str, ...]:
    """Names of the twelve 2-D sets."""
    return tuple(name for name in info() if not _is_3d(name))


def load_medmnist(name: str, *, root: str | os.PathLike | None, size: int = 28) -> dataset.Dataset:
    """An official set; its file is downloaded to `root` where it is not there.

    The whole set is held in memory: up to 62 MB for a small set at 28 px, 16 GB for pathmnist at 224 px.

    Args:
      name: one of `names()`.
      root: directory of the official files, e.g. `bloodmnist.npz`, `bloodmnist_64.npz`; created where it is missing.
      size: one of `SIZES`. (Another side: `dataset.resize`.)

    Raises:
      DataError: the name or size is unknown, there is no `root`, the file is not the official one, or it is missing
        and cannot be downloaded.
    """
    _check_request(name, root, size)
    entry = info()[name]
    suffix = "" if size == 28 else f"_{size}"
    path = pathlib.Path(root).expanduser() / f"{name}{suffix}.npz"
    md5 = entry[f"MD5{suffix}"]
    if path.exists():
        _check_md5(path, md5)
    else:
        download.fetch(entry[f"url{suffix}"], path, md5=md5)
    arrays = layout.read(path)
    task = _TASKS[entry["task"]]
    labels = {s: a.labels if task == "multi-label" else a.labels[:, 0] for s, a in arrays.items()}
    return dataset.Dataset(
        name=name,
        task=task,
        num_classes=len(entry["label"]),
        class_names=tuple(entry["label"][str(index)] for index in range(len(entry["label"]))),
        splits={split: dataset.Split(arrays[split].images, labels[split]) for split in dataset.SPLITS},
        source=f"medmnist {_package().__version__} {path.stem}",
        licence=entry["license"],
    )


def info() -> Mapping[str, Mapping[str, Any]]:
    """`medmnist.info.INFO`: what the package says of every set, 2-D and 3-D."""
    return _package().INFO


def _check_request(name: str, root: str | os.PathLike | None, size: int) -> None:
    if name not in info():
        raise dataset.DataError(f"dataset must be one of {names()}, got {name!r}")
    if _is_3d(name):
        raise dataset.DataError(f"{name} holds 3-D volumes, and models here take 2-D images; use one of {names()}")
    if size not in SIZES:
        raise dataset.DataError(f"size must be one of {SIZES}, got {size}; load one of these and resize it")
    if not root:
        raise dataset.DataError(
            f"no directory is given for {name}; name one that holds its file or may receive it "
            "(root, --data_dir or MEDMNIST_ROOT)"
        )


def _check_md5(path: pathlib.Path, md5: str) -> None:
    try:
        found = pooch.file_hash(str(path), alg="md5")
    except OSError as error:
        raise dataset.DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if found != md5:
        raise dataset.DataError(
            f"{path}: truncated, altered or another version: its MD5 is {found}, medmnist lists {md5}; "
            "move it away to have it downloaded, or read it as your own file (load_npz, --npz)"
        )


def _is_3d(name: str) -> bool:
    return name.endswith("3d")


@functools.cache
def _package():
    # Without PyTorch the package says on standard output that its dataset classes are not there; they are not used.
    # It warns where it cannot make a directory of its own in the user's home, which is not used either.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        try:
            import medmnist.info
        except ImportError as error:
            raise dataset.DataError(
                "the package medmnist, which lists the official files, is missing; pip install --no-deps medmnist"
            ) from error
    return medmnist.info
