"""How images reach the training step, such that the step never waits for them.

`resident` keeps the whole split on the device as uint8 and gathers each batch there; an epoch transfers its order once.
`streamed` keeps the split on the host and places one batch ahead, while the device works on the one before. Both give
the step the same batches.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mamba_jax import data
from mamba_jax.training import parallel

# Of a device's memory, for the images; activations need most of the rest.
_IMAGE_SHARE = 0.25

# (state, order [steps, b], key) -> (state, figures) after each step.
Epoch = Callable[[Any, np.ndarray, jax.Array], Iterator[tuple[Any, dict[str, jax.Array]]]]


def fits(split: data.Split, mesh: jax.sharding.Mesh) -> bool:
    """Whether the images take at most a quarter of a device's memory in every process; yes where none says (a CPU)."""
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    fit = limit is None or split.images.nbytes <= _IMAGE_SHARE * limit
    if mesh.is_multi_process:  # Their devices may differ, and all must run the same program.
        return bool(np.all(multihost_utils.process_allgather(np.asarray(fit))))
    return fit


def make_resident_step(update: Callable[..., Any], mesh: jax.sharding.Mesh | None = None) -> Callable[..., Any]:
    """The compiled step on a split that lies whole on the device: `(state, images, labels, order, key)`.

    Args:
      update: `(state, images [b, h, w, c] uint8, labels [b], key) -> (state, figures)`; the state counts its steps.
      mesh: as `parallel.make_mesh` makes it; default one device.

    Returns:
      A jitted function of the state, which is donated, images [n, h, w, c] uint8, labels, an epoch's order [steps, b]
      of indices, of which step i takes row i modulo steps, and the run's key; with `update`'s results.

    Raises:
      ValueError: the mesh has other axes than "data".
    """
    mesh = parallel.make_mesh() if mesh is None else parallel.check_mesh(mesh)
    placed = parallel.on_mesh(update, mesh)

    def step(state, images, labels, order, key):
        rows = jax.lax.with_sharding_constraint(order[state.step % order.shape[0]], parallel.sharded(mesh))
        return placed(state, images[rows], labels[rows], key)

    return jax.jit(step, donate_argnums=0)


def resident(update: Callable[..., Any], split: data.Split, mesh: jax.sharding.Mesh) -> Epoch:
    """Epochs over a split that lies whole on every device.

    Args:
      update: as `make_resident_step` has it.
      split: n images and labels.
      mesh: as `parallel.make_mesh` makes it.

    Returns:
      `epoch(state, order, key)`, order [steps, b]: iterates over (state, figures) after each step. Each state is
      donated to the step after it.
    """
    images, labels = parallel.to_all((split.images, split.labels), mesh)
    compiled = make_resident_step(update, mesh)

    def epoch(state, order, key):
        steps = len(order)
        order = parallel.to_all(order, mesh)
        for _ in range(steps):
            state, figures = compiled(state, images, labels, order, key)
            yield state, figures

    return epoch


def streamed(update: Callable[..., Any], split: data.Split, mesh: jax.sharding.Mesh) -> Epoch:
    """Epochs over a split that stays on the host; arguments and result as `resident` has them.

    A step is dispatched before the next batch is read, so reading and transfer overlap with its computation.
    """
    compiled = jax.jit(parallel.on_mesh(update, mesh), donate_argnums=0)

    def batch(indices):
        return parallel.rows(split.images, indices, mesh), parallel.rows(split.labels, indices, mesh)

    def epoch(state, order, key):
        ahead = batch(order[0])
        for step in range(len(order)):
            state, figures = compiled(state, *ahead, key)
            if step + 1 < len(order):
                ahead = batch(order[step + 1])
            yield state, figures

    return epoch
