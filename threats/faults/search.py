"""The worst bits of a model: progressive search by gradient, exact evaluation and greedy commitment.

Rakin, He, Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search" (2019), generalised from integers
to floats and from weights to activations. For every flip:
  1. rank every bit of every site by its first-order gain (`gains`), given the flips made so far;
  2. evaluate the best `candidates` exactly, each on all images, as trials;
  3. commit the one with the lowest accuracy, of equal ones that with the highest loss (NaN is higher than any number).
The published procedure evaluates the best few bits of each layer; here they compete over the whole table.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from threats import outcomes
from threats.faults import batching, campaign, injection, ranking, sites, slots

# Each round without an admissible candidate takes the root of the largest magnitude: eight lead from 1e38 to below 2.
_ROUNDS = 8


class WorstCase(NamedTuple):
    """The flips in the order of their commitment, and the state of the model after each.

    faults: [flips], one trial for `inject`; site -1 where no candidate was admissible.
    accuracy, sdc, nonfinite: [flips] float32 after the flip and those before it, as in `campaign.TrialResult`.
    before: [flips] float32, fault-free value at the flip (of an activation: at image 0).
    after: [flips] float32, the value there with this flip and those before it.
    """

    faults: slots.Faults
    accuracy: jax.Array
    sdc: jax.Array
    nonfinite: jax.Array
    before: jax.Array
    after: jax.Array


class _Search(NamedTuple):
    """What stays the same from flip to flip. evaluate: faults [c, flips] -> TrialResult. count: candidates."""

    problem: ranking.Problem
    evaluate: Callable[[slots.Faults], campaign.TrialResult]
    count: int
    allow_nonfinite: bool


class _Step(NamedTuple):
    """One flip [] with its outcome []; not found if no candidate was admissible."""

    fault: slots.Faults
    result: campaign.TrialResult
    found: jax.Array


def worst_case(
    apply: campaign.Apply,
    variables: injection.Variables,
    images: jax.Array,
    labels: jax.Array,
    table: sites.SiteTable,
    *,
    flips: int,
    candidates: int = 16,
    task: outcomes.Task = "multi-class",
    allow_nonfinite: bool = True,
    strategy: batching.Strategy = "auto",
    trials_at_once: int | None = None,
    images_at_once: int | None = None,
    reference: jax.Array | None = None,
) -> WorstCase:
    """Searches the `flips` bits that hurt most, one after another; no bit twice. Deterministic.

    Where `allow_nonfinite` is False, no flip may make a value NaN or infinite, nor a logit of any image. If every
    candidate of a round does, the next round (and every later flip) ranks only flips to values below the root of the
    smallest of theirs, up to eight times: the top exponent bits of float32 would otherwise fill every round.

    Args:
      apply: (variables, images) -> logits [b, c], differentiable.
      variables: nested dict of collections, fault-free.
      images: [n, h, w, c] float32 in [0, 1].
      labels: [n] int32, or [n, k] 0/1 where the task is multi-label.
      table: where bits may flip, float sites only, no hidden states.
      flips: number of flips to find.
      candidates: bits evaluated exactly per flip; `table.bits` evaluates every one.
      task: one of `outcomes.TASKS`.
      allow_nonfinite: whether NaN and infinities are admissible.
      strategy, trials_at_once, images_at_once, reference: as in `campaign.run_trials`.

    Raises:
      ValueError: a site of integers, more flips than bits, or as in `campaign.run_trials`.
    """
    campaign.check(images, labels, reference, task, strategy, trials_at_once, images_at_once)
    _check(table, flips, candidates)
    if reference is None:
        reference = campaign.fault_free_logits(apply, variables, images, images_at_once=images_at_once)
    size = images_at_once or batching.default_images(images)
    problem = ranking.Problem(apply, variables, jnp.asarray(images), jnp.asarray(labels), table, task, size)

    def evaluate(trials: slots.Faults) -> campaign.TrialResult:
        return campaign.trial_outcomes(
            apply, variables, problem.images, problem.labels, table, trials, task=task, strategy=strategy,
            trials_at_once=trials_at_once, images_at_once=size, reference=reference,
        )  # fmt: skip

    search = _Search(problem, evaluate, min(candidates, table.bits), allow_nonfinite)
    largest = jnp.float32(jnp.finfo(jnp.float32).max)
    start = (slots.no_faults(flips), largest, _no_flip(_fault_free(reference, problem)))
    numbers = jnp.arange(flips, dtype=jnp.int32)
    _, steps = jax.lax.scan(lambda state, index: _commit(search, *state, index), start, numbers)
    found = steps.result
    return WorstCase(steps.fault, found.accuracy, found.sdc, found.nonfinite, found.before, found.after)


def _commit(
    search: _Search, committed: slots.Faults, limit: jax.Array, last: _Step, index: jax.Array
) -> tuple[tuple[slots.Faults, jax.Array, _Step], _Step]:
    """The flip for the slot `index`; the state of the model stays that of `last` if none is admissible."""

    def again(state: tuple[jax.Array, jax.Array, _Step]) -> tuple[jax.Array, jax.Array, _Step]:
        round_, limit, _ = state
        limit, best = _round(search, committed, limit, index)
        best = jax.tree.map(lambda new, old: jnp.where(best.found, new, old), best, _no_flip(last.result))
        return round_ + 1, limit, best

    start = (jnp.int32(0), limit, _no_flip(last.result))
    _, limit, best = jax.lax.while_loop(lambda state: (state[0] < _ROUNDS) & ~state[2].found, again, start)
    committed = jax.tree.map(lambda slots, flip: slots.at[index].set(flip), committed, best.fault)
    return (committed, limit, best), best


def _round(search: _Search, committed: slots.Faults, limit: jax.Array, index: jax.Array) -> tuple[jax.Array, _Step]:
    """Ranks and evaluates candidates once: the worst of them, and the largest magnitude that is still searched."""
    chosen = ranking.best_bits(
        search.problem, committed, count=search.count, allow_nonfinite=search.allow_nonfinite, limit=limit
    )
    trials = jax.tree.map(lambda kept, new: jnp.tile(kept, (search.count, 1)).at[:, index].set(new), committed, chosen)
    results = search.evaluate(trials)
    results = results._replace(before=results.before[:, index], after=results.after[:, index])
    admissible = (chosen.site >= 0) & (search.allow_nonfinite | (results.nonfinite == 0.0))
    loss = jnp.where(jnp.isnan(results.loss), jnp.inf, results.loss)
    worst = jnp.lexsort((-loss, results.accuracy, ~admissible))[0]
    fault, result, found = jax.tree.map(lambda values: values[worst], (chosen, results, admissible))
    smallest = jnp.min(jnp.where(jnp.isfinite(results.after), jnp.abs(results.after), limit), initial=limit)
    lower = jnp.minimum(jnp.sqrt(smallest), smallest / 2)
    return jnp.where(found, limit, lower), _Step(fault, result, found)


def _no_flip(result: campaign.TrialResult) -> _Step:
    nan = jnp.full_like(result.accuracy, jnp.nan)
    unused = slots.Faults(*(jnp.int32(value) for value in (-1, 0, 0)))
    return _Step(unused, result._replace(before=nan, after=nan), jnp.asarray(False))


def _fault_free(reference: jax.Array, problem: ranking.Problem) -> campaign.TrialResult:
    accuracy = jnp.mean(outcomes.accuracy(reference, problem.labels, problem.task))
    loss = jnp.mean(outcomes.loss(reference, problem.labels, problem.task))
    nonfinite = 1.0 - jnp.mean(outcomes.finite(reference).astype(jnp.float32))
    zero = jnp.zeros_like(accuracy)
    return campaign.TrialResult(accuracy, loss, sdc=zero, nonfinite=nonfinite, before=zero, after=zero)


def _check(table: sites.SiteTable, flips: int, candidates: int) -> None:
    if flips < 1 or candidates < 1:
        raise ValueError(f"flips and candidates must be at least 1, got {flips} and {candidates}")
    if flips > table.bits:
        raise ValueError(f"flips must be at most {table.bits}, the number of bits of the table, got {flips}")
    for site in table:
        if site.kind == "state":
            raise ValueError(f"the table must hold weights and activations only, {site.path} holds states: exclude it")
        if not jnp.issubdtype(jnp.dtype(site.dtype), jnp.floating):
            raise ValueError(f"the table must hold floats only, {site.path} is {site.dtype}: exclude it")
