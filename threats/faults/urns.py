"""Urns of bits: exactly uniform draws from weighed sites, however many bits there are.

Counts of bits pass 2^31 and floats would round them, so a position among N is drawn as two integers: blocks of equal
length, and a place in the block. The blocks hold a few positions more than N, fewer than there are blocks; a draw that
lands there says "draw again".
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats.faults import sites, slots

_BLOCK = 2**30


class Share(NamedTuple):
    """A site's part in a group: its index, the bits that may flip, and its weight among the group's sites."""

    site: int
    bits: tuple[int, ...]
    weight: int


class Urn(NamedTuple):
    """Groups [g] of at most m shares as integer tables; a rank past the last share stands for "draw again".

    high, radix: [g], the group's positions are counted as high blocks of `radix`.
    end_high, end_low: [g, m], cumulative weights, in blocks and the rest.
    site, count: [g, m + 1], site index and number of allowed bits; bits: [g, m + 1, w], those bits.
    size: [s + 1], elements of each site.
    """

    high: jax.Array
    radix: jax.Array
    end_high: jax.Array
    end_low: jax.Array
    site: jax.Array
    count: jax.Array
    bits: jax.Array
    size: jax.Array


def build(table: sites.SiteTable, groups: Sequence[Sequence[Share]]) -> Urn:
    """The tables of the groups; shares without allowed bits and groups without shares are left out.

    Args:
      table: the sites.
      groups: the shares of each group.
    """
    groups = [[share for share in group if share.bits] for group in groups]
    groups = [group for group in groups if group]
    most = max(len(group) for group in groups)
    width = max(len(share.bits) for group in groups for share in group)
    high, radix = np.zeros((2, len(groups)), np.int64)
    end_high, end_low = np.zeros((2, len(groups), most), np.int64)
    site = np.full((len(groups), most + 1), len(table))
    count = np.ones((len(groups), most + 1), np.int64)
    positions = np.zeros((len(groups), most + 1, width), np.int64)
    for g, group in enumerate(groups):
        ends = np.cumsum([share.weight for share in group], dtype=np.int64)
        high[g] = -(-ends[-1] // _BLOCK)
        radix[g] = -(-ends[-1] // high[g])
        # The padding repeats the last end, so that a position past it has passed every end: its rank is `most`.
        padded = np.append(ends, np.full(most - len(group), ends[-1]))
        end_high[g], end_low[g] = np.divmod(padded, radix[g])
        for rank, share in enumerate(group):
            site[g, rank], count[g, rank] = share.site, len(share.bits)
            positions[g, rank, : len(share.bits)] = share.bits
    size = [entry.size for entry in table] + [1]
    return Urn(*(jnp.asarray(x, jnp.int32) for x in (high, radix, end_high, end_low, site, count, positions, size)))


def draw(key: jax.Array, urn: Urn, count: int, group: jax.Array | None = None) -> slots.Faults:
    """[count] bits, not necessarily distinct; the site past the last one means "draw again".

    Args:
      key: consumed.
      urn: from `build`.
      count: number of bits n.
      group: scalar int32, the group to draw from; by default each draw chooses one, all equally likely.
    """
    fractions = jax.random.bits(key, (5, 2, count), jnp.uint32)
    any_group = integers(fractions[0], jnp.full((count,), urn.high.shape[0], jnp.int32))
    group = any_group if group is None else jnp.full((count,), group, jnp.int32)
    high = integers(fractions[1], urn.high[group])[:, None]
    low = integers(fractions[2], urn.radix[group])[:, None]
    end_high, end_low = urn.end_high[group], urn.end_low[group]
    passed = (end_high < high) | ((end_high == high) & (end_low <= low))
    rank = jnp.sum(passed, axis=1, dtype=jnp.int32)
    site = urn.site[group, rank]
    element = integers(fractions[3], urn.size[site])
    nth = integers(fractions[4], urn.count[group, rank])
    return slots.Faults(site, element, urn.bits[group, rank, nth])


def integers(fractions: jax.Array, span: jax.Array) -> jax.Array:
    """floor(f * span) for random f in [0, 1) of 64 bits: uniform over 0..span-1 to within span / 2^64.

    `jax.random.randint` forms its remainder in 32 bits and favours some integers by a tenth for spans near 2^30.

    Args:
      fractions: [2, n] uint32, upper and lower half of f.
      span: [n] int32, positive.
    """
    span = span.astype(jnp.uint32)
    upper, lower = fractions
    rest = upper * span
    carry = rest + _upper_product(lower, span) < rest
    return (_upper_product(upper, span) + carry.astype(jnp.uint32)).astype(jnp.int32)


def _upper_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The upper 32 bits of the 64-bit product of uint32 numbers, by halves of 16 bits."""
    half, low = jnp.uint32(16), jnp.uint32(0xFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & low, b >> half, b & low
    first = a_high * b_low + (a_low * b_low >> half)
    second = a_low * b_high + (first & low)
    return a_high * b_high + (first >> half) + (second >> half)
