"""Data sets by name: the twelve official ones, and the drawn one that has to be asked for."""

import os

from mamba_jax.data import dataset, medmnist, synthetic


def names() -> tuple[str, ...]:
    """Every name that `load` knows."""
    return (*medmnist.names(), synthetic.NAME)


def load(name: str, *, root: str | os.PathLike | None = None, size: int = 28) -> dataset.Dataset:
    """A data set by its name.

    Args:
      name: one of `names()`: an official 2-D set of MedMNIST, or "synthetic_blood" with its default counts and seed.
      root: directory of the official files; a missing one is downloaded to it. Not needed for synthetic data.
      size: side in pixels. Official sets come at 28, 64, 128 and 224; any other side is resized from the next larger
        file, or from the largest. Cells are drawn at any side from 8.

    Raises:
      DataError: the name is unknown, or the file is not to be had; never is another set put in its place.
    """
    if name == synthetic.NAME:
        return synthetic.synthetic_blood(size=size)
    if name not in medmnist.info():
        raise dataset.DataError(f"dataset must be one of {names()}, got {name!r}")
    if size < 1:
        raise dataset.DataError(f"size must be at least 1 pixel, got {size}")
    official = next((side for side in medmnist.SIZES if side >= size), medmnist.SIZES[-1])
    return dataset.resize(medmnist.load_medmnist(name, root=root, size=official), size)
