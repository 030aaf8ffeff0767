"""A user's own file: what is inferred, what can be said instead, and every broken file by its message."""

import io
import pickle

import numpy as np
import pytest

from mamba_jax import data


def _labels(arrays, function):
    return {key: function(value) for key, value in arrays.items() if key.endswith("labels")}


def test_a_file_is_read_as_it_is(write, arrays):
    own = data.load_npz(write())
    assert (own.name, own.source, own.licence) == ("cells", "file cells.npz", None)
    assert (own.task, own.num_classes, own.class_names) == ("multi-class", 3, ("class 0", "class 1", "class 2"))
    assert (own.image_size, own.channels) == (8, 3)
    for name, split in own.splits.items():
        np.testing.assert_array_equal(split.images, arrays[f"{name}_images"])
        np.testing.assert_array_equal(split.labels, arrays[f"{name}_labels"][:, 0])
        assert split.labels.dtype == np.int32


def test_grey_images_get_a_channel_axis_and_flat_labels_are_taken(write, arrays):
    grey = {key: value[..., 0] for key, value in arrays.items() if key.endswith("images")}
    own = data.load_npz(write(**grey, **_labels(arrays, lambda x: x[:, 0].astype(np.int64))))
    assert own.channels == 1
    assert own.splits["val"].images.shape == (4, 8, 8, 1)
    assert own.splits["val"].labels.tolist() == [0, 1, 2, 0]


def test_two_classes_are_binary(write, arrays):
    path = write(**_labels(arrays, lambda x: x % 2))
    assert data.load_npz(path).task == "binary"
    assert data.load_npz(path, num_classes=3).task == "multi-class"
    assert data.load_npz(path, task="multi-class").num_classes == 2


def test_several_columns_are_multi_label(write, arrays):
    def findings(labels):
        return np.concatenate([labels == 0, labels < 2, labels > 5], axis=1)

    own = data.load_npz(write(**_labels(arrays, findings)))
    assert (own.task, own.num_classes) == ("multi-label", 3)
    assert own.splits["train"].labels.shape == (12, 3)
    assert own.splits["train"].labels[:2].tolist() == [[1, 1, 0], [0, 1, 0]]


def test_what_is_said_is_taken(write):
    names = ("none", "mild", "severe", "blind")
    own = data.load_npz(write(), name="grades", task="ordinal", num_classes=4, class_names=names, size=14)
    assert (own.name, own.task, own.class_names, own.image_size) == ("grades", "ordinal", names, 14)
    assert own.source == "file cells.npz, resized from 8 to 14 px"


@pytest.mark.parametrize("stem", ["bloodmnist", "BloodMNIST_64", "synthetic_blood"])
def test_a_file_never_passes_for_a_known_set(write, stem):
    own = data.load_npz(write(f"{stem}.npz"))
    assert own.name == f"own_{stem}"
    assert own.source == f"file {stem}.npz"
    with pytest.raises(data.DataError, match="not shown to be it"):
        data.load_npz(write(), name=stem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "segmentation"}, "task must be one of .* got 'segmentation'"),
        ({"task": "binary"}, "task 'binary' needs 2 classes, got 3"),
        ({"task": "multi-label"}, "must be 0 or 1, got 2"),
        ({"num_classes": 2}, r"train_labels holds the label 2, beyond 0\.\.1; give num_classes=3"),
        ({"class_names": ("a", "b")}, "class_names must hold 3 names, got 2"),
    ],
)
def test_options_that_contradict_the_labels(write, options, message):
    _refuses(write(), message, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_images": None, "test_labels": None}, "val_images, test_labels missing .it holds train_images"),
        ({"val_images": np.zeros((4, 8, 8, 3), np.float32)}, "val_images must be uint8 in 0..255, got float32"),
        ({"val_images": np.zeros((4, 3, 8, 8), np.uint8)}, r"1 or 3 channels last, got \[4, 3, 8, 8\]"),
        ({"val_images": np.zeros((4, 8, 8, 8, 1), np.uint8)}, "val_images must be .n, h, w."),
        ({"val_images": np.zeros((4, 8, 9, 3), np.uint8)}, "val_images must be square, got 8 x 9"),
        ({"val_images": np.zeros((4, 9, 9, 3), np.uint8)}, "all splits need the same image shapes"),
        ({"val_images": np.zeros((3, 8, 8, 3), np.uint8)}, "val_images has 3 rows and val_labels 4"),
        ({"val_images": np.zeros((0, 8, 8, 3), np.uint8)}, "val_images is empty"),
        ({"val_labels": np.zeros((4, 1))}, "val_labels must be integers, got float64"),
        ({"val_labels": -np.ones((4, 1), int)}, "val_labels must count classes from 0, got values from -1"),
        ({"val_labels": np.zeros((4, 1, 1), int)}, r"val_labels must be \[n\] or \[n, k\]"),
        ({"val_labels": np.zeros((4, 2), int)}, "all splits need the same numbers of label columns"),
        ({"val_labels": np.array([["a"]] * 4, object)}, "val_labels holds pickled Python objects"),
    ],
)
def test_broken_arrays_are_named(write, changes, message):
    _refuses(write(**changes), message)


def test_one_hot_labels_are_not_mistaken_for_findings(write, arrays):
    path = write(**_labels(arrays, lambda x: np.eye(3, dtype=int)[x[:, 0]]))
    _refuses(path, r"labels look one-hot \(3 columns")
    _refuses(path, "needs one label per image, the labels have 3 columns", task="multi-class")
    assert data.load_npz(path, task="multi-label").num_classes == 3


def test_columns_that_are_not_zero_or_one(write, arrays):
    _refuses(write(**_labels(arrays, lambda x: np.concatenate([x, x], axis=1))), "must be 0 or 1, got 2")


def test_a_single_class_is_refused(write, arrays):
    _refuses(write(**_labels(arrays, np.zeros_like)), "at least 2 classes are needed")


def test_files_that_are_no_npz(tmp_path, write):
    _refuses(tmp_path / "absent.npz", "there is no such file")
    _refuses(tmp_path, "there is no such file")
    (tmp_path / "list.npz").write_bytes(pickle.dumps([1, 2, 3]))
    _refuses(tmp_path / "list.npz", "not an npz file")
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    (tmp_path / "single.npz").write_bytes(single.getvalue())
    _refuses(tmp_path / "single.npz", "not an npz file")
    whole = write().read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    _refuses(tmp_path / "half.npz", "truncated")
    flipped = bytearray(whole)
    flipped[len(whole) // 10] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(flipped)
    _refuses(tmp_path / "flipped.npz", "damaged")


def test_the_real_blood_cells(pbc_file):
    own = data.load_npz(pbc_file)
    assert (own.name, own.task, own.num_classes, own.channels) == ("pbc_blood_28", "multi-class", 8, 3)
    assert [len(split) for split in own.splits.values()] == [11959, 1712, 3421]
    assert own.source == "file pbc_blood_28.npz"


def _refuses(path, message, **options):
    with pytest.raises(data.DataError, match=message) as error:
        data.load_npz(path, **options)
    assert "\n" not in str(error.value)
