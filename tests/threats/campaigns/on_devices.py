"""Campaigns over a mesh of eight devices: `test_devices.py` runs this file in a process that simulates them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mamba_jax
import threats
from threats import campaigns, faults
from threats.campaigns import trials
from threats.faults import staged

KEY = jax.random.key(3)
PLATFORMS = ("tpu", "cuda")


class _Memory:
    """A store that keeps chunks in memory."""

    def __init__(self):
        self.kept = {}

    def load(self, start, stop):
        return self.kept.get((start, stop))

    def save(self, some):
        self.kept[int(some.number[0]), int(some.number[-1]) + 1] = some


def _run(small, options=None, watch=lambda progress: None, store=None, **choices):
    spec = campaigns.CampaignSpec(**{"trials": 100, "kinds": ("weights", "activations"), **choices})
    options = {"images_at_once": 5, **(options or {})}
    return threats.run_campaign(*small, spec, key=KEY, store=store, watch=watch, **options)


def test_there_are_eight():
    assert jax.local_device_count() == 8


def _assert_same_rows(a: trials.Trials, b: trials.Trials):
    """Bits that were hit, values there, and figures that count images are equal, the loss to rounding."""
    for name in ("number", "stratum", "image"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, a.faults, b.faults)
    _assert_same_result(a.result, b.result)


def _assert_same_result(a: faults.TrialResult, b: faults.TrialResult):
    for name in ("accuracy", "sdc", "nonfinite", "auc", "before", "after"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)  # NaN is NaN
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5, err_msg="loss")


@pytest.mark.parametrize(
    "options",
    [{"strategy": "map"}, {"strategy": "vmap", "trials_at_once": 3}, {"trials_at_once": 3, "reuse": False}],
    ids=["map", "vmap", "whole"],
)
def test_rows_do_not_depend_on_the_devices(small, options):
    alone, shared = (_run(small, {**options, "mesh": mesh}, flips=2) for mesh in (None, faults.trial_mesh()))
    assert 0 < alone.trials.result.sdc.mean() < 1
    assert shared.trials.count == 100, "which eight devices cannot share evenly"
    _assert_same_rows(shared.trials, alone.trials)


@pytest.mark.parametrize(
    "choices",
    [
        {"one_shot": True, "flips": 2, "trials": 300},
        {"drawing": "stratified", "pilot": 3, "trials": 150},
        {"half_width": 0.12, "metric": "sdc", "trials": None, "kinds": ("weights",)},
    ],
    ids=["one_shot", "strata", "half_width"],
)
def test_campaigns_of_every_kind_are_the_same(small, choices):
    alone, shared = (_run(small, {"mesh": mesh}, **choices) for mesh in (None, faults.trial_mesh()))
    _assert_same_rows(shared.trials, alone.trials)
    assert shared.stopped == alone.stopped == ("half_width" in choices)
    metric = shared.drawing.spec.metric
    assert shared.overall(metric) == alone.overall(metric)


def test_a_campaign_goes_on_with_other_devices(small):
    """Also from the middle of what ran in one call."""
    store, mesh = _Memory(), faults.trial_mesh()

    def stop(progress):
        if progress.done > 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(small, {"mesh": mesh}, stop, store)
    assert list(store.kept) == [(0, 32), (32, 64)]
    again = _run(small, {"mesh": mesh}, store=store)
    assert list(store.kept) == [(0, 32), (32, 64), (64, 96), (96, 100)], "chunks are those of one device"
    _assert_same_rows(again.trials, _run(small).trials)


def test_a_replayed_trial_is_the_same_bit_for_bit(small):
    spec = campaigns.CampaignSpec(trials=300, kinds=("weights", "activations"))
    campaign = campaigns.prepare(*small, spec, key=KEY, mesh=faults.trial_mesh())
    found = campaigns.conduct(campaign)
    for number in (0, 40, 299):
        again = campaigns.replay(campaign, found.trials, number)
        as_bits = lambda x: x.view(np.uint32) if x.dtype == np.float32 else x  # noqa: E731
        same = jax.tree.map(as_bits, trials.take(found.trials, [number]))
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(as_bits, again), same)


@pytest.fixture(scope="module")
def network():
    """A MedMamba with one block, its table of weights and activations, and faults [9, 2]."""
    model = mamba_jax.create_model("medmamba", num_classes=3, depths=(1, 0, 0, 0), dims=(4, 8, 16, 32), d_state=2)
    variables = model.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (3, 28, 28, 3))
    table = faults.weight_sites(variables) + faults.activation_sites(model.apply, variables, images)
    drawn = faults.random_faults(jax.random.key(2), table, trials=9, flips=2, over="layers", field="exponent")
    return model.apply, variables, (images, jnp.arange(3, dtype=jnp.int32), table), drawn


def test_a_medmamba_gives_the_same_rows(network):
    apply, variables, data, drawn = network
    make = [faults.make_trial_fn(apply, *data, images_at_once=2, mesh=mesh) for mesh in (None, faults.trial_mesh())]
    alone, shared = (fn(variables, drawn) for fn in make)
    _assert_same_result(shared, alone)


def test_sharded_trials_lower_for_tpu_and_cuda(small, network):
    """The whole model, and a part of it as the trials of a campaign run it; no device speaks with another."""
    apply, variables, data, drawn = network
    mesh = faults.trial_mesh()
    whole = jax.jit(
        lambda variables, faulty: faults.trial_outcomes(
            apply, variables, *data, faulty, strategy="vmap", trials_at_once=2, mesh=mesh
        )
    )
    stages = staged.Stages(
        small.apply, *small[2:], None, table := faults.weight_sites(small.variables), task="multi-class",
        images_at_once=5, trials_at_once=2, trials=None, mesh=mesh,
    )  # fmt: skip
    assert stages.prepare(small.variables, 2 * mesh.size)
    of_part = faults.random_faults(KEY, table, trials=2 * mesh.size, flips=1)
    for step, arguments in (
        (whole, (variables, drawn)),
        (stages.step(0), stages.arguments(0, jax.tree.map(np.asarray, of_part))),
    ):
        exported = jax.export.export(step, platforms=PLATFORMS)(*arguments)
        assert exported.platforms == PLATFORMS
        assert exported.nr_devices == mesh.size
        program = exported.mlir_module()
        assert "manual_computation" in program
    compiled = step.lower(*arguments).compile().as_text()
    assert "num_partitions=8" in compiled
    for exchange in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert exchange not in compiled


def test_meshes_that_do_not_fit_are_refused(small):
    devices = np.array(jax.local_devices())
    with pytest.raises(ValueError, match=r"mesh must have the one axis 'trials', got \('data',\): use faults.trial_me"):
        _run(small, {"mesh": jax.sharding.Mesh(devices, ("data",))})
    explicit = jax.make_mesh((len(devices),), ("trials",), axis_types=(jax.sharding.AxisType.Explicit,))
    assert _run(small, {"mesh": explicit}, trials=8).trials.count == 8
