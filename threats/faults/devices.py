"""Trials over several devices: each takes its share of a group, and has the model and the images whole.

Trials do not need each other, so that a group is cut along its first axis and every device runs the same program on its
own trials, as a machine with one device would: nothing is sent between devices, and the mesh may have any number.
Processes with devices of their own each run other trials, see `threats.campaigns`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

AXIS = "trials"


def trial_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "trials" over devices of this process, by default over all of them."""
    return jax.sharding.Mesh(np.array(jax.local_devices() if devices is None else list(devices)), (AXIS,))


def check(mesh: jax.sharding.Mesh | None) -> jax.sharding.Mesh | None:
    """The mesh, placed automatically along its axis (`jax.make_mesh` makes meshes that ask for explicit placement).

    Raises:
      ValueError: its axes are others than "trials", or it has devices of another process.
    """
    if mesh is None:
        return None
    if mesh.axis_names != (AXIS,):
        raise ValueError(f"mesh must have the one axis {AXIS!r}, got {mesh.axis_names}: use faults.trial_mesh()")
    foreign = [device for device in mesh.devices.flat if device.process_index != jax.process_index()]
    if foreign:
        raise ValueError(
            f"mesh must be of this process's own devices, got {foreign[0]} of process {foreign[0].process_index}: "
            "use faults.trial_mesh() in every process, and give each a shard of the campaign"
        )
    return trial_mesh(mesh.devices.flat)


def count(mesh: jax.sharding.Mesh | None) -> int:
    """How many devices share a group of trials; 1 without a mesh."""
    return 1 if mesh is None else mesh.size


def placement(mesh: jax.sharding.Mesh | None, *, per_trial: bool) -> jax.sharding.NamedSharding | None:
    """Of an array [t, ...], each device holding its trials, or of one that is whole on every device."""
    return None if mesh is None else jax.sharding.NamedSharding(mesh, _spec(per_trial))


def whole(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Arrays, whole on every device; without a mesh as they are."""
    return tree if mesh is None else jax.device_put(tree, placement(mesh, per_trial=False))


def cut(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Arrays [t, ...], each device holding its trials; without a mesh as they are."""
    return tree if mesh is None else jax.device_put(tree, placement(mesh, per_trial=True))


def spread(fn: Callable[..., Any], mesh: jax.sharding.Mesh | None, *per_trial: bool) -> Callable[..., Any]:
    """`fn` with each device computing its own trials; without a mesh `fn` itself.

    Args:
      fn: of arguments that are, or are not, [t, ...]; every result is [t, ...].
      mesh: t must be divisible by its devices.
      per_trial: of each argument, whether its first axis is of trials; others are whole on every device.
    """
    if mesh is None:
        return fn
    # Unchecked, as devices exchange nothing: a model's loops need not say which of their values differ between them.
    specs = tuple(map(_spec, per_trial))
    return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=_spec(True), check_vma=False)


def _spec(per_trial: bool) -> jax.sharding.PartitionSpec:
    return jax.sharding.PartitionSpec(AXIS) if per_trial else jax.sharding.PartitionSpec()
