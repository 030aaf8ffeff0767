"""Drawn blood cells in MedMNIST's layout: a data set that needs no download, for demonstrations and tests.

They resemble peripheral blood cells and show nothing about real ones: what is measured on them is evidence about
software, not about medicine. So they are used only where they are asked for by name.
"""

import numpy as np

from mamba_jax.data import cells, dataset, drawing

NAME = "synthetic_blood"
MIN_SIZE = 8

_CHUNK_PIXELS = 1 << 17


def synthetic_blood(
    *, train: int = 2048, val: int = 256, test: int = 512, size: int = 28, seed: int = 0
) -> dataset.Dataset:
    """Draws the data set: eight balanced classes (see `cells.KINDS`) in random order.

    Each split has its own stream of the seed, so the number of images in one does not change another.

    Args:
      train, val, test: number of images per split.
      size: side in pixels.
      seed: of every draw.

    Raises:
      DataError: a split has no images, or `size` is below `MIN_SIZE`.
    """
    counts = {"train": train, "val": val, "test": test}
    for split, count in counts.items():
        if count < 1:
            raise dataset.DataError(f"{split} must be at least 1 image, got {count}")
    if size < MIN_SIZE:
        raise dataset.DataError(f"size must be at least {MIN_SIZE} pixels for drawn cells, got {size}")
    return dataset.Dataset(
        name=NAME,
        task="multi-class",
        num_classes=len(cells.KINDS),
        class_names=tuple(cells.KINDS),
        splits={s: _split(np.random.default_rng([seed, i]), n, size) for i, (s, n) in enumerate(counts.items())},
        source="synthetic" if seed == 0 else f"synthetic, seed {seed}",
    )


def _split(rng: np.random.Generator, count: int, size: int) -> dataset.Split:
    labels = rng.permutation(np.arange(count) % len(cells.KINDS)).astype(np.int32)
    scenes = cells.sample(rng, labels)
    chunk = max(1, _CHUNK_PIXELS // size**2)
    images = [
        drawing.draw(rng, cells.Scenes(*(field[start : start + chunk] for field in scenes)), size=size)
        for start in range(0, count, chunk)
    ]
    return dataset.Split(np.concatenate(images), labels)
