"""Trials in compiled stages: fault-free values once, then of each trial only what its faults reach (see `reuse`)."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from threats import outcomes
from threats.faults import batching, bits, injection, program, reuse, sites, slots


class Stages:
    """The trials of one table on one set of images; programs are compiled when a trial first needs them.

    Args:
      apply: (variables, images) -> logits [b, c].
      images: [n, h, w, c].
      labels: [n] or [n, k].
      reference: [n, c] fault-free logits; None for those of the run that is kept.
      table: the sites that faults point into.
      task: one of `outcomes.TASKS`.
      images_at_once: b.
      trials_at_once: 1 runs trials one after another, more run as many under `jax.vmap`.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        images: jax.Array,
        labels: jax.Array,
        reference: jax.Array | None,
        table: sites.SiteTable,
        *,
        task: outcomes.Task,
        images_at_once: int,
        trials_at_once: int,
    ):
        self._apply, self._table, self._task, self._at_once = apply, table, task, trials_at_once
        self._count = images.shape[0]
        self._images, self._labels = (list(batching.split(jnp.asarray(x), images_at_once)) for x in (images, labels))
        self._reference = None if reference is None else list(batching.split(jnp.asarray(reference), images_at_once))
        self._valid = list(batching.valid(self._count, images_at_once))
        self._leaves: list[Any] | None = None

    def prepare(self, variables: Mapping[str, Any]) -> bool:
        """Runs the model without a fault, unless these variables were the last; False if its program is not flat."""
        leaves = jax.tree.leaves(variables)
        if self._leaves is not None and all(a is b for a, b in zip(leaves, self._leaves, strict=True)):
            return True
        found = program.trace(self._apply, variables, self._images[0], self._table)
        if found is None:
            return False
        self._found, self._plan = found, reuse.plan(found, self._table, batches=len(self._images))
        self._clean = reuse.clean(found, self._plan, variables, self._images)
        self._suffixes: dict[int, Callable[..., jax.Array]] = {}
        if self._reference is None:
            self._reference = [values[found.logits] for values in self._clean.batched]
        self._tapped = _tapped(self._apply, variables, self._images[0][:1], self._table)
        self._leaves = leaves
        return True

    def __call__(self, faults: slots.Faults) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means [t, 4] of `campaign.TrialResult`, and the values [t, k] before and after; after `prepare`."""
        faults = jax.tree.map(np.asarray, faults)
        part = np.where(faults.site >= 0, self._plan.part_of[faults.site], 0).max(axis=1)
        sums = np.empty((len(part), 4), np.float32)
        groups = [
            (int(number), members[start : start + self._at_once])
            for number in np.unique(part)
            for members in [np.flatnonzero(part == number)]
            for start in range(0, len(members), self._at_once)
        ]
        # First one group of every part, so that no two threads compile the same program.
        first = [groups[next(i for i, (n, _) in enumerate(groups) if n == number)] for number in np.unique(part)]
        later = [group for group in groups if not any(group is other for other in first)]

        def run(group):
            number, rows = group
            sums[rows] = self._sums(number, jax.tree.map(lambda leaf: leaf[rows], faults))

        with _threads() as pool:
            list(pool.map(run, first))
            list(pool.map(run, later))
        return sums / np.float32(self._count), *self._hit(faults)

    def _sums(self, number: int, faults: slots.Faults) -> np.ndarray:
        count = len(faults.site)
        part = self._plan.parts[number]
        rank = np.full(len(self._table) + 1, -1, np.int32)  # entry -1: unused slots
        rank[list(part.members)] = np.arange(len(part.members))
        faults = slots.Faults(jnp.asarray(rank[faults.site]), jnp.asarray(faults.element), jnp.asarray(faults.bit))
        faults = slots.pad(faults, self._at_once)
        if number not in self._suffixes:
            self._suffixes[number] = _suffix(self._found, part, self._table, self._task, alone=self._at_once == 1)
        weights, suffix = self._weights(part, faults), self._suffixes[number]
        total = 0.0
        for values, labels, reference, valid in zip(
            self._clean.batched, self._labels, self._reference, self._valid, strict=True
        ):
            kept = [values[var] if var in values else self._clean.fixed[var] for var in part.kept]
            total += suffix(kept, weights, faults, labels, reference, valid)
        return np.asarray(total)[:count]

    def _weights(self, part: reuse.Part, faults: slots.Faults) -> dict[int, jax.Array]:
        """By rank in the part: its weights, those that the trial hits with their flips; fault-free ones for `vmap`."""
        leaf_of = self._found.leaves
        ranks = {rank: index for rank, index in enumerate(part.members) if index in leaf_of}
        weights = {rank: self._clean.fixed[leaf_of[index]] for rank, index in ranks.items()}
        if self._at_once == 1:
            for rank in {int(rank) for rank in np.asarray(faults.site).ravel()} & set(ranks):
                one = jax.tree.map(lambda slot: slot[0], faults)
                own = one._replace(site=jnp.where(one.site == rank, 0, -1))
                weights[rank] = _flipped(weights[rank], own, site=self._table[ranks[rank]])
        return weights

    def _hit(self, faults: slots.Faults) -> tuple[np.ndarray, np.ndarray]:
        """The value of each slot [t, k] float32 before and after; NaN where unused."""
        before = np.full(faults.site.shape, np.nan, np.float32)
        after = before.copy()
        for index in np.unique(faults.site[faults.site >= 0]):
            site = self._table[index]
            leaf = self._found.leaves.get(index)
            array = np.asarray(self._tapped[site.path][0] if leaf is None else self._clean.fixed[leaf]).reshape(-1)
            for trial in np.flatnonzero((faults.site == index).any(axis=1)):
                own = faults.site[trial] == index
                element = faults.element[trial][own]
                before[trial, own] = array[element].astype(np.float32)
                after[trial, own] = _after(array, element, faults.bit[trial][own])
        return before, after


def _suffix(
    found: program.Program, part: reuse.Part, table: sites.SiteTable, task: outcomes.Task, *, alone: bool
) -> Callable[..., jax.Array]:
    """The compiled (kept, weights, faults [t, k], labels, reference, valid) -> sums over the images [t, 4]."""
    own = sites.SiteTable(tuple(table[index] for index in part.members))
    by_rank = {rank: found.leaves[index] for rank, index in enumerate(part.members) if index in found.leaves}

    def trial(fault, kept, weights, labels, reference, valid):
        if not alone:
            weights = injection.flipped_leaves(weights, own, fault)
        values = dict(zip(part.kept, kept, strict=True))
        values.update({var: weights[rank] for rank, var in by_rank.items()})
        flips = {part.members[rank]: flip for rank, flip in injection.activation_flips(own, fault).items()}
        logits = program.run(found, part.equations, values, flips)[found.logits]
        return outcomes.sums(logits, labels, reference, valid, task)

    def trials(kept, weights, faults, *data):
        if alone:
            return trial(jax.tree.map(lambda slot: slot[0], faults), kept, weights, *data)[None]
        return jax.vmap(lambda fault: trial(fault, kept, weights, *data))(faults)

    return jax.jit(trials)


@contextlib.contextmanager
def _threads() -> Iterator[futures.ThreadPoolExecutor]:
    """As many threads as cores on a CPU, where much of a small program keeps one core busy; else one."""
    pool = futures.ThreadPoolExecutor((os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@functools.partial(jax.jit, static_argnames="site")
def _flipped(leaf: jax.Array, fault: slots.Faults, *, site: sites.Site) -> jax.Array:
    return injection.flipped_leaves({0: leaf}, sites.SiteTable((site,)), fault)[0]


def _after(array: np.ndarray, element: np.ndarray, bit: np.ndarray) -> np.ndarray:
    view = np.dtype(bits.unsigned(array.dtype))
    masks = np.left_shift(view.type(1), bit.astype(view))
    flips = {place: np.bitwise_xor.reduce(masks[element == place]) for place in set(element.tolist())}
    flipped = array[element].view(view) ^ np.array([flips[place] for place in element.tolist()], view)
    return flipped.view(array.dtype).astype(np.float32)


def _tapped(
    apply: Callable[..., Any], variables: Mapping[str, Any], image: jax.Array, table: sites.SiteTable
) -> dict[str, jax.Array]:
    if not any(site.kind == "activation" for site in table):
        return {}
    return jax.jit(functools.partial(sites.tap_values, apply))(variables, image)
