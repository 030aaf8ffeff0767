"""The search against exhaustion, and the gains it ranks by against finite changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import outcomes
from threats.faults import bits, campaign, formats, gains, injection, ranking, sampling, search, sites, slots


def _every_bit(table) -> slots.Faults:
    """One trial for every bit of the table."""
    triples = [(i, e, b) for i, site in enumerate(table) for e in range(site.size) for b in range(site.width)]
    return slots.Faults(*(jnp.asarray(x, jnp.int32)[:, None] for x in np.asarray(triples).T))


def _table(example, include) -> sites.SiteTable:
    if include == "stem_out":
        return sites.activation_sites(example.apply, example.variables, example.images, include=include)
    if include == "scales":
        return sites.weight_sites(example.variables, include="*/kernel", collections=("params", "scales"))
    return sites.weight_sites(example.variables, include=include)


@pytest.mark.parametrize(
    ("name", "include", "allow_nonfinite"),
    [
        ("tiny", "*/bias", True),
        ("tiny_bfloat16", "block/*", False),
        ("tiny_bfloat16", "stem_out", True),
        ("tiny_int8", "*/kernel", True),
        ("tiny_int8", "scales", False),
        ("tiny_float8", "*/kernel", True),
    ],
)
def test_the_worst_single_flip_is_the_one_exhaustion_finds(name, include, allow_nonfinite, request):
    example = request.getfixturevalue(name)
    table = _table(example, include)
    everything = _every_bit(table)
    options = {"strategy": "vmap", "trials_at_once": 500, "images_at_once": 4}
    trials = campaign.run_trials(*example, table, everything, **options)
    refused = (np.asarray(trials.nonfinite) > 0) | ~np.isfinite(np.asarray(trials.after)[:, 0])
    assert allow_nonfinite or refused.any()
    accuracy = np.where(refused & (not allow_nonfinite), 1.0, np.asarray(trials.accuracy))
    worst = jax.jit(
        lambda: search.worst_case(
            *example, table, flips=1, candidates=table.bits, allow_nonfinite=allow_nonfinite, **options
        )
    )()
    found = np.all(np.stack(everything[:3])[:, :, 0] == np.stack(worst.faults[:3]), axis=0).argmax()
    np.testing.assert_allclose([accuracy[found], worst.accuracy[0]], accuracy.min(), atol=1e-6)
    np.testing.assert_array_equal(trials.after[found], worst.after)
    assert allow_nonfinite or worst.nonfinite[0] == 0.0


def test_several_flips_of_a_mixed_table(tiny):
    table = sites.weight_sites(tiny.variables) + sites.activation_sites(tiny.apply, tiny.variables, tiny.images)
    worst = jax.jit(
        lambda: search.worst_case(*tiny, table, flips=5, candidates=6, allow_nonfinite=False, images_at_once=4)
    )()
    used = np.stack(worst.faults[:3], axis=1)
    assert (used[:, 0] >= 0).all()
    assert len(used) == len(np.unique(used, axis=0))
    assert (np.diff(np.asarray(worst.accuracy)) <= 0.2).all()
    assert worst.accuracy[-1] < 0.4
    logits = tiny.apply(injection.inject(tiny.variables, table, worst.faults), tiny.images)
    right = jnp.mean(outcomes.accuracy(logits, tiny.labels, "multi-class"))
    np.testing.assert_allclose(worst.accuracy[-1], right, atol=1e-6)
    assert np.isfinite(logits).all()
    assert np.isfinite(worst.after).all()
    assert not np.any(worst.nonfinite)


def _line(variables, images):
    score = images.reshape(images.shape[0], -1) @ variables["params"]["w"]
    return jnp.stack([score, -score], axis=1)


def test_huge_flips_give_way_when_non_finite_logits_are_forbidden():
    # Any top exponent bit makes a value near 1e38, and the sum of 2 x 2 pixels of 100 times it is infinite.
    variables = {"params": {"w": jnp.asarray([0.5, 0.4, 0.3, 0.2])}}
    images, labels = jnp.full((3, 2, 2, 1), 100.0), jnp.zeros((3,), jnp.int32)
    table = sites.weight_sites(variables)
    worst = search.worst_case(_line, variables, images, labels, table, flips=1, candidates=3, allow_nonfinite=False)
    assert worst.faults.site[0] == 0
    assert worst.nonfinite[0] == 0.0
    assert abs(worst.after[0]) < 1e19


@pytest.mark.parametrize("allow_nonfinite", [True, False])
def test_every_bit_is_taken_once_and_an_inadmissible_one_leaves_a_slot_unused(allow_nonfinite):
    # With all 16 bits of a zero flipped it is a NaN.
    variables = {"params": {"w": jnp.zeros((1,), jnp.bfloat16)}}
    table = sites.weight_sites(variables)

    def apply(variables, images):
        score = images[:, 0, 0] * variables["params"]["w"].astype(jnp.float32)[None]
        return jnp.concatenate([score, -score], axis=1)

    images, labels = jnp.ones((2, 1, 1, 1)), jnp.zeros((2,), jnp.int32)
    worst = jax.jit(
        lambda: search.worst_case(
            apply, variables, images, labels, table, flips=16, candidates=2, allow_nonfinite=allow_nonfinite
        )
    )()
    taken = worst.faults.bit[worst.faults.site >= 0].tolist()
    assert len(set(taken)) == len(taken)
    assert (len(taken) == 16) == allow_nonfinite
    assert (worst.nonfinite[-1] > 0) == allow_nonfinite
    if not allow_nonfinite:
        assert worst.faults.site[-1] == -1
        assert worst.accuracy[-1] == worst.accuracy[len(taken) - 1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e5m2"])
def test_gain_is_the_gradient_times_the_change(dtype):
    values = jnp.asarray([0.75, -1.5, 3.0, 1.0, jnp.nan]).astype(dtype)
    slopes = jnp.asarray([2.0, -1.0, jnp.nan, -3.0, 1.0])
    largest = float(jnp.finfo(dtype).max)
    gain = jax.jit(functools.partial(gains.of_change, largest=largest), static_argnames="allow_nonfinite")
    for bit in range(bits.width(dtype)):
        after = bits.flip(values, jnp.full((5,), bits.mask(bit, dtype)))
        flipped = np.asarray(after, np.float64)
        with np.errstate(invalid="ignore"):
            change = np.clip(flipped - np.asarray(values, np.float64), -largest, largest)
        slope = np.nan_to_num(np.asarray(slopes, np.float64))
        change = np.where(np.isfinite(flipped), change, np.sign(slope) * largest)
        expected = np.where([True] * 4 + [False], slope * change * 2.0**-40, 0.0)
        got = gain(values, after, slopes, allow_nonfinite=True, limit=jnp.float32(jnp.inf))
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        strict = gain(values, after, slopes, allow_nonfinite=False, limit=jnp.float32(2.0))
        allowed = np.isfinite(flipped) & (np.abs(flipped) <= 2.0)
        np.testing.assert_array_equal(np.isneginf(strict), ~allowed)


@pytest.mark.parametrize("name", ["tiny_int8", "tiny_float8"])
def test_stored_weights_are_ranked_by_the_gradient_at_the_decoded_value(name, request):
    example = request.getfixturevalue(name)
    apply, stored, images, labels = example
    table = sites.weight_sites(stored, include=("*/kernel", "block/decay"))
    problem = ranking.Problem(apply.apply, apply.decode, stored, images, labels, table, "multi-class", 4)
    none, limit = slots.no_faults(1), jnp.float32(jnp.inf)
    slopes = jax.jit(lambda: ranking.slopes(problem, none, allow_nonfinite=True))()
    rank = functools.partial(ranking.best_bits, problem, count=200, allow_nonfinite=True, limit=limit)
    chosen = jax.jit(rank)(slopes, none)

    def loss(plain):
        return jnp.sum(outcomes.loss(apply.apply(plain, images), labels, "multi-class"))

    plain = apply.decode(stored)
    slopes = injection.leaves_of(jax.jit(jax.grad(loss))(plain), table, range(len(table)))
    before = injection.leaves_of(plain, table, range(len(table)))
    trials = _every_bit(table)
    faulty = jax.jit(jax.vmap(lambda fault: apply.decode(injection.inject(stored, table, fault))))(trials)
    after = {i: np.asarray(leaf) for i, leaf in injection.leaves_of(faulty, table, range(len(table))).items()}
    expected, values = [], []
    for trial, (site, element, _) in enumerate(np.stack(trials[:3])[:, :, 0].T):
        values.append(after[site][trial].reshape(-1)[element])
        largest = gains.largest_change(table[site].dtype)
        slope, now = (float(tree[site].reshape(-1)[element]) for tree in (slopes, before))
        finite = np.isfinite(values[-1])
        expected.append(slope * (np.clip(values[-1] - now, -largest, largest) if finite else np.sign(slope) * largest))
    known = np.stack(trials[:3])[:, :, 0]
    place = [np.all(known == bit[:, None], axis=0).argmax() for bit in np.stack(chosen.faults[:3]).T]
    assert len(set(place)) == 200
    np.testing.assert_allclose(np.asarray(expected)[place], np.sort(expected)[::-1][:200], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(chosen.value, np.asarray(values)[place])


def test_activations_are_ranked_below_a_limit_that_holds_for_every_image(tiny):
    table = sites.activation_sites(tiny.apply, tiny.variables, tiny.images, include="stem_out")
    problem = ranking.Problem(tiny.apply, dict, *tiny[1:], table, "multi-class", 4)
    slopes = jax.jit(lambda: ranking.slopes(problem, slots.no_faults(1), allow_nonfinite=False))()

    def loss(shift):
        entry = jax.tree_util.Partial(lambda shift, x: x + shift, shift)
        logits = tiny.apply(injection.with_taps(tiny.variables, table, {0: entry}), tiny.images)
        return jnp.sum(outcomes.loss(logits, tiny.labels, "multi-class"))

    values = sites.table_values(tiny.apply, tiny.variables, tiny.images, table)["stem_out"]
    gradients, largest = jax.jit(jax.grad(loss))(jnp.zeros_like(values)), gains.largest_change(values.dtype)
    for limit in (0.5, 2.0, 1e38):
        found = jnp.where(slopes.largest[0] <= limit, slopes.gains[0], -jnp.inf)
        rules = {"largest": largest, "allow_nonfinite": False, "limit": jnp.float32(limit)}

        def gain(bit, rules=rules):
            after = bits.flip(values, jnp.broadcast_to(bits.mask(bit, values.dtype), values.shape))
            return jnp.sum(gains.of_change(values, after, gradients, **rules), axis=0).reshape(-1)

        expected = jax.lax.map(gain, jnp.arange(32))
        np.testing.assert_array_equal(jnp.isneginf(found), jnp.isneginf(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)


def test_restarts_begin_with_other_flips_and_the_worst_end_wins(tiny_int8):
    table = sites.weight_sites(tiny_int8.variables, include="*/kernel")
    find = functools.partial(search.worst_case, *tiny_int8, table, flips=3, candidates=8)
    one, several = (jax.jit(functools.partial(find, restarts=restarts))() for restarts in (1, 4))
    ends = [(float(w.accuracy[-1]), -float(w.loss[-1])) for w in (several, one)]
    assert ends == sorted(ends)
    trial = jax.tree.map(lambda slot: slot[None], several.faults)
    again = campaign.run_trials(*tiny_int8, table, trial)
    np.testing.assert_allclose([again.accuracy[0], again.loss[0]], [several.accuracy[-1], several.loss[-1]], rtol=1e-4)
    drawn = sampling.random_faults(jax.random.key(0), table, trials=30, flips=3)
    assert several.accuracy[-1] <= campaign.run_trials(*tiny_int8, table, drawn).accuracy.min()


@pytest.mark.parametrize("name", ["tiny", "tiny_int8"])
def test_no_flip_makes_a_value_larger_than_allowed(name, request):
    example = request.getfixturevalue(name)
    table = sites.weight_sites(example.variables, include="block/*/kernel")
    find = functools.partial(search.worst_case, *example, table, flips=4, candidates=8)
    free, bounded = (jax.jit(functools.partial(find, largest_magnitude=limit))() for limit in (None, 0.5))

    def largest(worst):
        faulty = injection.inject(example.variables, table, worst.faults)
        faulty = formats.decode(faulty) if name == "tiny_int8" else faulty
        hit = injection.leaves_of(faulty, table, range(len(table)))
        flat = jnp.stack([hit[int(s)].reshape(-1)[e] for s, e in zip(*worst.faults[:2], strict=True)])
        return float(jnp.max(jnp.abs(flat)))

    assert (bounded.faults.site >= 0).all()
    assert largest(bounded) <= 0.5 < largest(free)


def test_bad_arguments(tiny):
    table = sites.weight_sites(tiny.variables, include="head/bias")
    for options, message in (
        ({"flips": 0}, "flips and candidates must be at least 1, got 0 and 16"),
        ({"flips": 97}, "flips must be at most 96, the number of bits of the table, got 97"),
        ({"flips": 1, "restarts": 17}, r"restarts must be in 1..16, the number of candidates, got 17"),
        ({"flips": 1, "largest_magnitude": 0.0}, "largest_magnitude must be positive, or None for no limit, got 0.0"),
        ({"flips": 1, "strategy": "all"}, "strategy must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            search.worst_case(*tiny, table, **options)
    integers = {"params": {"w": jnp.ones((2,), jnp.int8)}}
    with pytest.raises(ValueError, match=r"the table must hold floats, or integers that apply decodes .* w is int8"):
        search.worst_case(*tiny._replace(variables=integers), sites.weight_sites(integers), flips=1)
