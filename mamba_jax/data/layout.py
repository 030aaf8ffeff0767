"""MedMNIST's file layout, read and checked: one npz file, six arrays.

`{train,val,test}_images`: uint8 [n, h, w] or [n, h, w, c], c = 1 or 3;
`{train,val,test}_labels`: integers [n] or [n, k].
(Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification", 2023.)
"""

import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from mamba_jax.data import dataset

_NEEDED = "{train,val,test}_images and {train,val,test}_labels"


class Arrays(NamedTuple):
    """One split as it lies in a file. images: [n, h, w, c] uint8; labels: [n, k] int32."""

    images: np.ndarray
    labels: np.ndarray


def read(path: pathlib.Path) -> dict[str, Arrays]:
    """The three splits of a file, with a channel axis and a label axis, whatever the file leaves out.

    Args:
      path: an npz file in the layout above.

    Raises:
      DataError: the file is missing, is no npz, or breaks the layout; the message names the array and the remedy.
    """
    arrays = _arrays(path)
    splits = {}
    for split in dataset.SPLITS:
        images = _images(path, f"{split}_images", arrays[f"{split}_images"])
        labels = _labels(path, f"{split}_labels", arrays[f"{split}_labels"])
        if len(images) != len(labels):
            raise dataset.DataError(
                f"{path}: {split}_images has {len(images)} rows and {split}_labels {len(labels)}; "
                "every image needs one row of labels"
            )
        splits[split] = Arrays(images, labels)
    _check_same(path, "image shapes (h, w, c)", {s: a.images.shape[1:] for s, a in splits.items()})
    _check_same(path, "numbers of label columns", {s: a.labels.shape[1] for s, a in splits.items()})
    return splits


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise dataset.DataError(f"{path}: there is no such file; give the path of an npz file")
    if not zipfile.is_zipfile(path):
        raise dataset.DataError(
            f"{path}: not an npz file, or a truncated one; write it with numpy.savez_compressed, or copy it again"
        )
    names = [f"{split}_{what}" for split in dataset.SPLITS for what in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise dataset.DataError(
                    f"{path}: {', '.join(missing)} missing (it holds {', '.join(file) or 'nothing'}); "
                    f"MedMNIST's layout needs {_NEEDED}"
                )
            return {name: _array(path, name, file) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise dataset.DataError(f"{path}: damaged ({error}); copy or write it again") from error


def _array(path: pathlib.Path, name: str, file: np.lib.npyio.NpzFile) -> np.ndarray:
    try:
        array = file[name]
    except ValueError as error:
        reason = "holds pickled Python objects" if "allow_pickle" in str(error) else f"is damaged ({error})"
        raise dataset.DataError(f"{path}: {name} {reason}; save it as a plain array of numbers") from error
    if not isinstance(array, np.ndarray):
        raise dataset.DataError(f"{path}: {name} is not a NumPy array; write the file with numpy.savez_compressed")
    return array


def _images(path: pathlib.Path, name: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise dataset.DataError(
            f"{path}: {name} must be uint8 in 0..255, got {images.dtype}; "
            "images in [0, 1] become so by (255 * images).round().astype('uint8')"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise dataset.DataError(
            f"{path}: {name} must be [n, h, w] or [n, h, w, c] with 1 or 3 channels last, got {list(images.shape)}"
        )
    if not images.size:
        raise dataset.DataError(f"{path}: {name} is empty; every split needs at least one image")
    if images.shape[1] != images.shape[2]:
        raise dataset.DataError(
            f"{path}: {name} must be square, got {images.shape[1]} x {images.shape[2]}; crop or pad the images"
        )
    return images


def _labels(path: pathlib.Path, name: str, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "iub":
        raise dataset.DataError(f"{path}: {name} must be integers, got {labels.dtype}; use astype('int64')")
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2 or labels.shape[1] < 1:
        raise dataset.DataError(f"{path}: {name} must be [n] or [n, k], got {list(labels.shape)}")
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise dataset.DataError(
            f"{path}: {name} must count classes from 0, got values from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int32)


def _check_same(path: pathlib.Path, what: str, found: dict) -> None:
    if len(set(found.values())) > 1:
        raise dataset.DataError(f"{path}: all splits need the same {what}, got {found}")
