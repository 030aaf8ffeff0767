"""Faults in hidden states: masks against NumPy, values against outputs, and campaigns with all kinds of sites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mamba_jax
from threats import faults
from threats.faults import batching, injection, masks, program, reuse, sites


@pytest.fixture(scope="module")
def nano():
    options = {"depths": (1, 1, 1, 1), "dims": (4, 8, 16, 32), "d_state": 2, "patch_size": 2}
    model = mamba_jax.create_model("medmamba", num_classes=3, **options)
    variables = model.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (5, 28, 28, 3))
    return model.apply, variables, images, jnp.arange(5, dtype=jnp.int32) % 3


@pytest.fixture(scope="module")
def table(nano):
    return faults.state_sites(*nano[:3])


def test_sites_of_states_stand_beside_the_others(nano, table):
    assert [(site.path, site.shape, site.dtype, site.layer) for site in table] == [
        (f"stages_{i}/block_0/ssm/state", (4, side**2, d, 2), "float32", f"stages_{i}/block_0/ssm/state")
        for i, (side, d) in enumerate(((14, 4), (7, 8), (3, 16), (1, 32)))
    ]
    activations = faults.activation_sites(*nano[:3])
    assert {site.kind for site in activations} == {"activation"}
    mixed = faults.weight_sites(nano[1]) + activations + table
    assert mixed.bits == sum(part.bits for part in (faults.weight_sites(nano[1]), activations, table))
    assert len(faults.state_sites(*nano[:3], include="stages_[01]/*", exclude="stages_0/*")) == 1
    with pytest.raises(ValueError, match="no site matches"):
        faults.state_sites(*nano[:3], include="stages_1/block_0/ssm/scan")


def test_a_model_without_states_is_told_so(tiny):
    with pytest.raises(ValueError, match="sowed no 'state_values'"):
        faults.state_sites(tiny.apply, tiny.variables, tiny.images)
    with pytest.raises(ValueError, match=r"apply must take mutable=\['state_values'\]"):
        faults.state_sites(lambda v, x: x, tiny.variables, tiny.images)


def test_masks_do_what_the_slots_say_one_after_the_other():
    rng = np.random.default_rng(0)
    address, bit = rng.integers(0, 5, 60), rng.integers(0, 32, 60)
    action = (address + bit) % 3  # one action for each bit
    address[:4] = 6  # past the end
    slots = faults.Faults(*(jnp.asarray(x, jnp.int32) for x in (address * 0, address, bit, action)))
    views = np.asarray(rng.integers(0, 2**32, 6), np.uint32)
    wanted = views.copy()
    for element, position, how in zip(address, bit, action, strict=True):
        if element < 6:
            power = np.uint32(1 << position)
            value = wanted[element]
            wanted[element] = (value ^ power, value & ~power, value | power)[how]
    arguments = jnp.asarray(address, jnp.int32), slots.bit, faults.slots.repeats(slots), slots.action
    cleared, flipped = masks.of_states(*arguments, jnp.zeros((2, 2, 3), jnp.uint32)).reshape(2, -1)
    np.testing.assert_array_equal((views & ~np.asarray(cleared)) ^ np.asarray(flipped), wanted)
    flips = masks.of_states(*arguments[:3], None, jnp.zeros((2, 6), jnp.uint32))
    again = masks.of_states(*arguments[:3], jnp.zeros_like(slots.bit), jnp.zeros((2, 6), jnp.uint32))
    np.testing.assert_array_equal(flips, again)
    assert not flips[0].any()


@pytest.mark.parametrize("action", faults.ACTIONS)
def test_outputs_change_by_what_the_state_changed(nano, table, action):
    """At the step itself y changes by C (h' - h), in the hit channel, and before and after are h and h'."""
    apply, variables, images, _ = nano
    table = sites.SiteTable(table[1:3])
    where = (2, 40, 3, 1)  # direction, step, channel, state
    element = np.ravel_multi_index(where, table[0].shape)
    slots = faults.Faults(*(jnp.asarray([x, x], jnp.int32) for x in (0, element, 30)))
    slots = slots._replace(bit=jnp.asarray([23, 21]), site=jnp.asarray([0, 0]))
    slots = faults.with_action(slots, action)
    tapped = _states(nano, table)
    read = jax.jit(injection.inject_and_read, static_argnums=1)
    faulty, before, after = read(variables, table, slots, tapped=tapped)
    h = np.asarray(tapped[table[0].path])[(0, *where)]
    np.testing.assert_array_equal(before, [h, h])
    power = np.uint32((1 << 23) | (1 << 21))
    view = h.view(np.uint32)
    hit = {"flip": view ^ power, "stuck_at_0": view & ~power, "stuck_at_1": view | power}[action].view(np.float32)
    np.testing.assert_array_equal(after, [hit, hit])

    values = jax.jit(lambda v: sites.tap_values(apply, v, images))
    clean, other = values(variables), values(faulty)
    row, column = divmod(40, 7)  # direction 2 is row by row, backwards
    change = (other["stages_1/block_0/ssm/scan"] - clean["stages_1/block_0/ssm/scan"])[0, :, :, 3]
    C = clean["stages_1/block_0/ssm/C"][0, 2, 40, 1]
    np.testing.assert_allclose(change[row, column], C * (hit - h), rtol=1e-3, atol=1e-6)
    assert (np.asarray(change).reshape(-1)[41:] == 0).all()


@pytest.mark.parametrize(
    "options", [{"strategy": "map", "images_at_once": 2}, {"strategy": "vmap", "trials_at_once": 4}]
)
def test_campaigns_mix_weights_activations_and_states(nano, table, options):
    apply, variables, *data = nano
    mixed = faults.weight_sites(variables, include=["stages_2/*/A_log", "head/bias"])
    mixed += faults.activation_sites(apply, variables, data[0], include="stages_3/*/dt") + sites.SiteTable(table[1:])
    drawn = faults.random_faults(jax.random.key(3), mixed, trials=24, flips=2, over="layers", field="exponent")
    drawn = drawn._replace(action=jnp.arange(48, dtype=jnp.int32).reshape(24, 2) % 3)
    hits_states = np.isin(drawn.site, [i for i, site in enumerate(mixed) if site.kind == "state"])
    assert 8 < hits_states.any(axis=1).sum() < 24
    whole = faults.make_trial_fn(apply, *data, mixed, reuse=False, **options)(variables, drawn)
    parts = faults.make_trial_fn(apply, *data, mixed, **options)(variables, drawn)
    for name in ("accuracy", "sdc", "nonfinite"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6, err_msg=name)
    # Values are read under other compilations: as all else, equal to rounding.
    for name in ("before", "after", "loss"):
        ours, theirs = (np.asarray(getattr(result, name)) for result in (parts, whole))
        tame = np.isfinite(theirs) & (np.abs(theirs) < 1e6)
        np.testing.assert_allclose(ours[tame], theirs[tame], rtol=1e-4, atol=1e-6, err_msg=name)
    values = np.concatenate([np.asarray(value[0]).reshape(-1) for value in _states(nano, table).values()])
    assert np.isclose(np.asarray(parts.before)[hits_states][:, None], values[None], rtol=1e-4, atol=0).any(axis=1).all()


def _states(nano, table):
    return jax.jit(lambda v, x: sites.table_values(nano[0], v, x, table))(nano[1], nano[2][:1])


def test_trials_of_states_keep_what_comes_before_them(nano, table):
    found = program.trace(*nano[:3], table)
    assert set(found.taps) == set(range(4))
    chosen = reuse.plan(found, table, batches=1)
    cost = {site.path: chosen.cost[part] for site, part in zip(table, chosen.part_of, strict=True)}
    assert cost["stages_3/block_0/ssm/state"] < 0.2 < 0.4 < cost["stages_0/block_0/ssm/state"] < 1


def test_draws_over_states_are_as_over_other_sites(nano, table):
    drawn = faults.random_faults(jax.random.key(4), table, trials=300, flips=2, over="layers")
    faults.slots.check(drawn, table)
    assert set(np.unique(drawn.site)) == set(range(4))
    with pytest.raises(ValueError, match=r"element must be in 0\.\.255 for stages_3/block_0/ssm/state"):
        faults.slots.check(drawn._replace(site=drawn.site * 0 + 3, element=drawn.element * 0 + 256), table)
    assert batching.default_trials(table, "vmap") == 16
    huge = sites.SiteTable((sites.Site(path="s", kind="state", collection="taps", shape=(2**26,), dtype="float32"),))
    assert batching.default_trials(huge, "vmap") == 2


def test_the_search_for_the_worst_case_refuses_states(nano, table):
    with pytest.raises(ValueError, match="weights and activations only, stages_0/block_0/ssm/state holds states"):
        faults.worst_case(*nano, table, flips=1)


def test_faults_of_one_inference_hit_the_state_of_their_own_image(nano, table):
    apply, variables, images, labels = nano
    table = sites.SiteTable(table[2:])
    drawn = faults.random_faults(jax.random.key(5), table, trials=6, flips=1, field="exponent")
    numbers = np.array([0, 4, 2, 2, 1, 3])
    reference = faults.fault_free_logits(apply, variables, images)
    found = faults.make_one_shot_fn(apply, images, labels, table, reference)(variables, drawn, numbers)
    states = jax.jit(lambda v, x: sites.table_values(apply, v, x, table))(variables, images)
    for trial, image in enumerate(numbers):
        site, element = int(drawn.site[trial, 0]), int(drawn.element[trial, 0])
        own = np.asarray(states[table[site].path][image]).reshape(-1)[element]
        np.testing.assert_allclose(found.before[trial, 0], own, rtol=1e-4, atol=1e-9)
    assert (np.asarray(found.before) != np.asarray(found.after)).all()
