"""Every draw is uniform over what it names, and any trial can be drawn alone."""

import jax
import numpy as np
import pytest
from scipy import stats

from threats import campaigns, faults
from threats.campaigns import drawing

KEY = jax.random.key(7)


def _prepare(small, **choices):
    spec = campaigns.CampaignSpec(**{"trials": 100, **choices})
    table = faults.weight_sites(small.variables)
    if "activations" in spec.kinds:
        table += faults.activation_sites(small.apply, small.variables, small.images)
    return drawing.prepare(spec, table, key=KEY)


def _flat(drawn, table):
    """[t, k] the number of each bit among all bits of the table."""
    starts = np.cumsum([0] + [site.size * 32 for site in table])
    return starts[drawn.site] + drawn.element * 32 + drawn.bit


def test_bits_are_equally_likely(small):
    made = _prepare(small)
    numbers = np.arange(made.population * 20)
    counts = np.bincount(_flat(drawing.faults(made, numbers), made.table)[:, 0], minlength=made.population)
    assert len(counts) == made.population == made.table.bits
    assert stats.chisquare(counts).pvalue > 1e-3


def test_layers_are_equally_likely_and_bits_within_them(small):
    made = _prepare(small, drawing="layers", field="exponent")
    drawn = drawing.faults(made, np.arange(8000))
    layers = np.array([site.layer for site in made.table])[drawn.site[:, 0]]
    _, counts = np.unique(layers, return_counts=True)
    assert len(counts) == len(made.table.layers)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.chisquare(np.bincount(drawn.bit[:, 0])[23:31]).pvalue > 1e-3
    assert set(np.unique(drawn.bit)) == set(range(23, 31))


def test_strata_are_uniform_inside_and_shares_are_of_bits(small):
    made = _prepare(small, drawing="stratified")
    assert sum(drawing.shares(made).values()) == pytest.approx(1)
    assert sum(stratum.population for stratum in made.strata) == made.population
    for index, stratum in enumerate(made.strata):
        drawn = drawing.faults(made, np.arange(4000), np.full(4000, index))
        _, counts = np.unique(_flat(drawn, made.table), return_counts=True)
        assert len(counts) == stratum.population
        assert stats.chisquare(counts).pvalue > 1e-4
        assert {made.table[site].layer for site in drawn.site[:, 0]} == {stratum.layer}
        assert {faults.field_of(bit, "float32") for bit in drawn.bit[:, 0]} == {stratum.field}


def test_exhaustive_is_every_bit_once(small):
    made = _prepare(small, drawing="exhaustive", trials=None, bits=(3, 30, 31), kinds=("weights", "activations"))
    drawn = drawing.faults(made, np.arange(made.population))
    flat = _flat(drawn, made.table)[:, 0]
    assert made.population == made.table.bits // 32 * 3 == len(np.unique(flat))
    assert (np.diff(flat) > 0).all()


def test_the_number_of_bits_is_binomial_and_none_is_hit_twice(small):
    made = _prepare(small, bit_error_rate=0.01, trials=4000)
    drawn = drawing.faults(made, np.arange(4000))
    counts = (drawn.site >= 0).sum(axis=1)
    law = stats.binom(made.population, 0.01)
    edges = np.arange(law.ppf(0.001), law.ppf(0.999))
    seen = np.array([(counts <= edges[0]).sum(), *((counts == e).sum() for e in edges[1:]), (counts > edges[-1]).sum()])
    chances = np.array([law.cdf(edges[0]), *law.pmf(edges[1:]), law.sf(edges[-1])])
    assert stats.chisquare(seen, chances * 4000).pvalue > 1e-3
    for site, flat in zip(drawn.site[:200], _flat(drawn, made.table)[:200], strict=True):
        used = flat[site >= 0]
        assert len(np.unique(used)) == len(used)
    hits = np.bincount(_flat(drawn, made.table)[drawn.site >= 0], minlength=made.population)
    assert stats.chisquare(hits).pvalue > 1e-3


def test_bursts_are_adjacent_and_stay_in_what_is_allowed(small):
    made = _prepare(small, burst=3, field="exponent")
    drawn = drawing.faults(made, np.arange(2000))
    assert (np.diff(drawn.bit, axis=1) == 1).all()
    assert (np.diff(drawn.element, axis=1) == 0).all()
    assert (drawn.bit.min(), drawn.bit.max()) == (23, 30)
    assert stats.chisquare(np.bincount(drawn.bit[:, 0])[23:29]).pvalue > 1e-3


@pytest.mark.parametrize(
    "choices",
    [{}, {"flips": 3, "drawing": "layers"}, {"bit_error_rate": 0.005}, {"burst": 2}, {"action": "stuck_at_1"}],
    ids=str,
)
def test_a_trial_is_drawn_alone_as_in_any_chunk(small, choices):
    made = _prepare(small, **choices)
    whole = drawing.faults(made, np.arange(20))
    for number in (0, 7, 19):
        alone = drawing.faults(made, np.array([number]))
        jax.tree.map(lambda a, b, n=number: np.testing.assert_array_equal(a[0], b[n]), alone, whole)


def test_images_of_one_shot_trials_are_uniform(small):
    made = _prepare(small, one_shot=True)
    numbers = drawing.image_numbers(made, np.arange(6000), 12)
    assert stats.chisquare(np.bincount(numbers, minlength=12)).pvalue > 1e-3
    np.testing.assert_array_equal(drawing.image_numbers(made, np.array([17]), 12), numbers[17:18])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"field": "fraction"}, "field must be one of"),
        ({"bits": (32,)}, "bits must be positions"),
        ({"bits": (31,), "burst": 2}, "sites have 0"),
        ({"flips": 5, "bits": (31,), "drawing": "exhaustive", "trials": None}, "one hit per trial"),
        ({"kinds": ()}, "at least one"),
        ({"kinds": "weights"}, r"write \('weights',\)"),
        ({"kinds": ("registers",)}, "kinds must be one of"),
        ({"action": "toggle"}, "action must be one of"),
        ({"trials": None}, "either trials or half_width"),
        ({"half_width": 0.1}, "either trials or half_width"),
        ({"burst": 2, "flips": 2}, "one hit per trial"),
        ({"bit_error_rate": 1.5}, r"must lie in \(0, 1\)"),
        ({"bit_error_rate": 0.1, "drawing": "layers"}, "needs drawing 'bits'"),
        ({"one_shot": True, "metric": "auc"}, "choose another"),
        ({"one_shot": True, "metric": "critical_5"}, "choose another"),
        ({"one_shot": True, "drawing": "exhaustive", "trials": None}, "another drawing than 'exhaustive'"),
        ({"trials": 2**31}, "must be at most"),
    ],
)
def test_what_cannot_be_is_refused(small, choices, message):
    with pytest.raises(ValueError, match=message):
        _prepare(small, **choices)


def test_a_rate_that_hits_too_many_bits_is_refused(small):
    table = faults.weight_sites({"params": {"w": np.zeros((4000,), np.float32)}})
    spec = campaigns.CampaignSpec(trials=2, bit_error_rate=0.5)
    with pytest.raises(ValueError, match="lower it"):
        drawing.prepare(spec, table, key=KEY)


def test_a_spec_is_its_description():
    spec = campaigns.CampaignSpec(kinds=("weights", "states"), bits=(30, 31), half_width=0.02, confidence=0.9)
    assert campaigns.CampaignSpec.parse(spec.describe()) == spec


def test_planned_trials():
    one_look = campaigns.CampaignSpec(half_width=0.01, drawing="stratified")
    many_looks = campaigns.CampaignSpec(half_width=0.01)
    assert one_look.planned(464_000_000) == 9604
    assert many_looks.planned(464_000_000) == 12_555
    assert campaigns.CampaignSpec(trials=77).planned(10) == 77
    # Drawn with replacement: a small population does not need fewer.
    assert many_looks.planned(96) == many_looks.planned(10**15)
