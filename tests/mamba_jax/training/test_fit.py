"""Training learns, stops where it diverges, and ends with the same weights whether it was interrupted or not."""

import dataclasses
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import data, models, training


@pytest.fixture(scope="module")
def dataset():
    """Two classes that brightness separates, in batches that do not divide the split."""
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count, dtype=np.int32) % 2
        pixels = rng.integers(0, 100, (count, 8, 8, 1)) + 120 * labels[:, None, None, None]
        return data.Split(pixels.astype(np.uint8), labels)

    return data.Dataset(
        name="bright",
        task="binary",
        num_classes=2,
        class_names=("dark", "bright"),
        splits={"train": split(70), "val": split(20), "test": split(20)},
        source="synthetic",
    )


@pytest.fixture(scope="module")
def model():
    return models.create_model(
        "medmamba", num_classes=2, image_size=8, in_channels=1, depths=(1, 0, 0, 0), dims=(4, 8, 16, 32), d_state=2
    )


CONFIG = training.TrainConfig(epochs=3, batch_size=32, learning_rate=5e-3, warmup_epochs=1, augmentation="flip", seed=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def uninterrupted(model, dataset, directory):
    return training.fit(model, dataset, CONFIG, directory=directory)


@pytest.fixture
def finished(uninterrupted, directory, tmp_path):
    """A copy of the finished run's folder."""
    return shutil.copytree(directory, tmp_path / "run")


class _Stopped(Exception):
    pass


def test_it_learns_and_keeps_a_history(uninterrupted):
    history = uninterrupted.history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    best = history[uninterrupted.best_epoch - 1]
    assert best["val_accuracy"] == max(row["val_accuracy"] for row in history)
    assert best["val_accuracy"] > 0.9
    assert all(row["images_per_second"] > 0 for row in history)


def test_a_run_stopped_in_an_epoch_ends_with_the_same_weights(model, dataset, uninterrupted, tmp_path):
    def stop(epoch, step, steps, figures):
        if (epoch, step) == (2, 2):
            raise _Stopped

    with pytest.raises(_Stopped):
        training.fit(model, dataset, CONFIG, directory=tmp_path, progress=stop)
    resumed = training.fit(model, dataset, CONFIG, directory=tmp_path)
    chex.assert_trees_all_equal(resumed.variables, uninterrupted.variables)
    for again, first in zip(resumed.history, uninterrupted.history, strict=True):
        assert {k: v for k, v in again.items() if "second" not in k} == {
            k: v for k, v in first.items() if "second" not in k
        }


def test_a_run_killed_between_the_two_saves_repeats_the_epoch(model, dataset, uninterrupted, tmp_path, monkeypatch):
    def killed(*_):
        raise _Stopped

    with monkeypatch.context() as patched:
        patched.setattr(training.checkpoint.Checkpoints, "save_latest", killed)
        with pytest.raises(_Stopped):
            training.fit(model, dataset, CONFIG, directory=tmp_path)
    resumed = training.fit(model, dataset, CONFIG, directory=tmp_path)
    chex.assert_trees_all_equal(resumed.variables, uninterrupted.variables)
    assert resumed.best_epoch == uninterrupted.best_epoch


def test_other_data_is_not_trained_on_with_the_same_folder(model, dataset, finished):
    train = dataset.splits["train"]
    darker = {**dataset.splits, "train": data.Split(train.images // 2, train.labels)}
    with pytest.raises(training.CheckpointError, match="holds a run trained with data="):
        training.fit(model, dataclasses.replace(dataset, splits=darker), CONFIG, directory=finished)
    start = model.init(jax.random.key(5))
    with pytest.raises(training.CheckpointError, match="init_variables=None"):
        training.fit(model, dataset, CONFIG, directory=finished, init_variables=start)


def test_an_undefined_figure_is_never_the_best():
    rows = [{"val_accuracy": 0.9, "val_auc": 0.5, "val_loss": loss} for loss in (float("nan"), 2.0, 1.0)]
    assert max(rows, key=CONFIG.score) is rows[2]
    assert max(rows[:2], key=CONFIG.score) is rows[1]


def test_a_finished_run_is_not_run_again_and_its_best_can_be_loaded(model, dataset, uninterrupted, finished):
    def never(*_):
        raise AssertionError("a step was run")

    again = training.fit(model, dataset, CONFIG, directory=finished, progress=never)
    loaded = training.load_best(finished, jax.eval_shape(model.init, jax.random.key(0)))
    chex.assert_trees_all_equal(loaded, again.variables)
    chex.assert_trees_all_equal(loaded, uninterrupted.variables)

    other = dataclasses.replace(CONFIG, learning_rate=1e-4)
    with pytest.raises(training.CheckpointError, match=r"learning_rate=0.005 \(asked for 0.0001\)"):
        training.fit(model, dataset, other, directory=finished)
    wider = models.create_model("medmamba", num_classes=3, image_size=8, dims=(4, 8, 16, 32), depths=(1, 0, 0, 0))
    with pytest.raises(training.CheckpointError, match="checkpoint"):
        training.load_best(finished, jax.eval_shape(wider.init, jax.random.key(0)))


def test_no_checkpoint_is_named_as_such(model, tmp_path):
    with pytest.raises(training.CheckpointError, match="holds no checkpoint: run the train stage first"):
        training.load_best(tmp_path, jax.eval_shape(model.init, jax.random.key(0)))


def test_divergence_stops_with_what_to_change(model, dataset, tmp_path):
    broken = jax.tree.map(lambda x: x * jnp.nan, model.init(jax.random.key(0)))
    with pytest.raises(training.TrainingDiverged, match=r"loss is nan at epoch 1.*lower learning_rate \(now 0.005\)"):
        training.fit(model, dataset, CONFIG, directory=tmp_path, init_variables=broken)


def test_predict_pads_the_last_batch(model, dataset):
    variables = model.init(jax.random.key(0))
    images = dataset.splits["test"].images
    logits = training.predict(model.apply, variables, images, batch_size=8)
    assert logits.shape == (20, 2)
    whole = jax.jit(model.apply)(variables, data.to_float(images))
    np.testing.assert_allclose(logits, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"augmentation": "mixup"}, "augmentation must be one of"),
        ({"select": "f1"}, "select must be one of"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        training.TrainConfig(**change)
