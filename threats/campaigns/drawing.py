"""Which bits each trial of a campaign hits: a function of the spec, the table, the key and the trial's number alone.

So any trial can be drawn again by itself, and chunks of a campaign can be drawn anywhere in any order. Trials are
independent draws (with replacement), but for an exhaustive campaign, which visits every bit once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from threats.campaigns import spec as specs
from threats.faults import bits, sampling, sites, slots, urns

_MOST_SLOTS = 4096


class Stratum(NamedTuple):
    """Bits of one field in one layer. population: how many there are."""

    layer: str
    field: str
    population: int

    @property
    def name(self) -> str:
        """`layer:field`."""
        return f"{self.layer}:{self.field}"


class Drawing(NamedTuple):
    """Everything that draws the trials of a campaign; from `prepare`.

    spec, table, key: as given. allowed: bits of each site where a hit may begin. strata: of a stratified campaign, else
    empty. population: number of possible single hits. width: slots of a trial.
    """

    spec: specs.CampaignSpec
    table: sites.SiteTable
    key: jax.Array
    allowed: tuple[tuple[int, ...], ...]
    strata: tuple[Stratum, ...]
    population: int
    width: int


def prepare(spec: specs.CampaignSpec, table: sites.SiteTable, *, key: jax.Array) -> Drawing:
    """Checks the spec against the table.

    Args:
      spec: what is asked.
      table: where bits may be hit.
      key: typed; trial n uses `fold_in(key, n)` alone.

    Raises:
      ValueError: the table has no such bits, fewer than a trial hits, or more bits are hit than a trial can list.
    """
    allowed = sampling.allowed_bits(table, spec.bits, spec.field)
    if spec.burst > 1:
        allowed = [tuple(p for p in each if set(range(p, p + spec.burst)) <= set(each)) for each in allowed]
    population = sum(site.size * len(positions) for site, positions in zip(table, allowed, strict=True))
    if population < spec.flips:
        raise ValueError(
            f"a trial needs {spec.flips} bits (burst {spec.burst}), the campaign's sites have {population}"
        )
    width = spec.burst if spec.burst > 1 else spec.flips
    drawing = Drawing(spec, table, key, tuple(allowed), (), population, width)
    if spec.bit_error_rate is not None:
        width = max(1, int(_counts(drawing, np.arange(spec.planned(population))).max()))
        if width > _MOST_SLOTS:
            raise ValueError(
                f"bit_error_rate {spec.bit_error_rate:g} hits {width} of {population} bits in one trial: "
                f"lower it, or name fewer sites, so that no trial has more than {_MOST_SLOTS}"
            )
        return drawing._replace(width=width)
    if spec.drawing == "stratified":
        return drawing._replace(strata=_strata(drawing))
    return drawing


def faults(drawing: Drawing, numbers: np.ndarray, strata: np.ndarray | None = None) -> slots.Faults:
    """The faults [t, width] of the trials with these numbers.

    Args:
      drawing: from `prepare`.
      numbers: [t] whole numbers >= 0.
      strata: [t] the stratum of each, an index into `drawing.strata`, where the campaign is stratified.
    """
    spec = drawing.spec
    if spec.drawing == "exhaustive":
        drawn = _nth(drawing, numbers)
    else:
        flips = 1 if spec.burst > 1 else drawing.width
        groups = np.zeros(len(numbers)) if strata is None else strata
        arguments = drawing.key, _urn(drawing), jnp.asarray(numbers, jnp.uint32), jnp.asarray(groups, jnp.int32)
        drawn = _draw(*arguments, flips=flips, grouped=bool(drawing.strata))
    drawn = jax.tree.map(np.asarray, drawn)
    if spec.burst > 1:
        drawn = _spread(drawn, spec.burst)
    if spec.bit_error_rate is not None:
        unused = np.arange(drawing.width)[None] >= _counts(drawing, numbers)[:, None]
        drawn = slots.Faults(*(np.where(unused, fill, x) for x, fill in zip(drawn[:3], (-1, 0, 0), strict=True)))
    return jax.tree.map(np.asarray, slots.with_action(drawn, spec.action))


def image_numbers(drawing: Drawing, numbers: np.ndarray, count: int) -> np.ndarray:
    """[t] which of `count` images each one-shot trial hits, all equally likely."""
    key = jax.random.fold_in(drawing.key, jnp.uint32(2**32 - 1))  # beside the trials' own keys
    fractions = jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n), (2,), jnp.uint32))(
        jnp.asarray(numbers, jnp.uint32)
    )
    return np.asarray(urns.integers(fractions.T, jnp.full((len(numbers),), count, jnp.int32)))


def shares(drawing: Drawing) -> dict[str, float]:
    """By stratum its share of all possible hits; they sum to 1."""
    return {stratum.name: stratum.population / drawing.population for stratum in drawing.strata}


def _strata(drawing: Drawing) -> tuple[Stratum, ...]:
    found = []
    for layer, fields in _cells(drawing).items():
        for field, parts in fields.items():
            found.append(Stratum(layer, field, sum(part.weight for part in parts)))
    return tuple(found)


def _cells(drawing: Drawing) -> dict[str, dict[str, list[urns.Share]]]:
    """By layer and field: the shares of its sites, weighed by their bits."""
    cells: dict[str, dict[str, list[urns.Share]]] = {}
    for layer, members in sampling.by_layer(drawing.table).items():
        for index in members:
            site = drawing.table[index]
            for field, positions in bits.fields(site.dtype).items():
                inside = tuple(bit for bit in drawing.allowed[index] if bit in positions)
                if inside:
                    share = urns.Share(index, inside, site.size * len(inside))
                    cells.setdefault(layer, {}).setdefault(field, []).append(share)
    return cells


@functools.lru_cache(maxsize=8)
def _built(table: sites.SiteTable, groups: tuple[tuple[urns.Share, ...], ...]) -> urns.Urn:
    return urns.build(table, groups)


def _urn(drawing: Drawing) -> urns.Urn:
    table, allowed = drawing.table, drawing.allowed
    if drawing.spec.drawing == "stratified":
        groups = [parts for fields in _cells(drawing).values() for parts in fields.values()]
    elif drawing.spec.drawing == "layers":
        by_layer = sampling.by_layer(table).values()
        groups = [[urns.Share(i, allowed[i], table[i].size) for i in members] for members in by_layer]
    else:
        groups = [[urns.Share(i, allowed[i], site.size * len(allowed[i])) for i, site in enumerate(table)]]
    return _built(table, tuple(map(tuple, groups)))


@functools.partial(jax.jit, static_argnames=("flips", "grouped"))
def _draw(key, urn, numbers, groups, *, flips, grouped) -> slots.Faults:
    def trial(number, group):
        return sampling.distinct(jax.random.fold_in(key, number), urn, flips, group if grouped else None)

    return jax.vmap(trial)(numbers, groups)


def _nth(drawing: Drawing, numbers: np.ndarray) -> slots.Faults:
    """[t, 1] the hits with these numbers, counted site by site, element by element, bit by bit."""
    sizes = [site.size * len(positions) for site, positions in zip(drawing.table, drawing.allowed, strict=True)]
    ends = np.cumsum(sizes, dtype=np.int64)
    site = np.searchsorted(ends, numbers, side="right")
    inside = np.asarray(numbers, np.int64) - (ends - sizes)[site]
    count = np.array([len(positions) for positions in drawing.allowed])[site]
    bit = [drawing.allowed[index][place] for index, place in zip(site, inside % count, strict=True)]
    return slots.Faults(*(np.asarray(column, np.int32)[:, None] for column in (site, inside // count, bit)))


def _spread(drawn: slots.Faults, burst: int) -> slots.Faults:
    """[t, burst] from [t, 1]: the bits from the drawn one upwards."""
    site, element, bit = (np.repeat(x, burst, axis=1) for x in drawn[:3])
    return slots.Faults(site, element, bit + np.arange(burst, dtype=np.int32)[None])


def _counts(drawing: Drawing, numbers: np.ndarray) -> np.ndarray:
    """[t] how many bits each trial hits: the binomial's quantile at a random number of 64 bits, in float64."""
    key = jax.random.fold_in(drawing.key, jnp.uint32(2**32 - 2))
    halves = jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n), (2,), jnp.uint32))(
        jnp.asarray(numbers, jnp.uint32)
    )
    high, low = np.asarray(halves, np.float64).T
    fraction = (high + (low + 0.5) / 2**32) / 2**32
    count = stats.binom.ppf(fraction, drawing.population, drawing.spec.bit_error_rate)
    return np.minimum(count, drawing.population).astype(np.int64)
