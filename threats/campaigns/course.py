"""A campaign under way: chunks that run here, are read from a store, or are left to other processes, in order."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from threats import statistics
from threats.campaigns import drawing as drawings
from threats.campaigns import estimates, prepared, schedule, trials

Together = Callable[[], contextlib.AbstractContextManager[object]]


class Progress(NamedTuple):
    """How far a campaign is.

    done, planned: trials. estimate: of the spec's metric, so far; of a stratified campaign, among the trials as they
    were drawn. fresh: trials of the chunk that ran now, 0 if it was read from the store.
    """

    done: int
    planned: int
    estimate: statistics.Interval
    fresh: int


@dataclasses.dataclass
class Course:
    """A campaign under way: by the number of its first trial, each chunk that has run or was read, and its values."""

    campaign: prepared.Campaign
    store: trials.Store | None
    together: Together | None
    watch: Callable[[Progress], object]
    planned: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self.planned = self.campaign.planned
        self.parts: dict[int, trials.Trials] = {}
        self.values: dict[int, np.ndarray] = {}
        self.done = 0
        self.estimate = statistics.Interval(float("nan"), 0.0, 1.0, 0)
        spec = self.campaign.drawing.spec
        adaptive = sequential(self.campaign.drawing)
        self.sequence = statistics.ConfidenceSequence(confidence=(1 + spec.confidence) / 2) if adaptive else None

    def run(self, first: int, strata: np.ndarray, shard: tuple[int, int]) -> None:
        """Takes the trials from `first` on, of these strata, in their order where that decides when to stop.

        With `together` the processes meet when all have run their share; where the campaign may stop, after each block.
        """
        index, count = shard
        self._strata = first, strata
        blocks = schedule.blocks(first, first + len(strata), self.campaign.chunk, self.campaign.chunks_at_once)
        size = count if self.sequence else len(blocks)
        for start in range(0, len(blocks), size):
            waiting: dict[tuple[int, int], tuple[trials.Trials | None, int]] = {}
            with self.together() if self.together else contextlib.nullcontext():
                for number, block in enumerate(blocks[start : start + size]):
                    rows = strata[block[0][0] - first : block[-1][1] - first]
                    for chunk, part, fresh in self._block(block, rows, run=number % count == index - 1):
                        if part is None or (waiting and self.sequence):
                            waiting[chunk] = part, fresh
                        else:
                            self._count(chunk, part, fresh)
            self._read(waiting)
            if self.stopped:
                break

    def _block(
        self, block: list[tuple[int, int]], strata: np.ndarray, *, run: bool
    ) -> Iterator[tuple[tuple[int, int], trials.Trials | None, int]]:
        """(chunk, trials, how many of them ran now) until the campaign stops; None for what others are to run."""
        found = {chunk: self.store.load(*chunk) if self.store is not None else None for chunk in block}
        missing = [chunk for chunk in block if found[chunk] is None] if run else []
        if missing:
            numbers = np.concatenate([np.arange(*chunk) for chunk in missing])
            ran = self.campaign.run(numbers, strata[numbers - block[0][0]])
            ends = np.cumsum([stop - start for start, stop in missing])
            for chunk, (start, stop) in zip(missing, itertools.pairwise([0, *ends]), strict=True):
                found[chunk] = trials.take(ran, slice(start, stop))
        for chunk, part in found.items():
            if self.stopped:
                return
            if chunk in missing and self.store is not None:
                self.store.save(part)
            yield chunk, part, part.count if chunk in missing else 0

    def _read(self, waiting: Mapping[tuple[int, int], tuple[trials.Trials | None, int]]) -> None:
        """Takes chunks that other processes have run by now, and those that had to wait for them."""
        for chunk, (part, fresh) in waiting.items():
            if self.stopped:
                return
            if part is None and self.store is not None:
                part = self.store.load(*chunk)
            if part is None and self.together:
                raise ValueError(
                    f"trials {chunk[0]} to {chunk[1] - 1}, which another process has run, are not in the store: "
                    "give all processes a store that each of them sees"
                )
            if part is not None:
                self._count(chunk, part, fresh)

    def _count(self, chunk: tuple[int, int], part: trials.Trials, fresh: int) -> None:
        spec = self.campaign.drawing.spec
        values = estimates.values(part, spec.metric, accuracy=self.campaign.accuracy)
        self._check(chunk, part)
        self.parts[chunk[0]], self.values[chunk[0]] = part, values
        self.done += len(values)
        if self.sequence:
            self.estimate = self.sequence.update(values)
            self.stopped = statistics.reached(self.estimate, half_width=spec.half_width)
        elif len(self.values) % (1 + len(self.values) // 50) == 0:  # the more trials, the less a chunk moves it
            self.estimate = estimates.of(np.concatenate(list(self.values.values())), confidence=spec.confidence)
        self.watch(Progress(self.done, self.planned, self.estimate, fresh))

    def _check(self, chunk: tuple[int, int], part: trials.Trials) -> None:
        """Refuses trials that are not those that this campaign draws there: pilots may differ between machines."""
        first, strata = self._strata
        expected = strata[chunk[0] - first : chunk[1] - first]
        same = np.array_equal(part.number, np.arange(*chunk))
        if self.campaign.drawing.strata:
            same = same and np.array_equal(part.stratum, expected)
        if not same:
            raise ValueError(
                f"trials {chunk[0]} to {chunk[1] - 1} of the store are of other strata: their pilot was another, as it "
                "can be where machines round differently; remove them, and they run again"
            )

    def by_stratum(self) -> dict[str, np.ndarray]:
        """The values of the metric so far by the name of the stratum."""
        starts = sorted(self.parts)
        stratum = np.concatenate([self.parts[start].stratum for start in starts])
        values = np.concatenate([self.values[start] for start in starts])
        return {entry.name: values[stratum == i] for i, entry in enumerate(self.campaign.drawing.strata)}


def sequential(drawing: drawings.Drawing) -> bool:
    """Whether the campaign stops when its interval is narrow enough, looking after every chunk."""
    return drawing.spec.half_width is not None and not drawing.strata
