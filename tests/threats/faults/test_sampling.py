"""Draws against their exact law: uniform over bits or layers, no bit twice, every trial again alone."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from threats.faults import bits, sampling, sites, urns


def _site(path: str, *shape: int, dtype: str = "float32") -> sites.Site:
    return sites.Site(path=path, kind="weight", collection="params", shape=shape, dtype=dtype)


_SMALL = sites.SiteTable(
    (_site("a/bias", 3, dtype="int8"), _site("a/kernel", 2, 2, dtype="float16"), _site("decay", 5, dtype="uint8"))
)


def _draw(table, trials, flips, seed=0, **options):
    draw = jax.jit(lambda key: sampling.random_faults(key, table, trials=trials, flips=flips, **options))
    return jax.tree.map(np.asarray, draw(jax.random.key(seed)))


def _assert_follows(seen: collections.Counter, law: dict):
    assert set(seen) <= set(law)
    total = sum(seen.values())
    expected = np.asarray([law[outcome] for outcome in law]) * total
    observed = [seen[outcome] for outcome in law]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


def _law(table, over):
    """Exact probability of each (site, element, bit) of one draw."""
    law = {}
    for index, site in enumerate(table):
        peers = sum(other.size for other in table if other.layer == site.layer)
        chance = 1 / table.bits if over == "bits" else 1 / (len(table.layers) * peers * site.width)
        law.update({(index, e, b): chance for e in range(site.size) for b in range(site.width)})
    return law


@pytest.mark.parametrize("over", ["bits", "layers"])
def test_single_flips_follow_the_named_law(over):
    faults = _draw(_SMALL, trials=20000, flips=1, over=over)
    seen = collections.Counter(zip(*(x[:, 0].tolist() for x in faults[:3]), strict=True))
    _assert_follows(seen, _law(_SMALL, over))


@pytest.mark.parametrize("over", ["bits", "layers"])
def test_distinct_flips_are_drawn_one_after_another_without_replacement(over):
    table = sites.SiteTable((_site("a", 1, dtype="uint8"), _site("b", 3, dtype="uint8")))
    faults = _draw(table, trials=20000, flips=3, over=over, bits=[6])
    places = [(0, 0), (1, 0), (1, 1), (1, 2)]
    chance = dict(zip(places, [1 / 4] * 4 if over == "bits" else [1 / 2] + [1 / 6] * 3, strict=True))
    law = {}
    for first, second, third in itertools.permutations(places, 3):
        left = 1 - chance[first]
        law[first, second, third] = chance[first] * chance[second] / left * chance[third] / (left - chance[second])
    seen = collections.Counter(
        tuple(zip(site, element, strict=True))
        for site, element in zip(faults.site.tolist(), faults.element.tolist(), strict=True)
    )
    _assert_follows(seen, law)


@pytest.mark.parametrize("span", [1, 3, 1000003, 3 * 2**28, 464_000_000, 2**31 - 1])
def test_integers_are_a_fraction_of_the_span_rounded_down(span):
    fractions = jax.random.bits(jax.random.key(0), (2, 20000), jnp.uint32).at[:, :2].set(jnp.uint32([0, 2**32 - 1]))
    drawn = jax.jit(urns.integers)(fractions, jnp.full((20000,), span, jnp.int32))
    upper, lower = np.asarray(fractions).astype(object)
    np.testing.assert_array_equal(drawn, (((upper << 32) + lower) * span >> 64).astype(np.int64))


def test_more_than_2_to_the_31_bits_are_weighed_exactly():
    # Blocks of 2^30 positions do not divide this table's bits, and float32 could not tell the small sites from none.
    table = sites.SiteTable((_site("a", 900, 2**20), _site("b", 3, 2**27), _site("c", 2**29), _site("d", 7)))
    faults = _draw(table, trials=40000, flips=1)
    assert faults.site.max() < len(table)
    quarter = faults.element.astype(np.int64) * 4 // np.asarray([site.size for site in table])[faults.site]
    seen = collections.Counter(zip(faults.site.ravel().tolist(), quarter.ravel().tolist(), strict=True))
    total = sum(site.size for site in table)
    law = {(i, part): site.size / total / 4 for i, site in enumerate(table) for part in range(4) if i < 3}
    _assert_follows(seen, {outcome: chance / sum(law.values()) for outcome, chance in law.items()})


def test_no_bit_is_hit_twice_even_when_every_bit_is_taken():
    everything = sum(site.size * site.width for site in _SMALL)
    faults = np.stack(_draw(_SMALL, trials=3, flips=everything)[:3], axis=-1)
    for trial in faults:
        assert len({tuple(slot) for slot in trial.tolist()}) == everything


def test_trials_are_drawn_again_alone():
    full = _draw(_SMALL, trials=120, flips=20, over="layers")
    part = jax.jit(
        lambda key, first: sampling.random_faults(key, _SMALL, trials=11, flips=20, over="layers", first_trial=first)
    )
    for first in (100, 109):
        alone = part(jax.random.key(0), first)
        for whole, chunk in zip(full[:3], alone[:3], strict=True):
            np.testing.assert_array_equal(whole[first : first + 11], chunk)
    assert not np.array_equal(alone.element, part(jax.random.key(1), 109).element)


def test_bits_and_fields_restrict_the_draw():
    faults = _draw(_SMALL, trials=500, flips=1, field="mantissa")
    assert (faults.site == 1).all()
    assert set(faults.bit.ravel().tolist()) == set(bits.fields("float16")["mantissa"])
    faults = _draw(_SMALL, trials=500, flips=1, bits=(3, 12))
    assert set(faults.bit.ravel().tolist()) == {3, 12}
    assert (faults.bit[faults.site != 1] == 3).all()


@pytest.mark.parametrize("by", ["field", "bit"])
def test_layerwise_visits_every_cell(by):
    drawn = sampling.layerwise_faults(jax.random.key(0), _SMALL, trials_per_cell=40, by=by)
    cells = collections.Counter(zip(drawn.layers, drawn.fields, strict=True))
    if by == "field":
        names = {"a": {"sign", "magnitude", "exponent", "mantissa"}, "decay": {"magnitude"}}
    else:
        names = {"a": {str(bit) for bit in range(16)}, "decay": {str(bit) for bit in range(8)}}
    assert cells == {(layer, name): 40 for layer, wanted in names.items() for name in wanted}
    assert drawn.faults.site.shape == (40 * len(cells), 1)
    flips = [slots[:, 0].tolist() for slots in drawn.faults[:3]]
    for layer, field, site, element, bit in zip(drawn.layers, drawn.fields, *flips, strict=True):
        assert _SMALL[site].layer == layer
        assert element < _SMALL[site].size
        assert field == (bits.field_of(bit, _SMALL[site].dtype) if by == "field" else str(bit))
    hit = set(zip(flips[0], flips[1], strict=True))
    assert hit == {(index, element) for index, site in enumerate(_SMALL) for element in range(site.size)}


@pytest.mark.parametrize(("trials", "least"), [(3, 0), (12, 2)])
def test_the_trials_of_a_cell_walk_through_its_bits_equally_often(trials, least):
    table = sites.SiteTable((_site("a", 3), _site("b", 2, dtype="float16"), _site("c", 2, dtype="uint8")))
    drawn = sampling.layerwise_faults(jax.random.key(1), table, trials_per_cell=trials)
    seen = collections.defaultdict(collections.Counter)
    for layer, field, bit in zip(drawn.layers, drawn.fields, drawn.faults.bit[:, 0].tolist(), strict=True):
        seen[layer, field][bit] += 1
    for site in table:
        for field, positions in bits.fields(site.dtype).items():
            hits = [seen[site.layer, field][bit] for bit in positions]
            assert max(hits) - min(hits) <= 1, (site.layer, field)
    assert min(seen["c", "magnitude"][bit] for bit in range(8)) == (1 if trials == 12 else 0)
    assert min(seen["b", "exponent"][bit] for bit in range(10, 15)) == least


def test_walks_start_at_every_bit_and_every_round_has_an_order_of_its_own():
    table = sites.SiteTable(tuple(_site(f"layer_{i}", 1, dtype="uint8") for i in range(800)))
    drawn = sampling.layerwise_faults(jax.random.key(2), table, trials_per_cell=16)
    walks = np.asarray(drawn.faults.bit).reshape(800, 2, 8)
    assert (np.sort(walks, axis=-1) == np.arange(8)).all()
    assert (walks[:, 0] != walks[:, 1]).any(axis=-1).mean() > 0.99
    for place in (walks[:, 0, 0], walks[:, 1, 7]):
        _assert_follows(collections.Counter(place.tolist()), {bit: 1 / 8 for bit in range(8)})


def test_bad_arguments():
    key = jax.random.key(0)
    for options, message in (
        ({"over": "weights"}, r"over must be one of \('bits', 'layers'\), got 'weights'"),
        ({"trials": 0}, "trials and flips must be at least 1, got 0 and 1"),
        ({"flips": 129}, "flips must be at most 128, the number of allowed bits, got 129"),
        ({"bits": (8, 16)}, r"bits must be positions in 0\.\.15 for this table, got \(8, 16\)"),
        ({"bits": ()}, "bits must be positions"),
        ({"field": "exponents"}, r"field must be one of \('sign', 'magnitude', 'exponent', 'mantissa'\)"),
        ({"field": "sign", "bits": (1,)}, "bits and field exclude each other"),
    ):
        with pytest.raises(ValueError, match=message):
            sampling.random_faults(key, _SMALL, **{"trials": 1, "flips": 1, **options})
    with pytest.raises(ValueError, match=r"by must be one of \('field', 'bit'\), got 'layer'"):
        sampling.layerwise_faults(key, _SMALL, trials_per_cell=1, by="layer")
    with pytest.raises(ValueError, match="trials_per_cell must be at least 1, got 0"):
        sampling.layerwise_faults(key, _SMALL, trials_per_cell=0)
