"""Splits, batches of one shape, resizing, stratified samples and the hash of the content."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import data


def _split(count, size=6, channels=1, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    return data.Split(images, (np.arange(count) % classes).astype(np.int32))


def _dataset(**changes):
    fields = {
        "name": "tiny",
        "task": "multi-class",
        "num_classes": 3,
        "class_names": ("a", "b", "c"),
        "splits": {name: _split(count, seed=count) for name, count in zip(data.SPLITS, (9, 3, 5), strict=True)},
        "source": "made here",
    }
    return data.Dataset(**{**fields, **changes})


def test_batches_have_one_shape_and_lose_no_row():
    split = _split(10)
    found = list(data.batches(split, 4))
    assert [batch.valid for batch in found] == [4, 4, 2]
    assert {batch.images.shape for batch in found} == {(4, 6, 6, 1)}
    assert {batch.labels.shape for batch in found} == {(4,)}
    np.testing.assert_array_equal(np.concatenate([b.images[: b.valid] for b in found]), split.images)
    np.testing.assert_array_equal(np.concatenate([b.labels[: b.valid] for b in found]), split.labels)
    assert not found[-1].images[2:].any()


def test_a_split_smaller_than_a_batch_is_padded():
    labels = np.ones((3, 5), np.int32)
    (batch,) = data.batches(data.Split(_split(3).images, labels), 8)
    assert (batch.images.shape, batch.labels.shape, batch.valid) == ((8, 6, 6, 1), (8, 5), 3)
    assert batch.labels.sum() == 15


def test_pixels_become_shares():
    values = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    shares = jax.jit(data.to_float)(values)
    assert shares.dtype == jnp.float32
    np.testing.assert_allclose(shares.ravel(), np.arange(256) / 255, rtol=1e-6)
    assert shares.max() == 1.0
    np.testing.assert_array_equal(jnp.round(shares * 255).astype(jnp.uint8), values)


def test_resize_halves_by_an_antialiased_mean():
    checks = np.tile(np.array([[0, 200], [200, 0]], np.uint8), (4, 4))[None, :, :, None]
    split = data.Split(checks, np.zeros(1, np.int32))
    small = data.resize(_dataset(splits=dict.fromkeys(data.SPLITS, split)), 4).splits["val"].images
    assert small.shape == (1, 4, 4, 1)
    np.testing.assert_allclose(small, 100, atol=2)


@pytest.mark.parametrize("size", [4, 9])
def test_resize_keeps_range_labels_and_says_so(size):
    tiny = _dataset()
    resized = data.resize(tiny, size)
    assert resized.image_size == size
    assert resized.source == f"made here, resized from 6 to {size} px"
    assert resized.name == tiny.name
    for name, split in resized.splits.items():
        assert split.images.dtype == np.uint8
        np.testing.assert_array_equal(split.labels, tiny.splits[name].labels)
    assert resized.sha256 != tiny.sha256
    alone = data.resize(_dataset(splits={**tiny.splits, "test": tiny.splits["test"].take(np.array([3]))}), size)
    np.testing.assert_array_equal(alone.splits["test"].images[0], resized.splits["test"].images[3])
    assert data.resize(tiny, 6) is tiny


def test_a_constant_image_stays_constant():
    split = data.Split(np.full((2, 6, 6, 3), 255, np.uint8), np.zeros(2, np.int32))
    resized = data.resize(_dataset(splits=dict.fromkeys(data.SPLITS, split)), 14)
    assert np.all(resized.splits["test"].images == 255)


def test_a_stratified_subset_keeps_proportions_and_is_nested():
    labels = np.repeat([0, 1, 2], [60, 30, 10]).astype(np.int32)
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    split = data.Split(images, np.random.default_rng(0).permutation(labels))
    half = data.stratified_subset(split, 50, seed=1)
    assert np.bincount(half.labels).tolist() == [30, 15, 5]
    again = data.stratified_subset(split, 50, seed=1)
    np.testing.assert_array_equal(half.images, again.images)
    other = data.stratified_subset(split, 50, seed=2)
    assert not np.array_equal(half.images, other.images)
    tenth = data.stratified_subset(split, 10, seed=1)
    assert np.bincount(tenth.labels).tolist() == [6, 3, 1]
    assert set(tenth.images.ravel()) <= set(half.images.ravel())
    for row, label in zip(half.images.ravel(), half.labels, strict=True):
        assert split.labels[row] == label
    assert data.stratified_subset(split, 100, seed=0) is split


def test_a_subset_of_findings_is_uniform():
    labels = np.zeros((20, 4), np.int32)
    split = data.Split(np.arange(20, dtype=np.uint8)[:, None, None, None], labels)
    drawn = data.stratified_subset(split, 8, seed=0).images.ravel()
    assert len(set(drawn)) == 8
    assert not np.array_equal(drawn, np.arange(8))


def test_the_hash_is_of_content():
    tiny = _dataset()
    assert tiny.sha256 == _dataset(name="other", source="elsewhere").sha256
    pixel = _dataset()
    pixel.splits["test"].images[0, 0, 0, 0] ^= 1
    label = _dataset()
    label.splits["val"].labels[0] += 1
    assert len({tiny.sha256, pixel.sha256, label.sha256}) == 3
    assert len(tiny.sha256) == 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: data.Split(np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32)),
            r"images must be uint8 \[n, h, w, c\]",
        ),
        (lambda: data.Split(np.zeros((2, 4, 4, 1)), np.zeros(2, np.int32)), r"got float64 \[2, 4, 4, 1\]"),
        (lambda: data.Split(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64)), "labels must be int32"),
        (lambda: data.Split(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int32)), "2, got 3"),
        (lambda: _dataset(task="regression"), "task must be one of .* got 'regression'"),
        (lambda: _dataset(class_names=("a",)), "class_names must hold 3 names, got 1"),
        (lambda: _dataset(splits={"train": _split(3)}), "splits must be .* got .'train'"),
        (lambda: data.resize(_dataset(), 0), "size must be at least 1 pixel, got 0"),
        (lambda: next(data.batches(_split(3), 0)), "batch_size must be at least 1, got 0"),
        (lambda: data.stratified_subset(_split(3), 0, seed=0), "count must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_data_set_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _dataset().name = "other"
