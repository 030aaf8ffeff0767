"""The worst bits of a model: progressive search by gradient, exact evaluation and greedy commitment.

Rakin, He, Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search" (2019), generalised from integers
to floats and from weights to activations. For every flip:
  1. rank every bit of every site by its first-order gain (`gains`), given the flips made so far;
  2. evaluate the best `candidates` exactly, each on all images, as trials;
  3. commit the one with the lowest accuracy, of equal ones that with the highest loss (NaN is higher than any number).
The published procedure evaluates the best few bits of each layer; here they compete over the whole table. Greedy flips
depend on the first one, so the search may be started again from the second best first flip, the third best and so on.

What the same budget does at random belongs beside the result, by the same evaluation:
  >>> worst = faults.worst_case(apply, variables, images, labels, table, flips=10, restarts=2)
  >>> drawn = faults.random_faults(key, table, trials=100, flips=10)
  >>> random = faults.run_trials(apply, variables, images, labels, table, drawn)
  >>> worst.accuracy[-1], random.accuracy.min(), random.accuracy.mean()
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from threats import outcomes
from threats.faults import batching, campaign, formats, injection, ranking, sites, slots

# Each round without an admissible candidate takes the root of the largest magnitude: eight lead from 1e38 to below 2.
_ROUNDS = 8


class WorstCase(NamedTuple):
    """The flips in the order of their commitment, and the state of the model after each.

    faults: [flips], one trial for `inject`; site -1 where no candidate was admissible.
    accuracy, sdc, nonfinite: [flips] float32 after the flip and those before it, as in `campaign.TrialResult`.
    before: [flips] float32, fault-free value at the flip (of an activation: at image 0; of an integer: its code).
    after: [flips] float32, the value there with this flip and those before it.
    loss: [flips] float32 after the flip and those before it.
    """

    faults: slots.Faults
    accuracy: jax.Array
    sdc: jax.Array
    nonfinite: jax.Array
    before: jax.Array
    after: jax.Array
    loss: jax.Array


class _Search(NamedTuple):
    """What stays the same from flip to flip.

    evaluate: faults [c, flips] -> TrialResult. count: candidates. limit: largest magnitude of a flipped value, None if
    there is none. start: which of the first flips to begin with, 0 the worst.
    """

    problem: ranking.Problem
    evaluate: Callable[[slots.Faults], campaign.TrialResult]
    count: int
    allow_nonfinite: bool
    limit: float | None
    start: jax.Array

    @property
    def ranks_nonfinite(self) -> bool:
        """Whether a flip may yield NaN or an infinity: no limit holds for them."""
        return self.allow_nonfinite and self.limit is None


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
    largest_magnitude: float | None = None,
    restarts: int = 1,
    strategy: batching.Strategy = "auto",
    trials_at_once: int | None = None,
    images_at_once: int | None = None,
    reference: jax.Array | None = None,
) -> WorstCase:
    """Searches the `flips` bits that hurt most, one after another; no bit twice. Deterministic.

    Where `allow_nonfinite` is False, no flip may make a value NaN or infinite, nor a logit of any image. If every
    candidate of a round does, the next round (and every later flip) ranks only flips to values below the root of the
    smallest of theirs, up to eight times: the top exponent bits of float32 would otherwise fill every round.

    Weights in another number format are searched as they are held: `apply` is then the one of `formats.apply_stored`
    itself, not a function around it, which would have no gradient at integers and a coarse one at narrow floats.

    Args:
      apply: (variables, images) -> logits [b, ...], differentiable.
      variables: nested dict of collections, fault-free; those of `formats.store` with its `apply`.
      images: [n, h, w, c] float32 in [0, 1].
      labels: [n] int32, [n, k] 0/1 where the task is multi-label, or the task's own.
      table: where bits may flip, no hidden states; integers only where `apply` decodes them. Fewer layers: by their
        paths.
      flips: number of flips to find.
      candidates: bits evaluated exactly per flip; `table.bits` evaluates every one.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      allow_nonfinite: whether NaN and infinities are admissible.
      largest_magnitude: what a value that is hit, decoded, may not exceed after a flip, NaN and infinities included;
        by default anything goes. For example the largest magnitude of the layer, which a range check would let pass.
      restarts: searches, of which the r-th commits the r-th worst first flip; the one that ends with the lowest
        accuracy, then the highest loss, is returned. Each costs as much as one alone.
      strategy, trials_at_once, images_at_once, reference: as in `campaign.run_trials`.

    Raises:
      ValueError: integers that `apply` does not decode, more flips than bits, more restarts than candidates, a
        magnitude that is not positive, or as in `campaign.run_trials`.
    """
    campaign.check(images, labels, reference, task, strategy, trials_at_once, images_at_once)
    _check(table, flips, candidates, restarts, largest_magnitude)
    injection.weights(variables, table)
    size = images_at_once or batching.default_images(images)
    stored = isinstance(apply, formats.StoredApply)
    model = (apply.apply, apply.decode) if stored else (apply, dict)
    problem = ranking.Problem(*model, variables, jnp.asarray(images), jnp.asarray(labels), table, task, size)
    _check_gradients(problem)
    if reference is None:
        reference = campaign.fault_free_logits(apply, variables, images, images_at_once=images_at_once)

    def evaluate(trials: slots.Faults) -> campaign.TrialResult:
        return campaign.trial_outcomes(
            apply, variables, problem.images, problem.labels, table, trials, task=task, strategy=strategy,
            trials_at_once=trials_at_once, images_at_once=size, reference=reference,
        )  # fmt: skip

    def from_start(start: jax.Array) -> WorstCase:
        count = min(candidates, table.bits)
        search = _Search(problem, evaluate, count, allow_nonfinite, largest_magnitude, start)
        return _one_search(search, flips, _fault_free(reference, problem))

    if restarts == 1:
        return from_start(jnp.int32(0))
    found = jax.lax.map(from_start, jnp.arange(restarts, dtype=jnp.int32))
    best = jnp.lexsort((-_or_infinite(found.loss[:, -1]), found.accuracy[:, -1]))[0]
    return jax.tree.map(lambda values: values[best], found)


def _one_search(search: _Search, flips: int, fault_free: campaign.TrialResult) -> WorstCase:
    largest = float(jnp.finfo(jnp.float32).max)
    limit = jnp.float32(largest if search.limit is None else min(search.limit, largest))
    start = (slots.no_faults(flips), limit, _no_flip(fault_free))
    numbers = jnp.arange(flips, dtype=jnp.int32)
    _, steps = jax.lax.scan(lambda state, index: _commit(search, *state, index), start, numbers)
    found = steps.result
    return WorstCase(steps.fault, found.accuracy, found.sdc, found.nonfinite, found.before, found.after, found.loss)


def _commit(
    search: _Search, committed: slots.Faults, limit: jax.Array, last: _Step, index: jax.Array
) -> tuple[tuple[slots.Faults, jax.Array, _Step], _Step]:
    """The flip for the slot `index`; the state of the model stays that of `last` if none is admissible."""

    def again(state: tuple[jax.Array, jax.Array, _Step]) -> tuple[jax.Array, jax.Array, _Step]:
        round_, limit, _ = state
        limit, best = _round(search, slopes, committed, limit, index)
        best = jax.tree.map(lambda new, old: jnp.where(best.found, new, old), best, _no_flip(last.result))
        return round_ + 1, limit, best

    slopes = ranking.slopes(search.problem, committed, allow_nonfinite=search.ranks_nonfinite)
    start = (jnp.int32(0), limit, _no_flip(last.result))
    _, limit, best = jax.lax.while_loop(lambda state: (state[0] < _ROUNDS) & ~state[2].found, again, start)
    committed = jax.tree.map(lambda slots, flip: slots.at[index].set(flip), committed, best.fault)
    return (committed, limit, best), best


def _round(
    search: _Search, slopes: ranking.Slopes, committed: slots.Faults, limit: jax.Array, index: jax.Array
) -> tuple[jax.Array, _Step]:
    """Ranks and evaluates candidates once: the worst of them, and the largest magnitude that is still searched."""
    chosen, values = ranking.best_bits(
        search.problem,
        slopes,
        committed,
        count=search.count,
        allow_nonfinite=search.ranks_nonfinite,
        limit=limit,
    )
    trials = jax.tree.map(lambda kept, new: jnp.tile(kept, (search.count, 1)).at[:, index].set(new), committed, chosen)
    results = search.evaluate(trials)
    results = results._replace(before=results.before[:, index], after=results.after[:, index])
    admissible = (chosen.site >= 0) & (search.allow_nonfinite | (results.nonfinite == 0.0))
    order = jnp.lexsort((-_or_infinite(results.loss), results.accuracy, ~admissible))
    place = jnp.where(index == 0, jnp.minimum(search.start, jnp.sum(admissible) - 1), 0)
    worst = order[jnp.maximum(place, 0)]
    fault, result, found = jax.tree.map(lambda values: values[worst], (chosen, results, admissible))
    values = jnp.where(jnp.isnan(values), results.after, values)
    smallest = jnp.min(jnp.where(jnp.isfinite(values), jnp.abs(values), limit), initial=limit)
    lower = jnp.minimum(jnp.sqrt(smallest), smallest / 2)
    return jnp.where(found, limit, lower), _Step(fault, result, found)


def _or_infinite(loss: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(loss), jnp.inf, loss)


def _no_flip(result: campaign.TrialResult) -> _Step:
    nan = jnp.full_like(result.accuracy, jnp.nan)
    unused = slots.Faults(*(jnp.int32(value) for value in (-1, 0, 0)))
    return _Step(unused, result._replace(before=nan, after=nan), jnp.asarray(False))


def _fault_free(reference: jax.Array, problem: ranking.Problem) -> campaign.TrialResult:
    accuracy = jnp.mean(outcomes.accuracy(reference, problem.labels, problem.task))
    loss = jnp.mean(outcomes.loss(reference, problem.labels, problem.task))
    nonfinite = 1.0 - jnp.mean(outcomes.finite(reference).astype(jnp.float32))
    zero = jnp.zeros_like(accuracy)
    auc = outcomes.auc(reference, problem.labels, problem.task)
    return campaign.TrialResult(accuracy, loss, sdc=zero, nonfinite=nonfinite, auc=auc, before=zero, after=zero)


def _check(table: sites.SiteTable, flips: int, candidates: int, restarts: int, largest_magnitude: float | None) -> None:
    if flips < 1 or candidates < 1:
        raise ValueError(f"flips and candidates must be at least 1, got {flips} and {candidates}")
    if flips > table.bits:
        raise ValueError(f"flips must be at most {table.bits}, the number of bits of the table, got {flips}")
    for site in table:
        if site.kind == "state":
            raise ValueError(f"the table must hold weights and activations only, {site.path} holds states: exclude it")
    if not 1 <= restarts <= candidates:
        raise ValueError(f"restarts must be in 1..{candidates}, the number of candidates, got {restarts}")
    if largest_magnitude is not None and not largest_magnitude > 0:
        raise ValueError(f"largest_magnitude must be positive, or None for no limit, got {largest_magnitude}")


def _check_gradients(problem: ranking.Problem) -> None:
    coded = ranking.coded(problem)
    for index, site in enumerate(problem.table):
        if not jnp.issubdtype(jnp.dtype(site.dtype), jnp.floating) and index not in coded:
            raise ValueError(
                f"the table must hold floats, or integers that apply decodes (see apply_stored), {site.path} is "
                f"{site.dtype}: exclude it"
            )
