"""Trials against a NumPy loop, under every strategy, and what counts as silent and as detected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import outcomes
from threats.faults import campaign, injection, sites, slots


def _draw(table, trials, flips, seed=0) -> slots.Faults:
    """Faults at random among the upper bits, with some unused slots; the first trial turns a variance negative: NaN."""
    generator = np.random.default_rng(seed)
    site = generator.integers(-1, len(table), (trials, flips))
    element = generator.integers(0, [[table[s].size for s in row] for row in site])
    bit = generator.integers(table[0].width - 10, table[0].width, (trials, flips))
    site[0, 0], element[0, 0], bit[0, 0] = table.paths.index("norm/var"), 1, table[0].width - 1
    return slots.Faults(*(jnp.asarray(x, jnp.int32) for x in (site, element, bit)))


def _mixed(example) -> sites.SiteTable:
    weights = sites.weight_sites(example.variables, collections=("params", "batch_stats"))
    return weights + sites.activation_sites(example.apply, example.variables, example.images)


def _numpy_loop(example, table, faults):
    """Accuracy, SDC and non-finite rate of each trial, one model evaluation after another."""
    reference = np.asarray(example.apply(example.variables, example.images))
    evaluate = jax.jit(lambda fault: example.apply(injection.inject(example.variables, table, fault), example.images))
    rows = []
    for trial in range(faults.site.shape[0]):
        logits = np.asarray(evaluate(jax.tree.map(lambda x, trial=trial: x[trial], faults)))
        finite = np.isfinite(logits).all(axis=1)
        decided = logits.argmax(axis=1)
        right = finite & (decided == np.asarray(example.labels))
        rows.append((right.mean(), (finite & (decided != reference.argmax(axis=1))).mean(), (~finite).mean()))
    return np.asarray(rows).T


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tiny", {"strategy": "map", "images_at_once": 4}),
        ("tiny", {"strategy": "vmap", "trials_at_once": 24}),
        ("tiny_bfloat16", {"strategy": "vmap", "trials_at_once": 7, "images_at_once": 3}),
    ],
)
def test_every_strategy_agrees_with_a_numpy_loop(name, options, request):
    example = request.getfixturevalue(name)
    table = _mixed(example)
    faults = _draw(table, trials=24, flips=2)
    expected = _numpy_loop(example, table, faults)
    assert (expected.std(axis=1) > 0.05).all(), "the draw must contain masked, silent and detected faults"
    result = campaign.run_trials(example.apply, *example[1:], table, faults, **options)
    np.testing.assert_allclose(result.accuracy, expected[0], atol=1e-6)
    np.testing.assert_allclose(result.sdc, expected[1], atol=1e-6)
    np.testing.assert_allclose(result.nonfinite, expected[2], atol=1e-6)


def test_values_before_and_after(tiny):
    table = _mixed(tiny)
    tapped = sites.tap_values(tiny.apply, tiny.variables, tiny.images[:1])
    bias = table.paths.index("head/bias")
    stem = table.paths.index("stem_out")
    site, element, bit = [[bias, bias, stem, -1]], [[1, 1, 7, 0]], [[31, 30, 31, 0]]
    faults = slots.Faults(*(jnp.asarray(x, jnp.int32) for x in (site, element, bit)))
    result = campaign.run_trials(*tiny, table, faults)
    weight = np.asarray(tiny.variables["params"]["head"]["bias"][1])
    both = (weight.view(np.uint32) ^ np.uint32(3 << 30)).view(np.float32)
    value = tapped["stem_out"].reshape(-1)[7]
    np.testing.assert_array_equal(result.before, [[weight, weight, value, np.nan]])
    np.testing.assert_array_equal(result.after, [[both, both, -value, np.nan]])


def test_unused_slots_are_the_fault_free_run(tiny):
    table = _mixed(tiny)
    result = campaign.run_trials(*tiny, table, slots.no_faults(3, 2))
    logits = tiny.apply(tiny.variables, tiny.images)
    np.testing.assert_allclose(result.accuracy, jnp.mean(outcomes.accuracy(logits, tiny.labels, "multi-class")))
    np.testing.assert_allclose(result.loss, jnp.mean(outcomes.loss(logits, tiny.labels, "multi-class")), rtol=1e-6)
    assert not np.any(result.sdc)
    assert not np.any(result.nonfinite)


def _linear(variables, images):
    return images.reshape(images.shape[0], -1) @ variables["params"]["w"]


@pytest.mark.parametrize("task", ["multi-class", "multi-label"])
def test_nan_logits_are_nonfinite_and_never_a_class(task):
    images = jnp.ones((4, 2, 1, 1))
    variables = {"params": {"w": jnp.asarray([[1.5, 0.5], [0.25, 0.25]])}}
    labels = jnp.zeros((4,), jnp.int32) if task == "multi-class" else jnp.ones((4, 2), jnp.int32)
    table = sites.weight_sites(variables)
    # 1.5 with bit 30 flipped is a NaN, in the logit that argmax would pick; 0.25 with its sign flipped changes nothing.
    faults = slots.Faults(*(jnp.asarray(x, jnp.int32) for x in ([[0], [0]], [[0], [2]], [[30], [31]])))
    result = campaign.run_trials(_linear, variables, images, labels, table, faults, task=task)
    np.testing.assert_array_equal(result.accuracy, [0.0, 1.0])
    np.testing.assert_array_equal(result.nonfinite, [1.0, 0.0])
    np.testing.assert_array_equal(result.sdc, [0.0, 0.0])
    np.testing.assert_array_equal(result.before, [[1.5], [0.25]])
    assert np.isnan(result.after[0, 0])
    assert np.isnan(result.loss[0])
    assert np.isfinite(result.loss[1])


def test_chunks_compile_once_and_are_the_whole(tiny):
    table = _mixed(tiny)
    faults = _draw(table, trials=10, flips=2)
    traces = []

    def apply(variables, images, **options):
        traces.append(images.shape)
        return tiny.apply(variables, images, **options)

    reference = campaign.fault_free_logits(tiny.apply, tiny.variables, tiny.images, images_at_once=4)
    np.testing.assert_allclose(reference, tiny.apply(tiny.variables, tiny.images), rtol=1e-5, atol=1e-5)
    trial_fn = campaign.make_trial_fn(
        apply, tiny.images, tiny.labels, table, reference=reference, trials_per_call=4, images_at_once=4
    )
    chunks = [trial_fn(tiny.variables, jax.tree.map(lambda x: x[:4], faults))]
    traced = len(traces)
    chunks += [trial_fn(tiny.variables, jax.tree.map(lambda x, i=i: x[i : i + 4], faults)) for i in (4, 8)]
    assert len(traces) == traced
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)
    whole = campaign.run_trials(*tiny, table, faults)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), joined, whole)


@pytest.mark.parametrize("name", ["tiny", "tiny_bfloat16"])
def test_the_vmapped_trials_lower_for_tpu_and_cuda(name, request):
    example = request.getfixturevalue(name)
    table = _mixed(example)
    trials = jax.jit(
        lambda variables, images, labels, faults: campaign.trial_outcomes(
            example.apply, variables, images, labels, table, faults, strategy="vmap", trials_at_once=2, images_at_once=4
        )
    )
    exported = jax.export.export(trials, platforms=("tpu", "cuda"))(*example[1:], slots.no_faults(5, 2))
    assert exported.platforms == ("tpu", "cuda")
    assert [aval.shape for aval in exported.out_avals] == [(5,)] * 5 + [(5, 2)] * 2


def test_bad_arguments(tiny):
    table = sites.weight_sites(tiny.variables, include="head/*")
    faults = slots.no_faults(2, 1)
    for options, message in (
        ({"task": "detection"}, "task must be one of"),
        ({"strategy": "loop"}, r"strategy must be one of \('auto', 'vmap', 'map'\), got 'loop'"),
        ({"trials_at_once": 0}, "trials_at_once must be at least 1"),
        ({"images_at_once": -1}, "images_at_once must be at least 1"),
        ({"reference": jnp.zeros((3, 3))}, "reference must have one row per image, got 3 for 10 images"),
    ):
        with pytest.raises(ValueError, match=message):
            campaign.run_trials(*tiny, table, faults, **options)
    with pytest.raises(ValueError, match="labels must have one row per image, got 4"):
        campaign.run_trials(*tiny[:3], tiny.labels[:4], table, faults)
    with pytest.raises(ValueError, match=r"faults\.site must be below the table's 2 sites, got 7"):
        campaign.run_trials(*tiny, table, faults._replace(site=faults.site + 8))
    with pytest.raises(ValueError, match="images must hold at least one image"):
        campaign.run_trials(*tiny[:2], tiny.images[:0], tiny.labels[:0], table, faults)
