"""Trials in compiled stages: fault-free values once, then of each trial only what its faults reach (see `reuse`)."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from threats import outcomes, tasks
from threats.faults import batching, bits, devices, injection, program, reuse, sites, slots

_MOST_THREADS = 8  # each holds a batch's activations


class Stages:
    """The trials of one table on one set of images; a part's program is compiled when a trial first needs it.

    Args:
      apply: (variables, images) -> logits [b, ...].
      images: [n, h, w, c].
      labels: [n] or [n, k].
      reference: [n, ...] fault-free logits; None for those of the run that is kept.
      table: the sites that faults point into.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      images_at_once: b.
      trials_at_once: 1 runs trials one after another in each thread, more run as many under `jax.vmap`.
      trials: how many are expected in all calls, which decides how many programs pay; None for those of the first.
      mesh: devices that share each group, `trials_at_once` on each; what all trials read is whole on every one.
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
        trials: int | None,
        mesh: jax.sharding.Mesh | None = None,
    ):
        def batches(rows):
            return devices.whole(list(batching.split(jnp.asarray(rows), images_at_once)), mesh)

        self._apply, self._table, self._task, self._mesh = apply, table, task, mesh
        self._count, self._trials, self._group = images.shape[0], trials, trials_at_once * devices.count(mesh)
        self._images, self._labels = batches(images), batches(labels)
        self._all_labels = devices.whole(jnp.asarray(labels), mesh)
        self._auc: Any = None
        self._ranked = tasks.rules(task).ranked is not None
        self._given = None if reference is None else batches(reference)
        self._valid = devices.whole(list(batching.valid(self._count, images_at_once)), mesh)
        self._kind: Any = None
        self._leaves: list[Any] = []

    def prepare(self, variables: Mapping[str, Any], trials: int) -> bool:
        """Runs the model without a fault, unless these variables were the last; False if it takes the whole model.

        Args:
          variables: fault-free.
          trials: of the call that follows.

        Raises:
          ValueError: the variables do not fit the table.
        """
        injection.weights(variables, self._table)
        leaves, structure = jax.tree.flatten(variables)
        kind = structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind != self._kind:
            self._trace(variables, self._trials or trials)
            self._kind = kind
        if self._plan is None:
            return False
        # NumPy arrays may have been written to since.
        same = [a is b and isinstance(a, jax.Array) for a, b in zip(leaves, self._leaves, strict=False)]
        if len(same) != len(leaves) or not all(same):
            self._leaves, self._clean = [], None  # the old values go before the new ones come
            variables = devices.whole(jax.tree.map(jnp.asarray, dict(variables)), self._mesh)
            self._clean = self._run_clean(variables, self._images)
            logits = [values[self._found.logits] for values in self._clean.batched]
            self._reference = self._given or logits
            self._tapped = _tapped(self._apply, variables, self._images[0][:1], self._table)
            self._leaves = leaves
        return True

    def _trace(self, variables: Mapping[str, Any], trials: int) -> None:
        self._found, self._plan, self._leaves = None, None, []
        self._programs: dict[tuple[int, int, bool], Callable[..., Any]] = {}
        self._found = program.trace(self._apply, variables, self._images[0], self._table)
        if self._found is not None:
            self._plan = reuse.plan(self._found, self._table, batches=len(self._images), trials=trials)
        if self._plan is not None:
            self._run_clean = reuse.clean(self._found, self._plan)

    def __call__(self, faults: slots.Faults) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Figures [t, 5] of `campaign.TrialResult`, and the values [t, k] before and after; after `prepare`."""
        faults = jax.tree.map(np.asarray, faults)
        part = np.where(faults.site >= 0, self._plan.part_of[faults.site], 0).max(axis=1, initial=0)
        groups = list(_groups(part, self._group))
        found = np.empty((len(part), 5), np.float32)

        def run(group):
            number, rows = group
            found[rows] = self._outcomes(number, jax.tree.map(lambda leaf: leaf[rows], faults))

        # Threads only compile and run: what a caller has set for tracing holds in his own thread.
        missing = {number: rows for number, rows in groups if _kind(number, faults) not in self._programs}
        lowered = {
            _kind(number, faults): self.step(number).lower(
                *self.arguments(number, jax.tree.map(lambda leaf, rows=rows: leaf[rows], faults))
            )
            for number, rows in missing.items()
        }
        if self._auc is None and self._ranked:
            shape = self._group, self._count, *self._found.logits.aval.shape[1:]
            placed = devices.placement(self._mesh, per_trial=True)
            logits = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=placed)
            areas = jax.vmap(lambda one, labels: outcomes.auc(one, labels, self._task), (0, None))
            areas = devices.spread(areas, self._mesh, True, False)
            self._auc = jax.jit(areas).lower(logits, self._all_labels).compile()
        with _threads() as each:
            self._programs.update(zip(lowered, each(lambda some: some.compile(), lowered.values()), strict=True))
            list((map if self._mesh else each)(run, groups))  # a group is on all devices: no two at a time
        return found, *self._values(faults)

    def _outcomes(self, number: int, faults: slots.Faults) -> np.ndarray:
        """[t, 5] over all images."""
        part, total, logits = self._plan.parts[number], 0.0, []
        shared, compiled = self._shared(part, faults), self._programs[_kind(number, faults)]
        with np.errstate(over="ignore", invalid="ignore"):  # the loss of a faulty model may be anything
            for batch in range(len(self._images)):
                sums, rows = compiled(*self._batch(part, batch), *shared)
                total += np.asarray(sums)
                logits.append(rows if self._ranked else rows[:, :0])
            areas = np.full(len(total), np.nan, np.float32)
            if self._ranked:
                rows = np.concatenate(logits, axis=1)[:, : self._count]
                areas = np.asarray(self._auc(devices.cut(rows, self._mesh), self._all_labels))
            found = np.concatenate([total / np.float32(self._count), areas[:, None]], axis=1)
        return found[: len(faults.site)]

    def step(self, number: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """The jitted function that evaluates a group of trials in a part, on one batch of images."""
        part, alone = self._plan.parts[number], self._group == devices.count(self._mesh)
        trials = _trials(self._found, part, self._table, self._task, alone=alone, flipped=self._flipped)
        return jax.jit(devices.spread(trials, self._mesh, *(False,) * 5, True))

    def arguments(self, number: int, faults: slots.Faults, batch: int = 0) -> tuple[Any, ...]:
        """What `step(number)` is called with, for at most a group of trials; after `prepare`."""
        part = self._plan.parts[number]
        return *self._batch(part, batch), *self._shared(part, faults)

    def _batch(self, part: reuse.Part, batch: int) -> tuple[Any, ...]:
        values, fixed = self._clean.batched[batch], self._clean.fixed
        kept = [values[var] if var in values else fixed[var] for var in part.kept]
        return kept, self._labels[batch], self._reference[batch], self._valid[batch]

    def _shared(self, part: reuse.Part, faults: slots.Faults) -> tuple[dict[int, Any], slots.Faults]:
        """By rank in the part its weights, flipped for a trial alone, and the faults in terms of ranks, filled up."""
        rank = np.full(len(self._table), -1, np.int32)
        rank[list(part.members)] = np.arange(len(part.members))
        ranked = faults._replace(site=np.where(faults.site >= 0, rank[faults.site], np.int32(-1)))
        spare = self._group - len(faults.site)
        none = jax.tree.map(np.asarray, slots.unused(ranked, spare, ranked.site.shape[1]))
        ranked = jax.tree.map(lambda some, unused: np.concatenate([some, unused]), ranked, none)
        leaf_of = self._found.leaves
        weights = {i: self._clean.fixed[leaf_of[index]] for i, index in enumerate(part.members) if index in leaf_of}
        if self._flipped:
            for i in {int(i) for i in ranked.site[0] if int(i) in weights}:
                own = ranked.site[0] == i
                weights[i] = _hit(np.asarray(weights[i]), jax.tree.map(lambda x, own=own: x[0][own], ranked))
        return weights, devices.cut(ranked, self._mesh)

    @property
    def _flipped(self) -> bool:
        """Whether the weights of a trial, alone on the only device, are flipped before its program gets them."""
        return self._group == 1 and self._mesh is None

    def _values(self, faults: slots.Faults) -> tuple[np.ndarray, np.ndarray]:
        """The value of each slot [t, k] float32 before and after; NaN where unused."""
        before = np.full(faults.site.shape, np.nan, np.float32)
        after = before.copy()
        for index in np.unique(faults.site[faults.site >= 0]):
            leaf = self._found.leaves.get(index)
            tapped = leaf is None
            array = np.asarray(self._tapped[self._table[index].path][0] if tapped else self._clean.fixed[leaf])
            for trial in np.flatnonzero((faults.site == index).any(axis=1)):
                own = faults.site[trial] == index
                these = jax.tree.map(lambda x, trial=trial, own=own: x[trial][own], faults)
                before[trial, own] = array.reshape(-1)[these.element].astype(np.float32)
                places, where = np.unique(these.element, return_inverse=True)
                damaged = _hit(array.reshape(-1)[places], these._replace(element=where))
                after[trial, own] = damaged[where].astype(np.float32)
        return before, after


def _kind(number: int, faults: slots.Faults) -> tuple[int, int, bool]:
    """What a compiled program is for: a part, so many slots, and bits that flip or that have actions."""
    return number, faults.site.shape[1], faults.action is not None


def _trials(
    found: program.Program,
    part: reuse.Part,
    table: sites.SiteTable,
    task: outcomes.Task,
    *,
    alone: bool,
    flipped: bool,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(kept, labels, reference, valid, weights, faults [t, k]) -> sums over the images [t, 4], logits [t, b, c].

    alone: t is 1. flipped: the weights have their faults already.
    """
    own = sites.SiteTable(tuple(table[index] for index in part.members))
    by_rank = {rank: found.leaves[index] for rank, index in enumerate(part.members) if index in found.leaves}

    def trials(kept, labels, reference, valid, weights, faults):
        def trial(fault):
            leaves = weights if flipped else injection.flipped_leaves(weights, own, fault)
            values = dict(zip(part.kept, kept, strict=True))
            values.update({var: leaves[rank] for rank, var in by_rank.items()})
            flips = {part.members[rank]: flip for rank, flip in injection.activation_flips(own, fault).items()}
            logits = program.run(found, part.equations, values, flips)[found.logits]
            return outcomes.sums(logits, labels, reference, valid, task), logits.astype(jnp.float32)

        if alone:
            return jax.tree.map(lambda x: x[None], trial(jax.tree.map(lambda slot: slot[0], faults)))
        return jax.vmap(trial)(faults)

    return trials


def _groups(part: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(part, trials) in groups of `size`; what does not fill one joins the next part, which holds its sites too."""
    waiting = np.empty(0, np.int64)
    numbers = np.unique(part)
    for number in numbers:
        waiting = np.concatenate([waiting, np.flatnonzero(part == number)])
        full = len(waiting) if number == numbers[-1] else len(waiting) // size * size
        for start in range(0, full, size):
            yield int(number), waiting[start : min(start + size, full)]
        waiting = waiting[full:]


@contextlib.contextmanager
def _threads() -> Iterator[Callable[..., Any]]:
    """A `map` over a thread per core on a CPU, where much of a small program keeps one core busy; else in place."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jax.default_backend() != "cpu" or cores == 1:
        yield map
        return
    pool = futures.ThreadPoolExecutor(min(cores, _MOST_THREADS))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _hit(array: np.ndarray, faults: slots.Faults) -> np.ndarray:
    """A copy with these bits of these flat elements hit [k]; the same bit twice is not flipped."""
    view = np.array(array, order="C").reshape(-1).view(np.dtype(bits.unsigned(array.dtype)))
    masks = np.left_shift(view.dtype.type(1), faults.bit.astype(view.dtype))
    action = np.zeros(masks.shape, np.int32) if faults.action is None else faults.action
    hits = {slots.FLIP: np.bitwise_xor, slots.STUCK_AT_1: np.bitwise_or, slots.STUCK_AT_0: np.bitwise_and}
    for number, hit in hits.items():
        own = action == number
        hit.at(view, faults.element[own], ~masks[own] if number == slots.STUCK_AT_0 else masks[own])
    return view.view(array.dtype).reshape(array.shape)


def _tapped(
    apply: Callable[..., Any], variables: Mapping[str, Any], image: jax.Array, table: sites.SiteTable
) -> dict[str, jax.Array]:
    return jax.jit(lambda v, x: sites.table_values(apply, v, x, table))(variables, image)
