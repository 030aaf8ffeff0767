"""Checkpoints on disk through Orbax: the latest training state, to go on from, and the best epoch's variables.

A save is written beside its place and renamed, so a run that is killed at any moment leaves the one before. The best
epoch is saved before the latest state: a kill between the two repeats one epoch, with the same result.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from mamba_jax import types


class CheckpointError(ValueError):
    """A checkpoint that is not there, cannot be read, or belongs to another configuration."""


class Checkpoints:
    """The two checkpoints of a training run, under one directory.

    Args:
      directory: made if it is not there. Holds `latest/` and `best/`.

    Use as a context manager, or `close` it.
    """

    def __init__(self, directory: str | pathlib.Path):
        self._directory = pathlib.Path(directory).absolute()
        self._latest = _open(self._directory / "latest")
        self._best = _open(self._directory / "best")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits for writes and lets go of the directory."""
        self._latest.close()
        self._best.close()

    def save_latest(self, epoch: int, state: Any, record: Mapping[str, Any]) -> None:
        """Keeps `state` (a pytree of arrays) and `record` (JSON data) as of the end of `epoch`."""
        _save(self._latest, epoch, state, record)

    def save_best(self, epoch: int, variables: types.Variables) -> None:
        """Keeps the variables of the best epoch so far."""
        _save(self._best, epoch, variables, {})

    def restore_latest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, record) of the last epoch saved, or None if there is none.

        Args:
          abstract_state: `jax.ShapeDtypeStruct`s of the state, from `jax.eval_shape`.

        Raises:
          CheckpointError: it is there but cannot be read into that structure.
        """
        return _restore(self._latest, abstract_state)

    def restore_best(self, abstract_variables: Any) -> types.Variables:
        """The best epoch's variables.

        Raises:
          CheckpointError: there are none yet, or they do not fit.
        """
        restored = _restore(self._best, abstract_variables)
        if restored is None:
            raise CheckpointError(f"{self._best.directory} holds no checkpoint: run the train stage first")
        return restored[0]


def load_best(directory: str | pathlib.Path, abstract_variables: Any) -> types.Variables:
    """The best epoch's variables of the run in `directory`.

    Args:
      directory: what `fit` was given.
      abstract_variables: their shapes, `jax.eval_shape(model.init, jax.random.key(0))`.

    Raises:
      CheckpointError: there is no such checkpoint, or it is of another model.
    """
    directory = pathlib.Path(directory)
    if not (directory / "best").is_dir():
        raise CheckpointError(f"{directory} holds no checkpoint: run the train stage first")
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore_best(abstract_variables)


def _on_device(leaf: Any) -> jax.ShapeDtypeStruct:
    """Says where a leaf goes; left unsaid, Orbax would put it where it was when saved, with a warning."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def _open(directory: pathlib.Path) -> ocp.training.Checkpointer:
    keep_one = ocp.training.preservation_policies.LatestN(1)
    return ocp.training.Checkpointer(directory, preservation_policy=keep_one, cleanup_tmp_directories=True)


def _save(checkpointer: ocp.training.Checkpointer, epoch: int, tree: Any, record: Mapping[str, Any]) -> None:
    checkpointer.save(epoch, tree, force=True, overwrite=True, custom_metadata=dict(record))


def _restore(checkpointer: ocp.training.Checkpointer, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
    latest = checkpointer.latest
    if latest is None:
        return None
    try:
        tree = checkpointer.load(latest.step, jax.tree.map(_on_device, abstract))
        record = checkpointer.metadata(latest.step).custom_metadata
    except (ValueError, KeyError, FileNotFoundError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"the checkpoint in {checkpointer.directory} cannot be read into this model ({reason}): "
            "use another output folder, or delete that one to train again"
        ) from error
    mismatched = [
        jax.tree_util.keystr(path)
        for (path, got), want in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(abstract), strict=True)
        if np.shape(got) != want.shape
    ]
    if mismatched:
        raise CheckpointError(
            f"the checkpoint in {checkpointer.directory} is of another model: {mismatched[0]} differs"
        )
    return tree, dict(record or {})
