"""Training steps: augmentation, forward and backward pass with dropped paths and batch statistics, AdamW.

The split is held on the device and the state is donated, as in `mamba_jax.training.fit`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import figures, floors, setting, timing
from mamba_jax import data, models, training

_IMAGES = 512  # in the split that batches are drawn from
_NUM_CLASSES = 8


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Seconds per step and images per second of the nano model and of MedMamba-T at 28 px."""
    sizes = given.sizes
    for name, chosen, batch, other in (
        ("medmamba_n", sizes.model_n, sizes.train_batch_n, "associative"),
        ("medmamba_t", sizes.model, sizes.batch, None),
    ):
        options = {**chosen, "num_classes": _NUM_CLASSES, "image_size": sizes.side_28, "patch_size": sizes.patch_28}
        given.say(f"training, {name}: compiling")
        work = floors.without_scan(
            functools.partial(_step_of, options), *_arguments(options, batch), gradient=True
        ).work
        methods = ("auto", other) if other else ("auto",)
        compared = {method: Steps({**options, "scan_method": method}, batch) for method in methods}
        seconds = given.compare(f"training, {name}, batch {batch}", compared)
        step = timing.median(seconds["auto"])
        against = {"other": other, "other_ratio": timing.ratio(seconds[other], seconds["auto"])} if other else {}
        floor = work.seconds(given.rates)
        yield figures.Figure(name=f"training/{name}_step", unit="s", interval=step, floor=floor, **against)
        yield figures.Figure(
            name=f"training/{name}", unit="images/s", interval=timing.rate(step, batch), floor=batch / floor
        )


class Steps:
    """Training steps one after another: each call does one and returns the new state.

    Args:
      options: of `create_model`.
      batch: images in a step.
    """

    def __init__(self, options: dict[str, Any], batch: int):
        self._step = _step(models.create_model(**options))
        self._state, *self._rest = _arguments(options, batch)

    def __call__(self) -> training.TrainState:
        self._state, _ = self._step(self._state, *self._rest)
        return self._state


def _step_of(options: dict[str, Any], method: str) -> Callable[..., Any]:
    return _step(models.create_model(**{**options, "scan_method": method}))


def _step(model: models.Model) -> Callable[..., Any]:
    return training.make_train_step(model, _optimizer(), task="multi-class", policy=data.POLICIES["dihedral"])


def _optimizer() -> Any:
    return training.make_optimizer(training.TrainConfig(), steps_per_epoch=1000)


def _arguments(options: dict[str, Any], batch: int) -> tuple[Any, ...]:
    """(state, images, labels, indices, key) of a step."""
    variables = models.create_model(**options).init(jax.random.key(0))
    state = training.train.create_state(variables, _optimizer())
    side, count = options["image_size"], max(_IMAGES, batch)
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return state, jnp.asarray(images), setting.labels(count), jnp.arange(batch), jax.random.key(1)
