"""A small file in MedMNIST's layout, for the tests to write whole or broken."""

import numpy as np
import pytest


@pytest.fixture
def arrays():
    """Six arrays: 12, 4 and 6 colour images of 8 px in three classes, labels [n, 1] as in official files."""
    rng = np.random.default_rng(0)
    made = {}
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        made[f"{split}_images"] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(count) % 3).astype(np.uint8)[:, None]
    return made


@pytest.fixture
def write(tmp_path, arrays):
    """Writes those arrays with changes, a change to None leaving one out, and returns the path."""

    def _write(name="cells.npz", **changes):
        kept = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
        np.savez(tmp_path / name, **kept)
        return tmp_path / name

    return _write
