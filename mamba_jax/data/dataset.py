"""What a labelled image data set is here: three splits of uint8 images, integer labels, and where they came from.

Images stay uint8 until a batch is used (`to_float`), so that the largest sets fit in memory and the hash of a data set
is a hash of exact bytes. Nothing in this file reads a file: see `catalogue.load` and `npz.load_npz`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mamba_jax import types

TASKS: tuple[str, ...] = get_args(types.Task)
SPLITS: tuple[str, ...] = ("train", "val", "test")


class DataError(ValueError):
    """Data that cannot be used, or cannot be had: one line that names the thing and the remedy."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in the same order.

    Attributes:
      images: [n, h, w, c] uint8, c = 1 or 3.
      labels: [n] int32 class numbers, or [n, k] int32 0/1 where the task is multi-label.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 [n, h, w, c], got {_describe(self.images)}")
        if self.labels.ndim not in (1, 2) or self.labels.dtype != np.int32:
            raise ValueError(f"labels must be int32 [n] or [n, k], got {_describe(self.labels)}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"as many labels as images are needed: {len(self.images)}, got {len(self.labels)}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> "Split":
        """The images and labels at `indices` [m], in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set with its task and its origin.

    Attributes:
      name: what results are filed under.
      task: one of `TASKS`.
      num_classes: number of classes; of labels where the task is multi-label.
      class_names: one name per class.
      splits: "train", "val" and "test" to their `Split`.
      source: where the images came from, e.g. "medmnist 3.0.2 bloodmnist", "file cells.npz", "synthetic".
      licence: of the images, where known.
    """

    name: str
    task: str
    num_classes: int
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    source: str
    licence: str | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {TASKS}, got {self.task!r}")
        if tuple(self.splits) != SPLITS:
            raise ValueError(f"splits must be {SPLITS} in this order, got {tuple(self.splits)}")
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names must hold {self.num_classes} names, got {len(self.class_names)}")

    @property
    def image_size(self) -> int:
        """Side of the (square) images, in pixels."""
        return self.splits["train"].images.shape[1]

    @property
    def channels(self) -> int:
        """Colour channels: 1 or 3."""
        return self.splits["train"].images.shape[3]

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of shapes, pixels and labels of every split: of what a model sees, not of a name or a file format."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            digest.update(f"{name} {split.images.shape} {split.labels.shape}\n".encode())
            digest.update(np.ascontiguousarray(split.images))
            digest.update(np.ascontiguousarray(split.labels, dtype="<i4"))
        return digest.hexdigest()


class Batch(NamedTuple):
    """A batch of fixed shape, of which the first `valid` rows are real.

    images: [batch_size, h, w, c] uint8, zero beyond `valid`. labels: [batch_size] or [batch_size, k] int32, likewise.
    """

    images: np.ndarray
    labels: np.ndarray
    valid: int


def batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """All of a split in its order, in batches of one shape, so that an evaluation step compiles once.

    No row is dropped: the last batch is padded with zeros and says how many rows of it are real.

    Args:
      split: n images and labels.
      batch_size: rows of every batch, also where the split is smaller.

    Raises:
      ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for start in range(0, len(split), batch_size):
        rows = slice(start, start + batch_size)
        valid = min(batch_size, len(split) - start)
        yield Batch(_pad(split.images[rows], batch_size), _pad(split.labels[rows], batch_size), valid)


def to_float(images: jax.Array | np.ndarray) -> jax.Array:
    """Pixels as a model's `apply` takes them: uint8 [b, h, w, c] -> float32 [b, h, w, c] in [0, 1]."""
    return jnp.asarray(images).astype(jnp.float32) / 255.0


def resize(dataset: Dataset, size: int) -> Dataset:
    """The data set at another side length; bilinear, with an antialiasing filter where it shrinks.

    Pillow does it in integers, so the bytes, and with them `sha256`, are the same on every machine.

    Args:
      dataset: of any side.
      size: new side in pixels.

    Returns:
      The same data set if it has that size already; otherwise one whose `source` says that it was resized.

    Raises:
      ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if size == dataset.image_size:
        return dataset
    splits = {name: Split(_resize(split.images, size), split.labels) for name, split in dataset.splits.items()}
    source = f"{dataset.source}, resized from {dataset.image_size} to {size} px"
    return dataclasses.replace(dataset, splits=splits, source=source)


def stratified_subset(split: Split, count: int, *, seed: int) -> Split:
    """A random sample that keeps the class proportions (to rounding), in the split's order.

    A member with the random rank r in its class of m has the position (r + 1/2) / m; the `count` smallest positions are
    taken. So a smaller sample with the same seed lies in the larger one. Multi-label: a uniform sample.

    Args:
      split: n images and labels.
      count: how many to keep; the whole split if it has no more.
      seed: of the draw.

    Raises:
      ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if count >= len(split):
        return split
    order = np.random.default_rng(seed).permutation(len(split))
    if split.labels.ndim == 1:
        order = order[np.argsort(_positions(split.labels[order]), kind="stable")]
    return split.take(np.sort(order[:count]))


def _positions(labels: np.ndarray) -> np.ndarray:
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    ranks = np.empty(len(labels))
    ranks[by_class] = np.arange(len(labels)) - first[labels[by_class]]
    return (ranks + 0.5) / counts[labels]


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    missing = count - len(rows)
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    flat = images[..., 0] if images.shape[3] == 1 else images
    bilinear = Image.Resampling.BILINEAR
    resized = [np.asarray(Image.fromarray(image).resize((size, size), bilinear)) for image in flat]
    return np.stack(resized).reshape(len(images), size, size, images.shape[3])


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
