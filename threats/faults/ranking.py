"""The most promising bits of a model: the largest first-order gains among every bit of every site of a table.

The bits are walked one position at a time over all values at once, keeping each value's best gain; only the best values
are then looked at bit by bit. The result is exact (k pairs of value and bit lie within k values), the memory a few
copies of the weights.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import convolutions, outcomes
from threats.faults import batching, bits, gains, injection, sites, slots


class Problem(NamedTuple):
    """What is attacked: the model and the data.

    apply: (decoded variables, images) -> logits. decode: variables -> decoded variables, see `formats.StoredApply`.
    variables: fault-free. images, labels: [n, ...]. table: where bits may flip.
    task: one of `outcomes.TASKS`, or `tasks.Rules`. images_at_once: images per pass.
    """

    apply: Callable[..., Any]
    decode: Callable[[injection.Variables], dict[str, Any]]
    variables: injection.Variables
    images: jax.Array
    labels: jax.Array
    table: sites.SiteTable
    task: outcomes.Task
    images_at_once: int


class Slopes(NamedTuple):
    """What ranks the bits given the flips made, by site index; the same for every limit.

    weights: with the flips made. gradients: of the loss by each weight, its decoded value if it is held in a format.
    gains, largest: of each activation [w, n]: without a limit, and the largest magnitude after the flip of any image.
    """

    weights: dict[int, jax.Array]
    gradients: dict[int, jax.Array]
    gains: dict[int, jax.Array]
    largest: dict[int, jax.Array]


class Ranked(NamedTuple):
    """Bits [m], the best first, site -1 where none is left; value: [m] float32 after the flip, NaN of activations."""

    faults: slots.Faults
    value: jax.Array


class _Best(NamedTuple):
    """Bits [m] of one kind of memory with their gains, and the sites [m] and elements [m] that hold them."""

    gain: jax.Array
    value: jax.Array
    site: jax.Array
    element: jax.Array
    bit: jax.Array


def best_bits(
    problem: Problem,
    slopes: Slopes,
    committed: slots.Faults,
    *,
    count: int,
    allow_nonfinite: bool,
    limit: jax.Array,
) -> Ranked:
    """The `count` bits of the largest gain given the flips already made.

    Args:
      problem: the model and the data.
      slopes: those of the flips already made.
      committed: flips already made, [f]; those bits are left out.
      count: number of bits.
      allow_nonfinite, limit: as in `gains.of_change`; the former as for the slopes.
    """
    found = []
    for dtype, members in _by_dtype(problem.table, slopes.weights).items():
        gain_of = _weight_gain(problem, slopes, members, allow_nonfinite=allow_nonfinite, limit=limit)
        found.append(_best(problem.table, members, gain_of, bits.width(dtype), committed, count))
    for dtype, members in _by_dtype(problem.table, slopes.gains).items():
        known, largest = (
            jnp.concatenate([of[index] for index in members], axis=1) for of in (slopes.gains, slopes.largest)
        )
        allowed = jnp.where(largest <= limit, known, -jnp.inf)

        def tap_gain(bit, elements, allowed=allowed):
            return allowed[bit, elements], jnp.full_like(allowed[bit, elements], jnp.nan)

        found.append(_best(problem.table, members, tap_gain, bits.width(dtype), committed, count))
    merged = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    gain, order = jax.lax.top_k(merged.gain, min(count, merged.gain.shape[0]))
    site = jnp.where(gain > -jnp.inf, merged.site[order], -1)
    chosen = Ranked(slots.Faults(site, merged.element[order], merged.bit[order]), merged.value[order])
    missing = count - order.shape[0]
    unused = Ranked(slots.no_faults(missing), jnp.full((missing,), jnp.nan))
    return jax.tree.map(lambda some, none: jnp.concatenate([some, none]), chosen, unused)


def coded(problem: Problem) -> frozenset[int]:
    """The weights of the table that are held in a format of their own: decoding changes their dtype."""
    decoded = jax.eval_shape(problem.decode, problem.variables)
    weights = [index for index, site in enumerate(problem.table) if site.kind == "weight"]
    kept = injection.leaves_of({**problem.variables, **decoded}, problem.table, weights)
    return frozenset(index for index, leaf in kept.items() if jnp.result_type(leaf).name != problem.table[index].dtype)


def slopes(problem: Problem, committed: slots.Faults, *, allow_nonfinite: bool) -> Slopes:
    """The gradients that `best_bits` ranks by, in one pass over the images.

    The gradient by a weight that is held in another format is that by its decoded value, taken by adding a zero to it.

    Args:
      problem: the model and the data.
      committed: flips already made, [f].
      allow_nonfinite: as in `gains.of_change`.
    """
    table = problem.table
    weights = injection.faulty_weights(problem.variables, table, committed)
    held = injection.replaced(problem.variables, table, weights)
    other = coded(problem)
    floats = {index: weight for index, weight in weights.items() if index not in other}
    shifts = {index: jnp.zeros(table[index].shape, jnp.float32) for index in other}
    zeros = {i: jnp.zeros((s.width, s.size), jnp.float32) for i, s in enumerate(table) if s.kind == "activation"}
    flips = injection.activation_flips(table, committed)

    def summed_loss(arguments, images, labels, valid):
        floats, shifts, *zeros = arguments
        entries = {
            index: jax.tree_util.Partial(gains.probe(flip, allow_nonfinite=allow_nonfinite), *(z[index] for z in zeros))
            for index, flip in flips.items()
        }
        variables = problem.decode(injection.replaced(held, table, floats))
        decoded = injection.leaves_of(variables, table, list(shifts))
        variables = injection.replaced(variables, table, {index: decoded[index] + shifts[index] for index in shifts})
        logits = problem.apply(injection.with_taps(variables, table, entries), images)
        return jnp.sum(jnp.where(valid, outcomes.loss(logits, labels, problem.task), 0.0))

    gradient = convolutions.in_loops(jax.grad(summed_loss))

    def add(total, batch):
        found = jax.tree.map(lambda x: x.astype(jnp.float32), gradient((floats, shifts, zeros, zeros), *batch))
        sums = jax.tree.map(jnp.add, total[:-1], found[:-1])
        return (*sums, jax.tree.map(jnp.maximum, total[-1], found[-1])), None

    size = problem.images_at_once
    valid = batching.valid(problem.images.shape[0], size)
    batches = (batching.split(problem.images, size), batching.split(problem.labels, size), valid)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (floats, shifts, zeros, zeros))
    (of_floats, of_shifts, *of_activations), _ = jax.lax.scan(add, start, batches)
    of_weights = {**of_floats, **of_shifts}
    return Slopes(weights, {index: of_weights[index] for index in weights}, *of_activations)


def _weight_gain(
    problem: Problem,
    slopes: Slopes,
    members: list[int],
    *,
    allow_nonfinite: bool,
    limit: jax.Array,
) -> Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]]:
    """(bit, elements) -> the gains of flipping that bit of these elements of the members' arrays, and the new values.

    A weight in another format is decoded with all of its elements flipped at once; each decodes on its own.
    """
    weights, gradients = slopes.weights, _laid_out(slopes.gradients, members)
    held = injection.replaced(problem.variables, problem.table, weights)
    inside = sorted(coded(problem).intersection(members))

    def decoded(arrays: dict[int, jax.Array]) -> jax.Array:
        if inside:
            variables = problem.decode(injection.replaced(held, problem.table, arrays))
            arrays = {**arrays, **injection.leaves_of(variables, problem.table, inside)}
            arrays = {index: array.astype(jnp.float32) for index, array in arrays.items()}
        return _laid_out(arrays, members)

    def flipped(bit: jax.Array, elements: Any) -> jax.Array:
        dtype = problem.table[members[0]].dtype
        if not inside:
            chosen = values[elements]
            return bits.flip(chosen, jnp.broadcast_to(bits.mask(bit, dtype), chosen.shape))
        return decoded({index: bits.flip(weights[index], bits.mask(bit, dtype)) for index in members})[elements]

    values = decoded({index: weights[index] for index in members})
    largest = gains.largest_change(problem.table[members[0]].dtype)
    rules = {"largest": largest, "allow_nonfinite": allow_nonfinite, "limit": limit}

    def gain_of(bit: jax.Array, elements: Any) -> tuple[jax.Array, jax.Array]:
        after = flipped(bit, elements)
        return gains.of_change(values[elements], after, gradients[elements], **rules), after.astype(jnp.float32)

    return gain_of


def _best(
    table: sites.SiteTable,
    members: list[int],
    gain_of: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]],
    width: int,
    committed: slots.Faults,
    count: int,
) -> _Best:
    """The best bits of the members' arrays laid end to end; `gain_of(bit, elements)`: gains and values there."""
    sizes = np.asarray([table[index].size for index in members])
    total = int(sizes.sum())
    positions = jnp.arange(width, dtype=jnp.int32)

    def keep_larger(best, bit):
        return jnp.maximum(best, gain_of(bit, slice(None))[0]), None

    best, _ = jax.lax.scan(keep_larger, jnp.full((total,), -jnp.inf, jnp.float32), positions)
    # So many values that `count` pairs remain when some owe their rank to a bit that is taken.
    taken = injection.addresses(table, members, committed)
    _, address = jax.lax.top_k(best, min(total, count + taken.shape[0]))
    address = address.astype(jnp.int32)
    pairs, after = jax.lax.map(lambda bit: gain_of(bit, address), positions)
    hit = (address[None, :, None] == taken[None, None]) & (positions[:, None, None] == committed.bit[None, None])
    pairs = jnp.where(jnp.any(hit, axis=-1), -jnp.inf, pairs)
    gain, pair = jax.lax.top_k(pairs.reshape(-1), min(count, pairs.size))
    bit, place = jnp.divmod(pair.astype(jnp.int32), address.shape[0])
    starts = jnp.asarray(np.cumsum(sizes) - sizes, jnp.int32)
    member = jnp.searchsorted(starts, address[place], side="right").astype(jnp.int32) - 1
    site = jnp.asarray(members, jnp.int32)[member]
    return _Best(gain, after[bit, place], site, address[place] - starts[member], bit)


def _by_dtype(table: sites.SiteTable, arrays: Mapping[int, Any]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index in arrays:
        members.setdefault(table[index].dtype, []).append(index)
    return members


def _laid_out(arrays: Mapping[int, jax.Array], members: list[int]) -> jax.Array:
    return jnp.concatenate([arrays[index].reshape(-1) for index in members])
