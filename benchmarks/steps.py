"""Training steps one after another, as `mamba_jax.training.fit` does them: the split on the device, the state donated.

Nothing but the library is imported, since `first_step` times the imports too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba_jax import data, models, training

_IMAGES = 512  # in the split that batches are drawn from


class Steps:
    """Training steps one after another: each call does one and returns the new state.

    Args:
      options: of `create_model`.
      batch: images in a step.
    """

    def __init__(self, options: dict[str, Any], batch: int):
        self._step = _step(models.create_model(**options))
        self._state, *self._rest = arguments(options, batch)

    def __call__(self) -> training.TrainState:
        self._state, _ = self._step(self._state, *self._rest)
        return self._state


def of_method(options: dict[str, Any], method: str) -> Callable[..., Any]:
    """The jitted step of the model with that scan method."""
    return _step(models.create_model(**{**options, "scan_method": method}))


def arguments(options: dict[str, Any], batch: int) -> tuple[Any, ...]:
    """(state, images, labels, order, key) of a step."""
    variables = models.create_model(**options).init(jax.random.key(0))
    state = training.train.create_state(variables, _optimizer())
    side, count = options["image_size"], max(_IMAGES, batch)
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    labels, order = np.arange(count, dtype=np.int32) % 2, np.arange(batch, dtype=np.int32)[None]
    return state, *map(jnp.asarray, (images, labels, order)), jax.random.key(1)


def _step(model: models.Model) -> Callable[..., Any]:
    update = training.make_update(model, _optimizer(), task="multi-class", policy=data.POLICIES["dihedral"])
    return training.make_resident_step(update)


def _optimizer() -> Any:
    return training.make_optimizer(training.TrainConfig(), steps_per_epoch=1000)
