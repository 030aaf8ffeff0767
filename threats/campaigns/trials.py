"""The trials of a campaign as arrays: which number, which stratum, what was hit, and what came of it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from threats import faults


class Trials(NamedTuple):
    """t trials with k slots each, in NumPy, so that they can be written down and read again bit for bit.

    number: [t] int64, of the campaign, from 0.
    stratum: [t] int32, an index into the campaign's strata; -1 where it has none.
    image: [t] int32, the image that a one-shot trial hits; -1 where the fault is there for all images.
    faults: [t, k], with actions.
    result: [t] and [t, k] float32.
    """

    number: np.ndarray
    stratum: np.ndarray
    image: np.ndarray
    faults: faults.Faults
    result: faults.TrialResult

    @property
    def count(self) -> int:
        """How many."""
        return len(self.number)


class Store(Protocol):
    """Where finished chunks are kept, so that a campaign that was stopped goes on from there."""

    def load(self, start: int, stop: int) -> Trials | None:
        """The trials start .. stop - 1, or None where they are not there."""

    def save(self, trials: Trials) -> None:
        """Keeps a chunk, wholly or not at all."""


def make(
    number: np.ndarray, stratum: np.ndarray, image: np.ndarray, drawn: faults.Faults, result: faults.TrialResult
) -> Trials:
    """The trials with every array in its dtype, and actions for every slot."""
    action = np.zeros(drawn.site.shape) if drawn.action is None else drawn.action
    slots = faults.Faults(*(np.asarray(x, np.int32) for x in (*drawn[:3], action)))
    ids = (np.asarray(x, kind) for x, kind in ((number, np.int64), (stratum, np.int32), (image, np.int32)))
    return Trials(*ids, slots, faults.TrialResult(*(np.asarray(x, np.float32) for x in result)))


def take(some: Trials, rows: np.ndarray | slice) -> Trials:
    """Some of the trials: rows index or mask the first axis."""
    return jax.tree.map(lambda x: x[rows], some)


def join(parts: Sequence[Trials]) -> Trials:
    """Trials after one another; there must be at least one part."""
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
