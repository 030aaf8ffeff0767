"""Trials that evaluate only what their faults can change: the split is exact, and so are the results."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mamba_jax
from threats import faults
from threats.faults import program, reuse, sites


def _table(example) -> faults.SiteTable:
    weights = faults.weight_sites(example.variables, collections=("params", "batch_stats"))
    return weights + faults.activation_sites(example.apply, example.variables, example.images)


@pytest.fixture(scope="module")
def nano():
    options = {"depths": (1, 1, 1, 1), "dims": (4, 8, 16, 32), "d_state": 2, "patch_size": 2}
    model = mamba_jax.create_model("medmamba", num_classes=3, **options)
    variables = model.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (5, 28, 28, 3))
    return model.apply, variables, images, jnp.arange(5, dtype=jnp.int32) % 3


def test_results_are_those_of_the_whole_model(nano):
    apply, variables, *data = nano
    options = {"strategy": "vmap", "trials_at_once": 4, "images_at_once": 3}
    weights = faults.weight_sites(variables, collections=("params", "batch_stats"))
    table = weights + faults.activation_sites(apply, variables, data[0])
    one = faults.random_faults(jax.random.key(2), table, trials=40, flips=1, over="layers", field="exponent")
    many = faults.random_faults(jax.random.key(3), table, trials=8, flips=3, over="layers")
    for drawn in (one, many):
        whole = faults.make_trial_fn(apply, *data, table, reuse=False, **options)(variables, drawn)
        parts = faults.make_trial_fn(apply, *data, table, expected_trials=20_000, **options)(variables, drawn)
        for name in ("accuracy", "sdc", "nonfinite"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6, err_msg=name)
        for name in ("before", "after"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)
        # An activation is read at image 0 under another compilation: as all else, equal to rounding.
        finite = np.isfinite(whole.loss) & (np.abs(whole.loss) < 1e6)
        np.testing.assert_allclose(parts.loss[finite], np.asarray(whole.loss)[finite], rtol=1e-4)


def test_what_a_fault_does_not_reach_keeps_its_value(tiny):
    table = _table(tiny)
    found = program.trace(tiny.apply, tiny.variables, tiny.images, table)
    leaves = dict(zip(found.variables, jax.tree.leaves(tiny.variables), strict=True))
    everything = range(len(found.equations))
    clean = program.run(found, everything, {**leaves, found.images: tiny.images}, {})
    for index, site in enumerate(table):
        mask = program.reached(found, [index])
        assert 0 < mask.sum() <= len(mask)
        changed, flips = dict(leaves), {}
        if site.kind == "weight":
            changed[found.leaves[index]] = changed[found.leaves[index]] + 0.5
        else:
            flips[index] = lambda x: x + 0.5
        faulty = program.run(found, everything, {**changed, found.images: tiny.images}, flips)
        for number, equation in enumerate(found.equations):
            if not mask[number]:
                for var in equation.outvars:
                    np.testing.assert_array_equal(clean[var], faulty[var])
        assert not np.array_equal(clean[found.logits], faulty[found.logits])
        kept = {var: clean.get(var, leaves.get(var)) for var in program.frontier(found, mask, [index])}
        own = {var: changed[var] for i, var in found.leaves.items() if i == index}
        again = program.run(found, np.flatnonzero(mask), {**kept, **own}, flips)
        np.testing.assert_array_equal(again[found.logits], faulty[found.logits])


def test_late_faults_cost_little_and_programs_are_few(nano):
    apply, variables, images, _ = nano
    table = faults.weight_sites(variables)
    found = program.trace(apply, variables, images, table)
    chosen = reuse.plan(found, table, batches=1)
    assert len(chosen.parts) <= 24 < len(table)
    assert (np.diff(chosen.cost) >= 0).all()
    cost = {site.path: chosen.cost[part] for site, part in zip(table, chosen.part_of, strict=True)}
    assert cost["head/kernel"] < 0.05
    assert cost["patch_embed/proj/kernel"] > 0.9
    assert cost["stages_3/block_0/ssm/out_proj/kernel"] < 0.2


def test_less_is_kept_where_less_may_be(nano):
    apply, variables, images, _ = nano
    table = faults.weight_sites(variables)
    found = program.trace(apply, variables, images, table)
    ample = reuse.plan(found, table, batches=1)
    assert reuse.plan(found, table, batches=1, at_most=1) is None
    scarce = reuse.plan(found, table, batches=1, at_most=reuse.kept_bytes(found, ample.parts, batches=1) // 2)
    assert reuse.kept_bytes(found, scarce.parts, batches=1) <= reuse.kept_bytes(found, ample.parts, batches=1) // 2
    assert 1 <= len(scarce.parts) < len(ample.parts)
    assert sorted(scarce.parts[-1].members) == list(range(len(table)))


def test_cuts_are_the_best_there_are():
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights, costs = rng.random(7), np.sort(rng.random(7))

        def total(ends, weights=weights, costs=costs):
            return sum(weights[a:b].sum() * costs[b - 1] for a, b in itertools.pairwise([0, *ends]))

        possible = [(*inner, 7) for size in range(3) for inner in itertools.combinations(range(1, 7), size)]
        assert total(reuse.cuts(weights, costs, 3)) == pytest.approx(min(total(ends) for ends in possible))
        prices = rng.random(7) / 5

        def paid(ends, total=total, prices=prices):
            return total(ends) + sum(prices[end - 1] for end in ends)

        assert paid(reuse.cuts(weights, costs, 3, prices)) == pytest.approx(min(paid(ends) for ends in possible))


def test_few_trials_get_few_programs(tiny):
    table = _table(tiny)
    found = program.trace(tiny.apply, tiny.variables, tiny.images, table)
    few, many = (len(reuse.plan(found, table, batches=1, trials=trials).parts) for trials in (1, 10**9))
    assert few == 1
    assert many == len(reuse.plan(found, table, batches=1).parts) > 3


def test_other_variables_are_not_answered_from_kept_values(tiny):
    table = _table(tiny)
    drawn = faults.random_faults(jax.random.key(0), table, trials=6, flips=1, field="exponent")
    fn = faults.make_trial_fn(*tiny[:1], *tiny[2:], table)
    whole = faults.make_trial_fn(*tiny[:1], *tiny[2:], table, reuse=False)
    other = jax.tree.map(lambda leaf: leaf * 1.5 - 0.2, tiny.variables)
    in_place = jax.tree.map(np.array, tiny.variables)
    for variables in (tiny.variables, other, tiny.variables, in_place):
        _assert_same(fn(variables, drawn), whole(variables, drawn))
    in_place["params"]["head"]["bias"] += 3.0
    _assert_same(fn(in_place, drawn), whole(in_place, drawn))


def test_unused_slots_repeated_bits_and_no_trial(tiny):
    table = _table(tiny)
    site = jnp.asarray([[-1, -1, -1], [-2, -1, 0], [0, 0, 1], [0, 0, 0], [3, 3, 3]], jnp.int32)
    bit = jnp.asarray([[30, 30, 30], [31, 31, 30], [30, 30, 31], [30, 31, 29], [5, 30, 5]], jnp.int32)
    drawn = faults.Faults(site, jnp.zeros_like(site), bit)
    for some in (drawn, jax.tree.map(lambda slot: slot[:0], drawn)):
        for at_once in (1, 2):
            make = {"strategy": "vmap", "trials_at_once": at_once, "images_at_once": 4}
            ours = faults.make_trial_fn(*tiny[:1], *tiny[2:], table, **make)(tiny.variables, some)
            whole = faults.make_trial_fn(*tiny[:1], *tiny[2:], table, reuse=False)(tiny.variables, some)
            _assert_same(ours, whole)


def test_one_function_takes_trials_of_any_width_and_action(tiny):
    table = _table(tiny)
    fn = faults.make_trial_fn(*tiny[:1], *tiny[2:], table)
    whole = faults.make_trial_fn(*tiny[:1], *tiny[2:], table, reuse=False)
    for flips, action in ((1, "flip"), (3, "flip"), (3, "stuck_at_1"), (1, "flip")):
        drawn = faults.random_faults(jax.random.key(1), table, trials=5, flips=flips, over="layers")
        drawn = faults.with_action(drawn, action)
        _assert_same(fn(tiny.variables, drawn), whole(tiny.variables, drawn))


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("action", ["stuck_at_0", "stuck_at_1"])
def test_stuck_bits_in_weights_and_activations(tiny, action, at_once):
    table = _table(tiny)
    drawn = faults.random_faults(jax.random.key(0), table, trials=20, flips=3, over="layers")
    drawn = faults.with_action(drawn, action)
    make = {"strategy": "vmap", "trials_at_once": at_once, "images_at_once": 4}
    ours = faults.make_trial_fn(*tiny[:1], *tiny[2:], table, **make)(tiny.variables, drawn)
    whole = faults.make_trial_fn(*tiny[:1], *tiny[2:], table, **make, reuse=False)(tiny.variables, drawn)
    _assert_same(ours, whole)
    before, after = (np.asarray(x).view(np.uint32) for x in (ours.before, ours.after))
    masks = np.left_shift(np.uint32(1), np.asarray(drawn.bit).astype(np.uint32))
    np.testing.assert_array_equal(after & masks, 0 if action == "stuck_at_0" else masks)
    assert 0 < (before == after).mean() < 1


def test_variables_that_do_not_fit_the_table_are_refused(tiny):
    table = faults.weight_sites(tiny.variables)
    drawn = faults.random_faults(jax.random.key(0), table, trials=2, flips=1)
    other = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny.variables)
    with pytest.raises(ValueError, match="must be float32"):
        faults.make_trial_fn(*tiny[:1], *tiny[2:], table)(other, drawn)


def test_an_error_of_the_model_reaches_the_caller(tiny):
    def apply(variables, images):
        raise RuntimeError("the model's own")

    table = faults.weight_sites(tiny.variables)
    drawn = faults.random_faults(jax.random.key(0), table, trials=2, flips=1)
    with pytest.raises(RuntimeError, match="the model's own"):
        faults.make_trial_fn(apply, *tiny[2:], table)(tiny.variables, drawn)


def test_images_may_be_traced(tiny):
    table = faults.weight_sites(tiny.variables)
    drawn = faults.random_faults(jax.random.key(0), table, trials=2, flips=1)
    inside = jax.jit(lambda x: faults.run_trials(tiny.apply, tiny.variables, x, tiny.labels, table, drawn))
    _assert_same(inside(tiny.images), faults.run_trials(*tiny, table, drawn))


def _assert_same(ours, whole):
    for name in ours._fields:
        np.testing.assert_allclose(getattr(ours, name), getattr(whole, name), rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_tap_inside_a_loop_takes_the_whole_model(tiny):
    site = sites.Site(path="inner", kind="activation", collection="taps", shape=(3,), dtype="float32")

    def apply(variables, images, mutable=()):
        x = jnp.mean(images, axis=(1, 2)) @ variables["params"]["kernel"]
        entry = variables.get("taps", {}).get("inner", lambda x: x)
        y, _ = jax.lax.scan(lambda x, _: (entry(x), None), x, length=1)
        return (y, {"tap_values": {"inner": (x,)}}) if mutable else y

    variables = {"params": {"kernel": jnp.arange(3.0)[None] + 1.0}}
    table = faults.weight_sites(variables) + faults.SiteTable((site,))
    assert program.trace(apply, variables, tiny.images, table) is None
    drawn = faults.random_faults(jax.random.key(0), table, trials=6, flips=1, field="sign", over="layers")
    result = faults.run_trials(apply, variables, tiny.images, tiny.labels, table, drawn)
    assert (np.asarray(result.before) == -np.asarray(result.after)).all()


def test_the_model_is_traced_with_its_calls_inlined():
    """jit, checkpoint and both kinds of custom derivatives are looked into; a scan is one equation."""

    @jax.custom_jvp
    def double(x):
        return 2 * x

    double.defjvps(lambda dx, y, x: 2 * dx)

    @jax.custom_vjp
    def triple(x):
        return 3 * x

    triple.defvjp(lambda x: (3 * x, None), lambda _, g: (3 * g,))

    def apply(variables, x):
        a, b = variables["params"]["a"], variables["params"]["b"]
        x = jax.checkpoint(jax.jit(double))(x * a)
        x, _ = jax.lax.scan(lambda x, _: (triple(x) + 1, None), x, length=2)
        return triple(x) * b

    variables = {"params": {"a": jnp.float32(1.5), "b": jnp.float32(2.5)}}
    table = faults.weight_sites(variables)
    found = program.trace(apply, variables, jnp.ones((2, 3)), table)
    names = [equation.primitive.name for equation in found.equations]
    assert names.count("scan") == 1
    assert set(names) <= {"mul", "scan", "convert_element_type", "broadcast_in_dim"}
    assert program.reached(found, [1]).sum() == 1
    values = {found.images: jnp.ones((2, 3)), found.variables[0]: 1.5, found.variables[1]: 2.5}
    logits = program.run(found, range(len(names)), values, {})[found.logits]
    np.testing.assert_allclose(logits, apply(variables, jnp.ones((2, 3))))
