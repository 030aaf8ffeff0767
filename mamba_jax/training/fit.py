"""The training loop: epochs of compiled steps, a look at the validation split after each, and a checkpoint.

A run that is stopped and called again with the same arguments goes on after its last whole epoch and ends with the same
weights as one that was never stopped.
"""

import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba_jax import data, models, types
from mamba_jax.training import checkpoint, metrics, train

_LOOK_EVERY = 10  # steps between looks at the loss; each look waits for the device
_EVALUATION_BATCH = 256

Progress = Callable[[int, int, int, dict[str, float]], None]


class TrainingDiverged(ValueError):
    """The loss is no longer finite."""


class FitResult(NamedTuple):
    """What training leaves.

    variables: of the best epoch. best_epoch: counted from 1. history: one dict per epoch, with `epoch`, `train_loss`,
    `train_accuracy`, `val_loss`, `val_accuracy`, `val_auc`, `seconds`, `images_per_second`.
    """

    variables: types.Variables
    best_epoch: int
    history: list[dict[str, float]]


def fit(
    model: models.Model,
    dataset: data.Dataset,
    config: train.TrainConfig,
    *,
    directory: str | pathlib.Path,
    init_variables: types.Variables | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Trains on the train split, chooses the epoch by the val split, and never looks at the test split.

    Args:
      model: made for the data's classes.
      dataset: task, splits; the train split is held on the device as uint8.
      config: see `TrainConfig`.
      directory: of the checkpoints; a run found there with the same config is continued.
      init_variables: to start from; default `model.init` with the config's seed.
      progress: called as `progress(epoch, step, steps, figures)` every few steps and at the end of each epoch, epochs
        counted from 1, with `loss`, `accuracy`, `images_per_second` and, at the end, the epoch's row of `history`.

    Raises:
      TrainingDiverged: the loss is NaN or infinite; checkpoints of earlier epochs stay.
      checkpoint.CheckpointError: `directory` holds a run of another configuration, model, data or start.
    """
    key = jax.random.key(config.seed)
    init_key, run_key = jax.random.split(key)
    run = _Run(model, dataset, config, run_key, progress or (lambda *_: None))
    variables = model.init(init_key) if init_variables is None else init_variables
    state = train.create_state(variables, run.optimizer)
    record = {"identity": _identity(model, dataset, config, init_variables), "history": [], "best_epoch": 0}

    with checkpoint.Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore_latest(jax.eval_shape(lambda: state))
        if restored is not None:
            state, found = restored
            if found["identity"] != record["identity"]:
                raise checkpoint.CheckpointError(
                    f"{directory} holds a run trained with {_difference(found['identity'], record['identity'])}: "
                    "use another output folder, or delete that one"
                )
            record = found
        for epoch in range(len(record["history"]) + 1, config.epochs + 1):
            state, row = run.epoch(epoch, state)
            history = [*record["history"], row]
            best = max(history, key=config.score)["epoch"]
            if best == epoch:
                checkpoints.save_best(epoch, state.variables)
            record = {**record, "history": history, "best_epoch": best}
            checkpoints.save_latest(epoch, state, record)
            run.progress(epoch, run.steps, run.steps, row)
        best_variables = checkpoints.restore_best(record["best_epoch"], jax.eval_shape(lambda: state.variables))
    return FitResult(best_variables, record["best_epoch"], record["history"])


def predict(
    apply: Callable[..., jax.Array],
    variables: types.Variables,
    images: np.ndarray,
    *,
    batch_size: int = _EVALUATION_BATCH,
) -> np.ndarray:
    """Logits [n, k] float32 of images [n, h, w, c] uint8, in batches of one shape.

    Args:
      apply: as in `Model`; give the same (jitted) function again to avoid compiling again.
      variables: of the model.
      images: uint8.
      batch_size: images per call.
    """
    split = data.Split(images, np.zeros(len(images), np.int32))
    logits = [_logits(apply, variables, batch.images)[: batch.valid] for batch in data.batches(split, batch_size)]
    return np.concatenate([np.asarray(rows) for rows in logits])


class _Run:
    """The parts of a run that stay the same over its epochs."""

    def __init__(self, model: models.Model, dataset: data.Dataset, config: train.TrainConfig, key: jax.Array, progress):
        self.split, self.validation, self.task = dataset.splits["train"], dataset.splits["val"], dataset.task
        self.batch = min(config.batch_size, len(self.split))
        self.steps = len(self.split) // self.batch
        self.optimizer = train.make_optimizer(config, steps_per_epoch=self.steps)
        self.model, self.config, self.progress = model, config, progress
        self.order_key, self.step_key = jax.random.split(key)
        self.images, self.labels = jnp.asarray(self.split.images), jnp.asarray(self.split.labels)
        policy = data.policy_for(dataset.name, policy=config.augmentation)
        self.step = train.make_train_step(
            model, self.optimizer, task=self.task, policy=policy, label_smoothing=config.label_smoothing
        )

    def epoch(self, epoch: int, state: train.TrainState) -> tuple[train.TrainState, dict[str, float]]:
        """One pass over the training split, then the validation split."""
        start = time.perf_counter()
        order = jax.random.permutation(jax.random.fold_in(self.order_key, epoch), len(self.split))
        order = order[: self.steps * self.batch].reshape(self.steps, self.batch)
        totals = {"loss": 0.0, "accuracy": 0.0}
        for step in range(self.steps):
            state, figures = self.step(state, self.images, self.labels, order[step], self.step_key)
            totals = {"loss": totals["loss"] + figures["loss"], "accuracy": totals["accuracy"] + figures["correct"]}
            if (step + 1) % _LOOK_EVERY == 0 or step + 1 == self.steps:
                self._look(epoch, step + 1, totals, time.perf_counter() - start)
        seconds = time.perf_counter() - start
        row = {"epoch": epoch, **{f"train_{k}": float(v) / self.steps for k, v in totals.items()}}
        row |= {f"val_{k}": v for k, v in self._validate(state).items()}
        return state, row | {"seconds": seconds, "images_per_second": self.steps * self.batch / seconds}

    def _look(self, epoch: int, step: int, totals: dict[str, Any], seconds: float) -> None:
        figures = {name: float(total) / step for name, total in totals.items()}
        if not math.isfinite(figures["loss"]):
            raise TrainingDiverged(
                f"the training loss is {figures['loss']} at epoch {epoch}, step {step} of {self.steps}: lower "
                f"learning_rate (now {self.config.learning_rate}) or lengthen warmup_epochs (now "
                f"{self.config.warmup_epochs})"
            )
        self.progress(epoch, step, self.steps, figures | {"images_per_second": step * self.batch / seconds})

    def _validate(self, state: train.TrainState) -> dict[str, float]:
        logits = predict(self.model.apply, state.variables, self.validation.images)
        scores = metrics.evaluate_scores(logits, self.validation.labels, self.task)
        losses = train.loss(jnp.asarray(logits), jnp.asarray(self.validation.labels), self.task)
        return {"loss": float(jnp.mean(losses)), "accuracy": scores["accuracy"], "auc": scores["auc"]}


@functools.partial(jax.jit, static_argnums=0)
def _logits(apply: Callable[..., jax.Array], variables: types.Variables, images: jax.Array) -> jax.Array:
    return apply(variables, data.to_float(images))


def _identity(
    model: models.Model, dataset: data.Dataset, config: train.TrainConfig, init_variables: types.Variables | None
) -> dict[str, Any]:
    """All that decides the weights, as JSON data."""
    described = {**dataclasses.asdict(config), "model": dataclasses.asdict(model.config), "data": dataset.sha256}
    start = None if init_variables is None else checkpoint.fingerprint(init_variables)
    return json.loads(json.dumps({**described, "init_variables": start}))


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return ", ".join(f"{k}={found.get(k)} (asked for {v})" for k, v in wanted.items() if found.get(k) != v)
