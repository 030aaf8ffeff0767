"""What part of a stage has computed, kept in a file until and after the stage has finished.

A stage that is killed goes on behind the last part that is there; the run's folder belongs to one configuration, so
that a part is always of this one.
"""

import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from experiments.storage import folder


def arrays(path: pathlib.Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a file, computed and written in one step where it is not there.

    Args:
      path: of an npz file.
      compute: makes the arrays, by name.

    Raises:
      ValueError: the file cannot be read; the message says what to do.
    """
    if not path.is_file():
        folder.write_arrays(path, **compute())
    return read(path, remedy="remove it, to have it computed again")


def read(path: pathlib.Path, *, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of such a file.

    Raises:
      ValueError: it is missing or cannot be read; the message names it and ends with the remedy.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: {remedy}")
    try:
        with np.load(path) as file:
            return dict(file)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from error
