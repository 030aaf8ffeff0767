"""Exactly the named bits flip: whole-model integer views against NumPy, and taps against a computation by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats.faults import injection, sites, slots


def _faults(*triples) -> slots.Faults:
    site, element, bit = np.asarray(triples, np.int32).T
    return slots.Faults(jnp.asarray(site), jnp.asarray(element), jnp.asarray(bit))


def _views(variables) -> dict[str, np.ndarray]:
    leaves = sites.leaves_by_path(variables)
    return {path: np.asarray(leaf).view(f"uint{8 * leaf.dtype.itemsize}").copy() for path, leaf in leaves.items()}


def _flipped(variables, table, faults) -> dict[str, np.ndarray]:
    """NumPy reference: XOR slot after slot."""
    views = _views(variables)
    action = np.zeros_like(faults.site) if faults.action is None else np.asarray(faults.action)
    for site, element, bit, how in zip(*np.asarray(jnp.stack(faults[:3])), action, strict=True):
        if site >= 0 and table[site].kind == "weight":
            view = views[f"{table[site].collection}/{table[site].path}"].reshape(-1)
            mask = view.dtype.type(1 << bit)
            view[element] = (view[element] ^ mask, view[element] & ~mask, view[element] | mask)[how]
    return views


def _assert_same(variables, expected):
    views = _views(variables)
    assert views.keys() == expected.keys()
    for path, view in views.items():
        np.testing.assert_array_equal(view, expected[path], err_msg=path)


@pytest.mark.parametrize("name", ["tiny", "tiny_bfloat16"])
def test_exactly_the_named_bits_flip_and_twice_is_the_identity(name, request):
    variables = request.getfixturevalue(name).variables
    table = sites.weight_sites(variables, collections=("params", "batch_stats"))
    width = table[0].width
    faults = _faults((0, 0, 0), (1, 23, width - 1), (4, 2, 3), (9, 1, 9), (12, 3, width - 2), (-1, 0, 0), (12, 3, 0))
    inject_jitted = jax.jit(injection.inject, static_argnums=1)
    faulty = inject_jitted(variables, table, faults)
    expected = _flipped(variables, table, faults)
    assert sum(np.bitwise_count(expected[path] ^ view).sum() for path, view in _views(variables).items()) == 6
    _assert_same(faulty, expected)
    _assert_same(inject_jitted(faulty, table, faults), _views(variables))


@pytest.mark.parametrize(
    "triples",
    [
        [(0, 1, 4), (0, 1, 30), (0, 1, 31)],
        [(0, 1, 4), (0, 1, 4)],
        [(0, 1, 4), (0, 2, 4), (0, 1, 4), (0, 1, 4), (0, 1, 7)],
        [(-1, 0, 0), (-1, 0, 0)],
    ],
    ids=["three bits of one element", "a pair cancels", "three of a kind flip once", "unused slots"],
)
def test_slots_of_one_element_combine_as_xor(tiny, triples):
    table = sites.weight_sites(tiny.variables, include="head/kernel")
    faults = _faults(*triples)
    inject = jax.jit(injection.inject, static_argnums=1)
    _assert_same(inject(tiny.variables, table, faults), _flipped(tiny.variables, table, faults))


@pytest.mark.parametrize("name", ["tiny", "tiny_bfloat16"])
def test_bits_are_stuck_as_in_numpy(name, request):
    """All bits of some elements, flipped, cleared and set, twice in part, in one trial."""
    variables = request.getfixturevalue(name).variables
    table = sites.weight_sites(variables)
    rng = np.random.default_rng(0)
    places = np.array([(i, e, b, (i + e + b) % 3) for i in (0, 1, 4) for e in (0, 2) for b in range(table[i].width)])
    places = rng.permutation(np.concatenate([places, places[places[:, 3] > 0][:9], places[places[:, 3] == 0][:4]]))
    faults = slots.Faults(*(jnp.asarray(column, jnp.int32) for column in places.T))
    slots.check(jax.tree.map(lambda x: x[None], faults), table)
    _assert_same(
        jax.jit(injection.inject, static_argnums=1)(variables, table, faults), _flipped(variables, table, faults)
    )


def test_a_bit_has_one_action(tiny):
    table = sites.weight_sites(tiny.variables)
    hit = slots.Faults(*(jnp.asarray([[x, x]], jnp.int32) for x in (0, 0, 5)))
    slots.check(slots.with_action(hit, "stuck_at_1"), table)
    with pytest.raises(ValueError, match="one action"):
        slots.check(hit._replace(action=jnp.asarray([[0, 1]])), table)
    with pytest.raises(ValueError, match=r"must be in 0\.\.2"):
        slots.check(hit._replace(action=jnp.asarray([[0, 3]])), table)
    with pytest.raises(ValueError, match="must be one of"):
        slots.with_action(hit, "stuck")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_every_number_format_under_vmap(dtype):
    leaf = jax.random.bits(jax.random.key(0), (5, 4), f"uint{8 * jnp.dtype(dtype).itemsize}")
    variables = {"params": {"w": jax.lax.bitcast_convert_type(leaf, jnp.dtype(dtype))}}
    table = sites.weight_sites(variables)
    trials = slots.Faults(
        *(jnp.asarray(x, jnp.int32) for x in ([[0, 0], [0, -1]], [[3, 19], [0, 0]], [[7, 0], [5, 2]]))
    )
    faulty = jax.jit(jax.vmap(lambda faults: injection.inject(variables, table, faults)))(trials)
    for trial in range(2):
        # Indexed by NumPy: XLA may move 8-bit floats through wider ones, which quiets their signalling NaNs.
        one, faults = jax.tree.map(lambda x, trial=trial: np.asarray(x)[trial], (faulty, trials))
        _assert_same(one, _flipped(variables, table, faults))


def test_signalling_nans_and_subnormals_survive():
    view = np.asarray([0x7F800001, 0x00000001, 0xFF812345, 0x3F800000], np.uint32)
    variables = {"params": {"w": jnp.asarray(view.view(np.float32))}}
    table = sites.weight_sites(variables)
    faulty = jax.jit(lambda v, faults: injection.inject(v, table, faults))(variables, _faults((0, 1, 1), (0, 2, 3)))
    expected = view ^ np.asarray([0, 2, 8, 0], np.uint32)
    np.testing.assert_array_equal(np.asarray(faulty["params"]["w"]).view(np.uint32), expected)


def test_an_activation_fault_equals_the_computation_by_hand(tiny):
    table = sites.activation_sites(tiny.apply, tiny.variables, tiny.images)
    bit = 29
    faulty = injection.inject(tiny.variables, table, _faults((0, 2 * 3 * 6 + 5, bit), (-1, 0, 0)))
    block, norm, head = (tiny.variables["params"][name] for name in ("block", "norm", "head"))
    stem = nn.Conv(4, (3, 3), strides=2).apply({"params": tiny.variables["params"]["stem"]}, tiny.images)
    hidden = np.asarray(jnp.tanh(nn.Dense(6).apply({"params": block["Dense_0"]}, stem))).copy()
    view = hidden.view(np.uint32)
    view[:, 2, 0, 5] ^= np.uint32(1 << bit)
    x = stem * block["decay"][None, None, None] + nn.Dense(4).apply({"params": block["Dense_1"]}, hidden)
    statistics = tiny.variables["batch_stats"]["norm"]
    x = nn.BatchNorm(use_running_average=True).apply({"params": norm, "batch_stats": statistics}, x)
    expected = nn.Dense(3).apply({"params": head}, jnp.mean(x, axis=(1, 2)))
    np.testing.assert_allclose(tiny.apply(faulty, tiny.images), expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(expected, tiny.apply(tiny.variables, tiny.images), atol=1e-2)


def test_a_mixed_table_flips_each_slot_where_it_belongs(tiny):
    weights = sites.weight_sites(tiny.variables, include="head/bias")
    table = weights + sites.activation_sites(tiny.apply, tiny.variables, tiny.images)
    faults = _faults((0, 1, 31), (2, 5, 31))
    both = jax.jit(injection.inject, static_argnums=1)(tiny.variables, table, faults)
    assert set(both["taps"]) == {"block", "stem_out"}
    weight_only = injection.flip_weights(tiny.variables, table, faults)
    assert "taps" not in weight_only
    _assert_same(weight_only, _flipped(tiny.variables, table, faults))
    x = jax.random.normal(jax.random.key(2), (2, 3, 3, 4))
    np.testing.assert_array_equal(both["taps"]["block"]["hidden"](x[..., :1]), x[..., :1])
    np.testing.assert_array_equal(both["taps"]["stem_out"](x), x.at[:, 0, 1, 1].multiply(-1.0))


def test_other_taps_stay_and_taken_ones_are_refused(tiny):
    table = sites.activation_sites(tiny.apply, tiny.variables, tiny.images, include="stem_out")
    entry = jax.tree_util.Partial(jnp.negative)
    used = {**tiny.variables, "taps": {"block": {"hidden": entry}}}
    faulty = injection.inject(used, table, _faults((0, 0, 0)))
    assert faulty["taps"]["block"]["hidden"] is entry
    assert set(used["taps"]) == {"block"}
    with pytest.raises(ValueError, match="taps must be free at the sites of the table, 'stem_out' is taken"):
        injection.inject({**tiny.variables, "taps": {"stem_out": entry}}, table, _faults((0, 0, 0)))


def test_variables_that_do_not_fit_the_table_are_refused(tiny, tiny_bfloat16):
    table = sites.weight_sites(tiny.variables, include="head/*")
    with pytest.raises(ValueError, match=r"head/bias must be float32 \(3,\) as in the table, got bfloat16 \(3,\)"):
        injection.inject(tiny_bfloat16.variables, table, _faults((0, 0, 0)))
    without = {"params": {"head": {"bias": tiny.variables["params"]["head"]["bias"]}}}
    with pytest.raises(ValueError, match="missing: params/head/kernel"):
        injection.inject(without, table, _faults((0, 0, 0)))
