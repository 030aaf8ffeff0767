"""Logits to numbers with intervals, batches that hide nothing, and the images of the gallery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reporting import gallery
from experiments.stages import batched, measures
from mamba_jax import data
from mamba_jax.training import metrics
from threats import statistics


def _logits_and_labels(count=300, classes=4):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count).astype(np.int32)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1.0
    return logits, labels


def test_the_values_are_those_of_the_metrics_and_lie_in_their_intervals():
    logits, labels = _logits_and_labels()
    expected = metrics.evaluate_scores(logits, labels, "multi-class")
    found = measures.accuracy(logits, labels, "multi-class")
    found |= measures.whole_set(logits, labels, "multi-class", metrics=measures.WHOLE_SET, seed=0)
    assert set(found) == {"accuracy", "auc", "balanced_accuracy", "ece"}
    for name, interval in found.items():
        assert interval.value == pytest.approx(expected[name], abs=1e-12), name
        assert interval.low < interval.value <= interval.high, name
        assert interval.high - interval.low < 0.15, name
        assert interval.count == 300, name


def test_the_calibration_error_of_a_few_calibrated_images_lies_in_its_interval():
    rng = np.random.default_rng(1)
    chance = rng.uniform(0.5, 1.0, 60)
    logits = np.stack([np.log(chance), np.log1p(-chance)], axis=-1).astype(np.float32)
    labels = (rng.random(60) > chance).astype(np.int32)
    found = measures.whole_set(logits, labels, "binary", metrics=("ece",), seed=0)["ece"]
    assert 0 <= found.low < found.value <= found.high <= 1
    assert found.low < 0.05, "its true calibration error is 0"


def test_right_or_wrong_is_wilsons_and_shares_are_students():
    right = np.array([True, True, True, False])
    assert measures.of_images(right) == statistics.wilson(3, 4)
    assert measures.of_images(right.astype(np.float32)) == statistics.wilson(3, 4)
    shares = [1.0, 0.5, 0.0, 0.5]
    assert measures.of_images(shares) == statistics.mean(shares, bounds=(0, 1))


def test_what_becomes_of_each_class():
    labels, decided = np.array([0, 0, 0, 2, 2]), np.array([0, 2, -1, 2, 2])
    found = measures.by_class(decided, labels, ("a", "b", "c"))
    assert found["recall/a"] == statistics.wilson(1, 3)
    assert found["recall/c"] == statistics.wilson(2, 2)
    assert found["confusion/a > c"] == statistics.wilson(1, 3)
    assert found["confusion/a > b"] == statistics.wilson(0, 3)
    assert "recall/b" not in found, "no image is of class b"
    assert len(found) == 2 * (1 + 3)
    labels, decided = np.array([[1, 0], [1, 0], [0, 0]]), np.array([[1, 1], [0, 0], [1, 0]])
    assert measures.by_class(decided, labels, ("a", "b")) == {"recall/a": statistics.wilson(1, 2)}


def test_in_multi_label_a_share_of_labels_and_every_label_are_two_numbers():
    labels = np.array([[1, 0], [1, 1], [0, 0]], np.int32)
    logits = np.array([[2.0, -1.0], [2.0, -1.0], [1.0, 1.0]], np.float32)
    found = measures.accuracy(logits, labels, "multi-label")
    assert found["accuracy"].value == pytest.approx(0.5)
    assert found["exact_match"].value == pytest.approx(1 / 3)


def test_a_row_that_is_not_finite_is_wrong_and_counted():
    logits, labels = _logits_and_labels()
    logits[:3] = np.nan
    assert measures.nonfinite(logits).value == pytest.approx(0.01)
    right = (logits[3:].argmax(-1) == labels[3:]).sum()
    assert measures.accuracy(logits, labels, "multi-class")["accuracy"].value == pytest.approx(right / 300)


def test_the_majority_answer():
    assert measures.majority(np.array([0, 1, 1, 2]), "multi-class") == 0.5
    assert measures.majority(np.array([[1, 0], [1, 0], [0, 1]]), "multi-label") == pytest.approx(2 / 3)


def test_batches_cover_every_image_once_in_order_and_compile_once():
    images = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1)
    split = data.Split(images, np.arange(7, dtype=np.int32))
    shapes = []

    @jax.jit
    def function(key, pixels, labels):
        shapes.append(pixels.shape)
        return labels, jnp.sum(pixels, axis=(1, 2, 3)), jax.random.uniform(key, (pixels.shape[0],))

    labels, sums, draws = batched.map_batches(function, split, batch_size=3, key=jax.random.key(0))
    np.testing.assert_array_equal(labels, np.arange(7))
    np.testing.assert_allclose(sums, images.reshape(7, -1).sum(1) / 255, rtol=1e-6)
    assert shapes == [(3, 2, 2, 1)]
    assert len(set(draws.tolist())) == 7, "batches must not share their draws"


def test_the_gallery_shows_as_many_classes_as_it_can():
    labels = np.array([2, 2, 2, 0, 1, 1, 0])
    assert labels[gallery.pick(labels, 3)].tolist() == [0, 1, 2]
    assert labels[gallery.pick(labels, 5)].tolist() == [0, 1, 2, 0, 1]
    assert len(gallery.pick(np.array([[0, 1], [1, 1], [0, 1]]), 2)) == 2
