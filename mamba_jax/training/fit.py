"""The training loop: epochs of compiled steps, a look at the validation split after each, and a checkpoint.

A run that is stopped and called again with the same arguments goes on after its last whole epoch and ends with the same
weights as one that was never stopped. Over a mesh of devices each holds the whole state and its share of every batch,
and batch norms are those of the whole batch (see `parallel`), so the numbers do not depend on how many devices there
are, to rounding, and a run may go on on another number of them.
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

from mamba_jax import data, identity, models, types
from mamba_jax.training import checkpoint, feeding, metrics, parallel, train

_LOOK_EVERY = 10  # steps between looks at the loss
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
    mesh: jax.sharding.Mesh | None = None,
    resident: bool | None = None,
) -> FitResult:
    """Trains on the train split, chooses the epoch by the val split, and never looks at the test split.

    Args:
      model: made for the data's classes.
      dataset: task, splits.
      config: see `TrainConfig`.
      directory: of the checkpoints; a run found there with the same config is continued.
      init_variables: to start from; default `model.init` with the config's seed.
      progress: called as `progress(epoch, step, steps, figures)` every few steps and at the end of each epoch, epochs
        counted from 1, with `loss`, `accuracy`, `images_per_second` and, at the end, the epoch's row of `history`.
      mesh: one axis "data", see `parallel.make_mesh`; default one device. Where it spans the devices of several
        processes, each calls `fit` with the same arguments and a `directory` that all of them see. Batch norms take
        their statistics over the whole batch on all devices.
      resident: whether the train split is held on the device, as uint8; default if it takes at most a quarter of its
        memory. Otherwise batches are placed one ahead. The results are the same.

    Raises:
      ValueError: the batch size is not divisible by `config.accumulate` times the number of devices, or the scan is the
        fused kernel and there are several.
      TrainingDiverged: the loss is NaN or infinite; checkpoints of earlier epochs stay.
      checkpoint.CheckpointError: `directory` holds a run of another configuration, model, data or start.
    """
    key = jax.random.key(config.seed)
    init_key, run_key = jax.random.split(key)
    mesh = parallel.make_mesh() if mesh is None else parallel.check_mesh(mesh)
    if mesh.size > 1 and model.config.scan_method == "pallas":
        raise ValueError(
            "scan_method must be associative, chunked or sequential to train on several devices, over which the fused "
            "kernel is not split, got 'pallas': choose another, or train on one device"
        )
    run = _Run(model, dataset, config, run_key, progress or (lambda *_: None), mesh, resident)
    variables = model.init(init_key) if init_variables is None else init_variables
    state = parallel.to_all(train.create_state(variables, run.optimizer), mesh)
    abstract = parallel.abstract(state, mesh)
    record = {"identity": _identity(model, dataset, config, init_variables), "history": [], "best_epoch": 0}

    with checkpoint.Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore_latest(abstract)
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
        best_variables = checkpoints.restore_best(record["best_epoch"], abstract.variables)
    best_variables = jax.tree.map(jnp.asarray, parallel.to_host(best_variables))
    return FitResult(best_variables, record["best_epoch"], record["history"])


def predict(
    apply: Callable[..., jax.Array],
    variables: types.Variables,
    images: np.ndarray,
    *,
    batch_size: int = _EVALUATION_BATCH,
    mesh: jax.sharding.Mesh | None = None,
) -> np.ndarray:
    """Logits [n, k] float32 of images [n, h, w, c] uint8, in batches of one shape.

    Args:
      apply: as in `Model`; give the same (jitted) function again to avoid compiling again.
      variables: of the model.
      images: uint8.
      batch_size: images per call.
      mesh: over which `variables` lie whole, and the images are cut if it divides `batch_size`; default one device.
    """
    split = data.Split(images, np.zeros(len(images), np.int32))
    placed = parallel.replicated(mesh) if mesh is not None else None
    cut = mesh is not None and batch_size % mesh.size == 0
    logits = []
    for batch in data.batches(split, batch_size):
        given = parallel.rows(batch.images, np.arange(batch_size), mesh) if cut else batch.images
        logits.append((_logits(apply, placed, variables, given), batch.valid))
    return np.concatenate([np.asarray(rows)[:valid] for rows, valid in logits])


class _Run:
    """The parts of a run that stay the same over its epochs."""

    def __init__(self, model, dataset, config, key, progress, mesh, resident):
        split, self.validation, self.task = dataset.splits["train"], dataset.splits["val"], dataset.task
        self.count, self.batch = len(split), min(config.batch_size, len(split))
        parallel.check_batch(self.batch, accumulate=config.accumulate, devices=mesh.size)
        self.steps = self.count // self.batch
        self.optimizer = train.make_optimizer(config, steps_per_epoch=self.steps)
        self.model, self.config, self.progress, self.mesh = model, config, progress, mesh
        self.order_key, step_key = jax.random.split(key)
        self.step_key = parallel.to_all(step_key, mesh)
        policy = data.policy_for(dataset.name, policy=config.augmentation)
        update = train.make_update(
            model,
            self.optimizer,
            task=self.task,
            policy=policy,
            label_smoothing=config.label_smoothing,
            accumulate=config.accumulate,
        )
        resident = feeding.fits(split, mesh) if resident is None else resident
        self.pass_over = (feeding.resident if resident else feeding.streamed)(update, split, mesh)

    def epoch(self, epoch: int, state: train.TrainState) -> tuple[train.TrainState, dict[str, float]]:
        """One pass over the training split, then the validation split."""
        start = time.perf_counter()
        order = np.asarray(jax.random.permutation(jax.random.fold_in(self.order_key, epoch), self.count))
        order = order[: self.steps * self.batch].reshape(self.steps, self.batch)
        totals, due = {"loss": 0.0, "accuracy": 0.0}, None
        steps = self.pass_over(state, order, self.step_key)
        for step in range(1, self.steps + 1):
            state, figures = next(steps)
            # A look waits for the device, so the step after the one that is looked at has been dispatched by then.
            if due is not None:
                self._look(epoch, *due, time.perf_counter() - start)
            totals = {"loss": totals["loss"] + figures["loss"], "accuracy": totals["accuracy"] + figures["correct"]}
            due = (step, totals) if step % _LOOK_EVERY == 0 or step == self.steps else None
        self._look(epoch, *due, time.perf_counter() - start)
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
        logits = predict(self.model.apply, state.variables, self.validation.images, mesh=self.mesh)
        scores = metrics.evaluate_scores(logits, self.validation.labels, self.task)
        losses = train.loss(jnp.asarray(logits), jnp.asarray(self.validation.labels), self.task)
        return {"loss": float(jnp.mean(losses)), "accuracy": scores["accuracy"], "auc": scores["auc"]}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(apply: Callable[..., jax.Array], placed: jax.sharding.Sharding | None, variables, images) -> jax.Array:
    logits = apply(variables, data.to_float(images))
    return logits if placed is None else jax.lax.with_sharding_constraint(logits, placed)


def _identity(
    model: models.Model, dataset: data.Dataset, config: train.TrainConfig, init_variables: types.Variables | None
) -> dict[str, Any]:
    """All that decides the weights, as JSON data; on how many devices, and what is kept for gradients, does not."""
    described_model = identity.describe(dataclasses.replace(model.config, remat=False))
    described = {**identity.describe(config), "model": described_model, "data": dataset.sha256}
    start = None if init_variables is None else checkpoint.fingerprint(init_variables)
    return json.loads(json.dumps({**described, "init_variables": start}))


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What differs; a name that is left out of one of them has its default there."""
    differs = (name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
    has = {name: (found.get(name, "its default"), wanted.get(name, "its default")) for name in differs}
    return ", ".join(f"{name}={before} (asked for {after})" for name, (before, after) in has.items())
