"""Trials that evaluate only what their faults can change.

The sites of a table are put in order of what a fault in them makes of the program (see `program`), the cheapest first,
and cut into a few parts. Part p holds the first sites of that order, up to its cut; of a trial whose faults all lie in
it, only the equations that those sites reach are evaluated, on values of the fault-free run that are computed once for
all trials and kept. There are as many compiled programs as parts, not as sites. Cuts are placed where they save most:

    min over cuts of   trials * sum over sites of weight(site) * seconds(equations that the site's part reaches)
                       + sum over parts of seconds to compile those equations

by dynamic programming, with half of the weight uniform over bits and half uniform over sites: a few trials get few
programs, many trials up to 24.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from threats.faults import memory, program, sites

_PARTS = 24
_KEPT_SHARE = 1 / 8  # of the memory: 2 GiB of 16
# How fast `program.costs` are worked off, in bytes per second, and the seconds that XLA takes to compile an equation:
# rough figures, measured with MedMamba on a CPU. A device that is fifty times faster compiles no faster.
_RATE = {"cpu": 2e10, "other": 1e12}
_COMPILE_SECONDS = 0.004


class Part(NamedTuple):
    """Sites whose trials share a compiled program.

    Attributes:
      members: of the table, in the order of the plan; each part begins with those of the part before.
      equations: numbers of those that faults in the members reach.
      kept: fault-free values that these read, leaves of the variables and images among them.
    """

    members: tuple[int, ...]
    equations: tuple[int, ...]
    kept: tuple[Any, ...]


class Plan(NamedTuple):
    """How trials of a table are evaluated.

    Attributes:
      parts: the cheapest first.
      part_of: [sites] the first part that holds each site.
      cost: of a trial in each part, as a share of the whole program's.
    """

    parts: tuple[Part, ...]
    part_of: np.ndarray
    cost: np.ndarray


def plan(
    found: program.Program,
    table: sites.SiteTable,
    *,
    batches: int,
    trials: int | None = None,
    parts: int = _PARTS,
    at_most: int | None = None,
) -> Plan | None:
    """Cuts the table into at most `parts` parts; None where even one would keep too much.

    Args:
      found: the program of one batch of images.
      table: its sites.
      batches: how many such batches there are.
      trials: how many are expected; None for so many that compiling does not count.
      parts: compiled programs at most, at least 1.
      at_most: bytes of fault-free values to keep, by default an eighth of the memory; parts that would need more are
        joined with later ones.
    """
    at_most = memory.budget(_KEPT_SHARE) if at_most is None else at_most
    cost = program.costs(found)
    masks = np.stack([program.reached(found, [index]) for index in range(len(table))])
    order = np.argsort(masks @ cost, kind="stable")
    unions = np.logical_or.accumulate(masks[order])
    weights = _weights(table)[order]
    seconds = unions @ cost * batches / _RATE.get(jax.default_backend(), _RATE["other"])
    compiling = unions.sum(axis=1) * _COMPILE_SECONDS
    ends = cuts(weights, seconds, parts, prices=compiling / trials if trials else None)
    while True:
        made = [_part(found, order[:end], unions[end - 1]) for end in ends]
        if kept_bytes(found, made, batches=batches) <= at_most:
            break
        if len(ends) == 1:
            return None
        sizes = [kept_bytes(found, [part], batches=batches) for part in made[:-1]]
        ends.remove(ends[int(np.argmax(sizes))])
    part_of = np.empty(len(table), np.int64)
    part_of[order] = np.searchsorted(ends, np.arange(len(table)), side="right")
    whole = max(cost.sum(), 1.0)
    return Plan(tuple(made), part_of, np.array([cost[list(part.equations)].sum() / whole for part in made]))


def _part(found: program.Program, members: np.ndarray, mask: np.ndarray) -> Part:
    members = tuple(int(index) for index in members)
    return Part(members, tuple(int(n) for n in np.flatnonzero(mask)), program.frontier(found, mask, members))


def _weights(table: sites.SiteTable) -> np.ndarray:
    bits = np.array([site.size * site.width for site in table], float)
    return bits / bits.sum() / 2 + 1 / len(table) / 2


def cuts(weights: np.ndarray, costs: np.ndarray, parts: int, prices: np.ndarray | None = None) -> list[int]:
    """Ends of at most `parts` consecutive groups with the least sum of weight times the cost at the group's end.

    Args:
      weights, costs: [n].
      parts: groups at most.
      prices: [n], what a group costs once that ends there; by default nothing.
    """
    count = len(weights)
    prices = np.zeros(count) if prices is None else prices
    before = np.concatenate([[0.0], np.cumsum(weights)])
    best = np.full((min(parts, count) + 1, count + 1), np.inf)
    best[0, 0] = 0.0
    came = np.zeros(best.shape, int)
    for group, end in itertools.product(range(1, len(best)), range(1, count + 1)):
        totals = best[group - 1, :end] + (before[end] - before[:end]) * costs[end - 1] + prices[end - 1]
        came[group, end] = np.argmin(totals)
        best[group, end] = totals[came[group, end]]
    group, end, ends = int(np.argmin(best[:, count])), count, []
    while end:
        ends.append(int(end))
        group, end = group - 1, came[group, end]
    return ends[::-1]


def kept_bytes(found: program.Program, parts: Sequence[Part], *, batches: int) -> int:
    """Bytes of the fault-free values that these parts read, on so many batches of images."""
    varying = program.depends_on_images(found)
    given = {found.images, *found.variables}
    kept = {var for part in parts for var in part.kept if var not in given}
    return sum(program.size(var) * (batches if var in varying else 1) for var in kept)


class Clean(NamedTuple):
    """What the fault-free run leaves for the trials.

    batched: per batch of images, the values by variable. fixed: those that are the same for every batch.
    """

    batched: list[dict[Any, jax.Array]]
    fixed: dict[Any, jax.Array]


def clean(found: program.Program, chosen: Plan) -> Callable[[Mapping[str, Any], Sequence[jax.Array]], Clean]:
    """The compiled run without a fault on every batch, which keeps what the parts read, and the logits."""
    given = {found.images, *found.variables}
    kept = dict.fromkeys(var for part in chosen.parts for var in part.kept if var not in given)
    kept = tuple(dict.fromkeys([*kept, found.logits]))
    varying = program.depends_on_images(found)

    @jax.jit
    def whole(leaves, batch):
        values = {**dict(zip(found.variables, leaves, strict=True)), found.images: batch}
        values = program.run(found, range(len(found.equations)), values, {})
        return [values[var] for var in kept]

    def run(variables: Mapping[str, Any], images: Sequence[jax.Array]) -> Clean:
        leaves = jax.tree.leaves(variables)
        batched, fixed = [], dict(zip(found.variables, leaves, strict=True))
        for batch in images:
            values = dict(zip(kept, whole(leaves, batch), strict=True))
            fixed.update({var: value for var, value in values.items() if var not in varying})
            batched.append({found.images: batch, **{var: value for var, value in values.items() if var in varying}})
        return Clean(batched, fixed)

    return run
