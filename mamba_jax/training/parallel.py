"""Data-parallel training: every device holds the whole state, and its share of each batch.

With D devices on the mesh axis "data", device d has rows d b / D .. (d + 1) b / D of a batch of b images. The step is
one program over the whole batch, which XLA splits by these placements (GSPMD): gradients are those of the whole batch,
and batch norms take their mean and variance over all b images on all devices, not over each device's own. So the
numbers do not depend on D, to rounding. The devices of several processes can be one mesh: each process calls the same
functions with the same arguments (see `jax.distributed`).

Reference: Xu et al., "GSPMD: General and Scalable Parallelization for ML Computation Graphs", 2021.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "data" over `devices`; by default over the first of this process alone."""
    devices = jax.local_devices()[:1] if devices is None else list(devices)
    return jax.sharding.Mesh(np.array(devices), (AXIS,))


def check_mesh(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
    """The mesh, placed automatically along its axis (`jax.make_mesh` makes meshes that ask for explicit placement).

    Raises:
      ValueError: its axes are others than "data".
    """
    if mesh.axis_names != (AXIS,):
        raise ValueError(f"mesh must have the one axis {AXIS!r}, got {mesh.axis_names}")
    return make_mesh(mesh.devices.flat)


def check_batch(batch_size: int, *, accumulate: int, devices: int) -> None:
    """Raises ValueError if a batch cannot be cut into equal micro-batches with equal shares for the devices."""
    parts = accumulate * devices
    if batch_size % parts:
        fitting = max(batch_size - batch_size % parts, parts)
        raise ValueError(
            f"batch_size must be divisible by accumulate times the number of devices ({accumulate} x {devices}), "
            f"got batches of {batch_size} images: {fitting} would do"
        )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """The placement of the state: whole on every device."""
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def sharded(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """The placement of a batch: its first axis cut along the mesh."""
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def to_all(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Arrays that every process has, whole on every device; random keys included."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _to_all_processes(leaf, sharding), tree)


def abstract(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes, dtypes and the placement of `to_all`, to restore a checkpoint with."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), tree)


def rows(array: np.ndarray, indices: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
    """`array[indices]` cut along the mesh; each process reads the rows of its own devices only."""
    shape = (len(indices), *array.shape[1:])
    return jax.make_array_from_callback(shape, sharded(mesh), lambda index: array[indices[index[0]]])


def to_host(tree: Any) -> Any:
    """Arrays that are whole on every device, as NumPy arrays."""
    return jax.tree.map(np.asarray, tree)


def on_mesh(update: Callable[..., Any], mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """`update(state, images, labels, key)` with the batch cut along the mesh and the results whole on every device."""

    def placed(state, images, labels, key):
        images, labels = jax.lax.with_sharding_constraint((images, labels), sharded(mesh))
        return jax.lax.with_sharding_constraint(update(state, images, labels, key), replicated(mesh))

    return placed


def _to_all_processes(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _to_all_processes(jax.random.key_data(leaf), sharding)
        implementation = str(jax.random.key_impl(leaf))
        return jax.jit(lambda data: jax.random.wrap_key_data(data, impl=implementation), out_shardings=sharding)(data)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
