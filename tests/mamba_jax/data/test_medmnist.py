"""Official sets: the table of twelve, real files where they are at hand, and files that are not the official ones."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pooch
import pytest

from mamba_jax import data
from mamba_jax.data import medmnist

ROOT = pathlib.Path(__file__).resolve().parents[3]
TASKS = {
    "pathmnist": ("multi-class", 9, 3),
    "chestmnist": ("multi-label", 14, 1),
    "dermamnist": ("multi-class", 7, 3),
    "octmnist": ("multi-class", 4, 1),
    "pneumoniamnist": ("binary", 2, 1),
    "retinamnist": ("ordinal", 5, 3),
    "breastmnist": ("binary", 2, 1),
    "bloodmnist": ("multi-class", 8, 3),
    "tissuemnist": ("multi-class", 8, 1),
    "organamnist": ("multi-class", 11, 1),
    "organcmnist": ("multi-class", 11, 1),
    "organsmnist": ("multi-class", 11, 1),
}


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Writes a small file as that of an official set, listed with its MD5, and returns its path."""

    def _official(name, size, channels, classes, columns=1):
        suffix = "" if size == 28 else f"_{size}"
        path = tmp_path / f"{name}{suffix}.npz"
        shape = (classes, size, size, 3)[: 4 if channels == 3 else 3]
        labels = np.arange(classes)[:, None] if columns == 1 else np.eye(classes, columns)
        arrays = {f"{s}_images": np.full(shape, i, np.uint8) for i, s in enumerate(data.SPLITS)}
        np.savez(path, **arrays, **{f"{s}_labels": labels.astype(np.uint8) for s in data.SPLITS})
        monkeypatch.setitem(medmnist.info()[name], f"MD5{suffix}", pooch.file_hash(str(path), alg="md5"))
        return path

    return _official


def test_the_names_are_the_twelve():
    assert set(medmnist.names()) == set(TASKS)
    assert data.names() == (*medmnist.names(), "synthetic_blood")


@pytest.mark.parametrize("name", TASKS)
def test_every_set_at_every_size(official, name):
    task, classes, channels = TASKS[name]
    for size in medmnist.SIZES:
        path = official(name, size, channels, classes, classes if task == "multi-label" else 1)
        loaded = data.load(name, root=path.parent, size=size)
        assert (loaded.name, loaded.task, loaded.num_classes) == (name, task, classes)
        assert (loaded.image_size, loaded.channels) == (size, channels)
        assert len(set(loaded.class_names)) == classes
        assert loaded.source == f"medmnist {medmnist._package().__version__} {path.stem}"
        assert loaded.licence == ("CC BY-NC 4.0" if name == "dermamnist" else "CC BY 4.0")
        labels = loaded.splits["test"].labels
        assert labels.shape == ((classes, classes) if task == "multi-label" else (classes,))
        assert loaded.splits["test"].images.max() == 2


@pytest.mark.parametrize(("size", "file_size"), [(20, 28), (32, 64), (256, 224)])
def test_another_side_is_resized_from_the_next_larger_file(official, size, file_size):
    path = official("breastmnist", file_size, 1, 2)
    loaded = data.load("breastmnist", root=path.parent, size=size)
    assert loaded.image_size == size
    assert loaded.source.endswith(f" {path.stem}, resized from {file_size} to {size} px")
    with pytest.raises(data.DataError, match="size must be one of"):
        medmnist.load_medmnist("breastmnist", root=path.parent, size=size)


def test_an_existing_file_with_another_md5_is_refused_and_left_alone(official):
    path = official("breastmnist", 28, 1, 2)
    before = path.read_bytes() + b"x"
    path.write_bytes(before)
    found, listed = pooch.file_hash(str(path), alg="md5"), medmnist.info()["breastmnist"]["MD5"]
    message = _message("breastmnist", root=path.parent)
    for part in (str(path), found, listed, "move it away", "load_npz"):
        assert part in message
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("bloodminst", {"root": "."}, ["dataset must be one of", "bloodmnist", "synthetic_blood", "got 'bloodminst'"]),
        ("organmnist3d", {"root": "."}, ["3-D volumes", "organamnist"]),
        ("bloodmnist", {"root": ".", "size": 0}, ["size must be at least 1 pixel, got 0"]),
        ("bloodmnist", {"root": ""}, ["no directory is given"]),
        ("bloodmnist", {}, ["no directory is given for bloodmnist", "MEDMNIST_ROOT"]),
    ],
)
def test_requests_that_cannot_be_met(name, options, parts):
    message = _message(name, **options)
    for part in parts:
        assert part in message


def test_importing_medmnist_says_nothing(tmp_path):
    """In a process of its own, as here it is imported already; with a home in which the package can write nothing."""
    home = tmp_path / "home"
    home.touch()
    code = "from mamba_jax.data import medmnist; raise SystemExit(len(medmnist.names()))"
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 12)


def test_a_missing_package_is_named(monkeypatch):
    medmnist._package.cache_clear()
    monkeypatch.setitem(sys.modules, "medmnist.info", None)
    assert "pip install --no-deps medmnist" in _message("bloodmnist", root=".")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("breastmnist", (546, 78, 156)),
        ("pneumoniamnist", (4708, 524, 624)),
        ("retinamnist", (1080, 120, 400)),
    ],
)
def test_real_files(medmnist_root, name, counts):
    loaded = data.load(name, root=medmnist_root)
    assert (loaded.task, loaded.num_classes, loaded.channels) == TASKS[name]
    assert loaded.image_size == 28
    assert tuple(len(split) for split in loaded.splits.values()) == counts
    for split in loaded.splits.values():
        assert set(np.unique(split.labels)) == set(range(loaded.num_classes))
    with np.load(medmnist_root / f"{name}.npz") as file:
        np.testing.assert_array_equal(loaded.splits["test"].labels, file["test_labels"][:, 0])
        np.testing.assert_array_equal(loaded.splits["test"].images.squeeze(), file["test_images"])


def test_a_real_3d_file_read_by_its_path_is_refused(medmnist_root, tmp_path):
    shutil.copy(medmnist_root / "adrenalmnist3d.npz", tmp_path)
    with pytest.raises(data.DataError, match="1 or 3 channels last"):
        data.load_npz(tmp_path / "adrenalmnist3d.npz")


def _message(name, **options):
    with pytest.raises(data.DataError) as error:
        data.load(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
