"""Which bits flip: random faults for a campaign, every trial from its own key so that it can be drawn again alone.

Two laws are in use and their results differ much, so rows must say which one was drawn:
  "bits"    every allowed bit of the table is equally likely, as in a memory hit by radiation;
  "layers"  layer first, each equally likely, then a weight of it, then a bit of that: small layers are hit more often.
No bit is hit twice in a trial: slot after slot is drawn by the law, and again while it repeats an earlier one. So under
"bits" every set of k distinct bits is equally likely (the law conditional on distinctness); under "layers" slot j
follows the law among the bits not hit before it.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats.faults import bits as bit_views
from threats.faults import sites, slots, urns

Law = Literal["bits", "layers"]


class LayerwiseFaults(NamedTuple):
    """One flip per trial, the trials of one cell after those of another.

    faults: [t, 1].
    layers: t names, the layer of each trial.
    fields: t names, its bit field ("sign", "exponent", ...) or its bit position ("31", "30", ...).
    """

    faults: slots.Faults
    layers: tuple[str, ...]
    fields: tuple[str, ...]


def random_faults(
    key: jax.Array,
    table: sites.SiteTable,
    *,
    trials: int,
    flips: int,
    over: Law = "bits",
    bits: Iterable[int] | None = None,
    field: str | None = None,
    first_trial: int | jax.Array = 0,
) -> slots.Faults:
    """Draws `flips` distinct bits for each trial.

    Args:
      key: typed key; trial n uses `fold_in(key, n)` alone, whatever the number of trials.
      table: where bits may flip.
      trials: number of trials t.
      flips: bits per trial k.
      over: "bits" or "layers", see above.
      bits: positions that may flip; by default all.
      field: or the name of a field: "sign", "exponent", "mantissa", "magnitude".
      first_trial: number of the first trial, to draw later trials or one alone; may be traced.

    Returns:
      Faults [t, k].

    Raises:
      ValueError: an unknown law, field or bit, or fewer allowed bits than flips.
    """
    if over not in ("bits", "layers"):
        raise ValueError(f"over must be one of ('bits', 'layers'), got {over!r}")
    if trials < 1 or flips < 1:
        raise ValueError(f"trials and flips must be at least 1, got {trials} and {flips}")
    allowed = allowed_bits(table, bits, field)
    available = sum(site.size * len(positions) for site, positions in zip(table, allowed, strict=True))
    if available < flips:
        raise ValueError(f"flips must be at most {available}, the number of allowed bits, got {flips}")
    if over == "bits":
        groups = [[urns.Share(i, allowed[i], site.size * len(allowed[i])) for i, site in enumerate(table)]]
    else:
        groups = [[urns.Share(i, allowed[i], table[i].size) for i in members] for members in by_layer(table).values()]
    urn = urns.build(table, groups)
    numbers = jnp.asarray(first_trial, jnp.uint32) + jnp.arange(trials, dtype=jnp.uint32)
    return jax.vmap(lambda number: distinct(jax.random.fold_in(key, number), urn, flips))(numbers)


def layerwise_faults(
    key: jax.Array, table: sites.SiteTable, *, trials_per_cell: int, by: Literal["field", "bit"] = "field"
) -> LayerwiseFaults:
    """Draws single flips for every layer of the table in turn, and for every bit field (or bit position) of it.

    Within a cell the element is uniform over the layer, and the trials walk through the bit positions of the field in
    a random order, a new one for every round: each position is hit equally often, up to one. Of a float32's exponent
    one bit costs nearly everything and the others little; of 20 free draws, 7 % of the cells would miss it and 10 %
    hit it five times or more. Each trial alone is still uniform over the field, so means are
    unbiased, and an interval that takes the trials as independent is safe. In a layer of several dtypes the walk holds
    among the sites whose fields have the same number of bits.

    Args:
      key: typed key, split for elements and orders, which are folded with the trial's and the cell's number.
      table: where bits may flip.
      trials_per_cell: trials for each pair of a layer and a field.
      by: "field" or "bit".

    Raises:
      ValueError: an unknown `by`, or less than one trial.
    """
    if by not in ("field", "bit"):
        raise ValueError(f"by must be one of ('field', 'bit'), got {by!r}")
    if trials_per_cell < 1:
        raise ValueError(f"trials_per_cell must be at least 1, got {trials_per_cell}")
    cells: dict[tuple[str, str], list[urns.Share]] = {}
    for layer, members in by_layer(table).items():
        for index in members:
            for name, positions in _parts(table[index], by).items():
                cells.setdefault((layer, name), []).append(urns.Share(index, tuple(positions), table[index].size))
    urn = urns.build(table, list(cells.values()))
    names = list(dict.fromkeys(name for _, name in cells))
    lowest, count = _ranges(table, by, names)
    part_of = jnp.asarray([names.index(name) for _, name in cells])
    element_key, order_key = jax.random.split(key)

    def trial(number: jax.Array) -> slots.Faults:
        cell, step = jnp.divmod(number.astype(jnp.int32), trials_per_cell)
        fault = distinct(jax.random.fold_in(element_key, number), urn, 1, cell)
        where = part_of[cell], fault.site
        place = _walk(jax.random.fold_in(order_key, cell), step, jnp.asarray(count)[where], longest=count.max())
        return fault._replace(bit=jnp.asarray(lowest)[where] + place)

    faults = jax.vmap(trial)(jnp.arange(len(cells) * trials_per_cell, dtype=jnp.uint32))
    layers, fields = zip(*(cell for cell in cells for _ in range(trials_per_cell)), strict=True)
    return LayerwiseFaults(faults, layers, fields)


def distinct(key: jax.Array, urn: urns.Urn, flips: int, group: jax.Array | None = None) -> slots.Faults:
    """Faults [flips] of one trial, all distinct, from one group of the urn or from any.

    Only the first bad slot is drawn again at a time: those before it are final, so each slot sees exactly the bits that
    are taken. Drawing all bad slots at once would drop values because of neighbours that change in the same round.
    """
    nowhere = urn.size.shape[0] - 1

    def bad(faults: slots.Faults) -> jax.Array:
        return (slots.repeats(faults) > 0) | (faults.site == nowhere)

    def redraw(state: tuple[jax.Array, slots.Faults]) -> tuple[jax.Array, slots.Faults]:
        round_, faults = state
        fresh = urns.draw(jax.random.fold_in(key, round_), urn, flips, group)
        replaced = (jnp.arange(flips) == jnp.argmax(bad(faults))) | (round_ == 0)
        return round_ + 1, jax.tree.map(lambda old, new: jnp.where(replaced, new, old), faults, fresh)

    empty = slots.no_faults(flips)
    start = (jnp.uint32(0), empty._replace(site=jnp.full((flips,), nowhere)))
    return jax.lax.while_loop(lambda state: jnp.any(bad(state[1])), redraw, start)[1]


def allowed_bits(
    table: sites.SiteTable, bits: Iterable[int] | None = None, field: str | None = None
) -> list[tuple[int, ...]]:
    """The bit positions of each site that may be hit: those of `bits`, or of the named `field`, or all.

    Raises:
      ValueError: both are given, or the table has no such field or bit.
    """
    if bits is not None and field is not None:
        raise ValueError(f"bits and field exclude each other, got bits={tuple(bits)} and field={field!r}")
    if field is not None:
        known = dict.fromkeys(name for site in table for name in bit_views.fields(site.dtype))
        if field not in known:
            raise ValueError(f"field must be one of {tuple(known)} for this table, got {field!r}")
        return [tuple(bit_views.fields(site.dtype).get(field, ())) for site in table]
    if bits is None:
        return [tuple(range(site.width)) for site in table]
    wanted = sorted(set(bits))
    widest = max(site.width for site in table)
    if not wanted or wanted[0] < 0 or wanted[-1] >= widest:
        raise ValueError(f"bits must be positions in 0..{widest - 1} for this table, got {tuple(wanted)}")
    return [tuple(bit for bit in wanted if bit < site.width) for site in table]


def _walk(key: jax.Array, step: jax.Array, count: jax.Array, *, longest: int) -> jax.Array:
    """[k] int32 places below `count` [k]: every `count` steps pass each place once, in an order of their own."""
    round_, step = jnp.divmod(step, count)

    def place(round_: jax.Array, step: jax.Array, count: jax.Array) -> jax.Array:
        rank = jax.random.uniform(jax.random.fold_in(key, round_), (longest,))
        return jnp.argsort(jnp.where(jnp.arange(longest) < count, rank, jnp.inf))[step].astype(jnp.int32)

    return jax.vmap(place)(round_, step, count)


def _ranges(table: sites.SiteTable, by: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest bit and number of bits of the named part in every site, each [names, sites]; 0 and 1 where it has none."""
    parts = [_parts(site, by) for site in table]
    found = [[part.get(name, (0,)) for part in parts] for name in names]
    lowest = [[min(positions) for positions in row] for row in found]
    count = [[len(positions) for positions in row] for row in found]
    return np.asarray(lowest, np.int32), np.asarray(count, np.int32)


def _parts(site: sites.Site, by: str) -> dict[str, Sequence[int]]:
    if by == "field":
        return bit_views.fields(site.dtype)
    return {str(bit): (bit,) for bit in reversed(range(site.width))}


def by_layer(table: sites.SiteTable) -> dict[str, list[int]]:
    """The table's indices by layer, in order of first appearance."""
    members: dict[str, list[int]] = {}
    for index, site in enumerate(table):
        members.setdefault(site.layer, []).append(index)
    return members
