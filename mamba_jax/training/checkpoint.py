"""Checkpoints on disk through Orbax: the latest training state, to go on from, and the best epoch's variables.

A save is written beside its place and renamed, so a run that is killed at any moment leaves the one before. The best
epoch is saved before the latest state: a kill between the two repeats one epoch, with the same result.
"""

import hashlib
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
        self._latest = _open(self._directory / "latest", keep=1)
        # A kill after saving a new best and before the latest state leaves a record that still names the one before.
        self._best = _open(self._directory / "best", keep=2)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or issubclass(kind, Exception):  # an interrupt does not wait for a write; the one before stays
            self.close()

    def close(self) -> None:
        """Waits for writes and lets go of the directory."""
        self._latest.close()
        self._best.close()

    def save_latest(self, epoch: int, state: Any, record: Mapping[str, Any]) -> None:
        """Keeps `state` (a pytree of arrays) and `record` (JSON data) as of the end of `epoch`."""
        _save(self._latest, epoch, state, record)

    def save_best(self, epoch: int, variables: types.Variables) -> None:
        """Keeps the variables of the best epoch so far, beside those of the one before."""
        _save(self._best, epoch, variables, {})

    def restore_latest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, record) of the last epoch saved, or None if there is none.

        Args:
          abstract_state: `jax.ShapeDtypeStruct`s of the state, from `jax.eval_shape`; where they name a sharding, the
            arrays are placed so, otherwise on the first device.

        Raises:
          CheckpointError: it is there but cannot be read into that structure.
        """
        latest = self._latest.latest
        return None if latest is None else _restore(self._latest, latest.step, abstract_state)

    def restore_best(self, epoch: int, abstract_variables: Any) -> types.Variables:
        """The variables saved as the best ones at `epoch`.

        Raises:
          CheckpointError: there are none, or they do not fit.
        """
        return _restore(self._best, epoch, abstract_variables)[0]


def load_best(directory: str | pathlib.Path, abstract_variables: Any) -> types.Variables:
    """The best epoch's variables of the run in `directory`.

    Args:
      directory: what `fit` was given.
      abstract_variables: their shapes, `jax.eval_shape(model.init, jax.random.key(0))`.

    Raises:
      CheckpointError: there is no such checkpoint, or it is of another model.
    """
    directory = pathlib.Path(directory).absolute()
    missing = f"{directory} holds no checkpoint: run the train stage first"
    if not all((directory / name).is_dir() for name in ("latest", "best")):
        raise CheckpointError(missing)
    # Opened to read: nothing is cleaned up under a training that may be going on in the same folder.
    with (
        ocp.training.Checkpointer(directory / "latest") as latest,
        ocp.training.Checkpointer(directory / "best") as best,
    ):
        if latest.latest is None:
            raise CheckpointError(missing)
        record = latest.metadata(latest.latest.step).custom_metadata
        return _restore(best, record["best_epoch"], abstract_variables)[0]


def fingerprint(variables: types.Variables) -> str:
    """SHA-256 of every array of a nested dict with its path."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(variables), key=lambda entry: str(entry[0])):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """Says where a leaf goes; left unsaid, Orbax would put it where it was when saved, with a warning."""
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _open(directory: pathlib.Path, *, keep: int) -> ocp.training.Checkpointer:
    policy = ocp.training.preservation_policies.LatestN(keep)
    return ocp.training.Checkpointer(directory, preservation_policy=policy, cleanup_tmp_directories=True)


def _save(checkpointer: ocp.training.Checkpointer, epoch: int, tree: Any, record: Mapping[str, Any]) -> None:
    checkpointer.save(epoch, tree, force=True, overwrite=True, custom_metadata=dict(record))


def _restore(checkpointer: ocp.training.Checkpointer, epoch: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
    where = f"the checkpoint of epoch {epoch} in {checkpointer.directory}"
    try:
        found = checkpointer.metadata(epoch)
        same_shapes = _shapes(found.metadata) == _shapes(abstract)
        tree = checkpointer.load(epoch, jax.tree.map(_placed, abstract)) if same_shapes else None
    except (ValueError, KeyError, OSError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{where} cannot be read ({reason}): delete that folder to train again") from error
    if not same_shapes:
        raise CheckpointError(f"{where} is of another model: use another output folder, or the model it was made with")
    return tree, dict(found.custom_metadata or {})


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    """Of all leaves, in an order that does not depend on how the tree is nested."""
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: hasattr(leaf, "shape")))
