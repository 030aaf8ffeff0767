"""Campaigns: estimates against every fault there is, stores, shards, stopping, replay, one shot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import threats
from threats import campaigns, faults
from threats.campaigns import trials

KEY = jax.random.key(3)
_FAST = {"trials_at_once": 64, "strategy": "vmap"}


class _Memory:
    """A store that keeps chunks in memory and counts what is asked of it."""

    def __init__(self):
        self.kept, self.saved = {}, []

    def load(self, start, stop):
        return self.kept.get((start, stop))

    def save(self, some):
        key = int(some.number[0]), int(some.number[-1]) + 1
        self.kept[key] = some
        self.saved.append(key)


def _run(small, store=None, shard=(1, 1), options=None, watch=lambda progress: None, **choices):
    spec = campaigns.CampaignSpec(**{"trials": 100, **choices})
    return threats.run_campaign(*small, spec, key=KEY, store=store, shard=shard, watch=watch, **(options or {}))


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def everything(small):
    """Every bit of the weights of the small model, once."""
    return _run(small, drawing="exhaustive", trials=None, options=_FAST)


def test_exhaustive_is_the_whole_population(small, everything):
    assert everything.trials.count == everything.drawing.population == 20 * 32
    found = everything.overall("sdc")
    assert found.low == found.value == found.high
    each = everything.trials.result.sdc
    assert found.value == pytest.approx(each.mean())
    by_field = everything.by("field", "sdc")
    assert by_field["exponent"].value > by_field["mantissa"].value
    assert everything.by(lambda site: site.layer, "sdc") == everything.by("layer", "sdc")
    cells = everything.by("cell", "sdc")
    assert sorted(cells) == sorted(f"{layer}:{field}" for layer in everything.by("layer", "sdc") for field in by_field)
    assert [int(bit) for bit in everything.by("bit", "accuracy")] == list(range(31, -1, -1))


@pytest.mark.parametrize("metric", ["accuracy", "sdc", "critical_10", "due_trial", "sdc_trial"])
@pytest.mark.parametrize(
    "choices",
    [
        {"trials": 1500},
        {"trials": 1500, "drawing": "stratified", "pilot": 20},
        {"trials": 1500, "drawing": "stratified", "allocation": "proportional"},
    ],
    ids=["bits", "neyman", "proportional"],
)
def test_estimates_hold_the_exhaustive_value(small, everything, choices, metric):
    found = _run(small, metric=metric, options=_FAST, **choices)
    truth = everything.overall(metric).value
    interval = found.overall(metric)
    # 15 intervals at 95 % need not all hold: those that do not must miss by little.
    slack = interval.high - interval.low
    assert interval.low - slack / 2 <= truth <= interval.high + slack / 2
    assert 0 < interval.high - interval.low < 0.15
    exact = everything.by("layer", metric)
    for layer, one in found.by("layer", metric).items():
        assert one.low - 0.1 <= exact[layer].value <= one.high + 0.1


def test_a_stopped_campaign_goes_on_where_it_was(small):
    whole = _run(small)
    store, calls = _Memory(), []

    def until_third(progress):
        calls.append(progress)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(small, store=store, watch=until_third)
    assert store.saved == [(0, 32), (32, 64)]
    again, seen = _run(small, store=store, watch=(seen := []).append), seen
    assert store.saved == [(0, 32), (32, 64), (64, 96), (96, 100)]
    assert [progress.fresh for progress in seen] == [0, 0, 32, 4]
    assert [progress.done for progress in seen] == [32, 64, 96, 100]
    _assert_same(again.trials, whole.trials)


@pytest.mark.parametrize("choices", [{}, {"drawing": "stratified", "pilot": 3, "trials": 150}], ids=["bits", "strata"])
def test_shards_are_the_whole(small, choices):
    whole = _run(small, **choices)
    store, first = _Memory(), _Memory()
    _run(small, store=store, shard=(1, 3), **choices)
    _run(small, store=first, shard=(2, 3), **choices)
    store.kept.update(first.kept)
    merged = _run(small, store=store, shard=(3, 3), **choices)
    _assert_same(merged.trials, whole.trials)
    assert merged.overall("accuracy") == whole.overall("accuracy")


def test_trials_do_not_depend_on_how_they_are_grouped(small):
    one = _run(small, kinds=("weights", "activations"), flips=2)
    for at_once in (3, 16):
        options = {"trials_at_once": at_once, "strategy": "vmap", "images_at_once": 5}
        many = _run(small, kinds=("weights", "activations"), flips=2, options=options)
        _assert_same(many.trials.faults, one.trials.faults)
        for name in ("accuracy", "sdc", "nonfinite", "auc"):
            a, b = getattr(many.trials.result, name), getattr(one.trials.result, name)
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)


def test_it_stops_when_the_interval_is_narrow_enough(small):
    found = _run(small, trials=None, half_width=0.1, metric="sdc")
    interval = found.overall("sdc")
    assert found.stopped
    assert (interval.high - interval.low) / 2 <= 0.1
    assert found.trials.count < found.drawing.spec.planned(found.drawing.population)
    assert interval.low <= _run(small, drawing="exhaustive", trials=None).overall("sdc").value <= interval.high


def test_a_stratified_campaign_plans_its_trials_from_the_pilot(small):
    found = _run(small, trials=None, half_width=0.05, metric="sdc", drawing="stratified", pilot=4)
    interval = found.overall("sdc")
    assert found.pilot == 4 * len(found.drawing.strata)
    assert interval.count == found.trials.count - found.pilot
    assert (interval.high - interval.low) / 2 < 0.08


@pytest.mark.parametrize("options", [{}, {"trials_at_once": 8, "strategy": "vmap"}], ids=["map", "vmap"])
@pytest.mark.parametrize(
    "choices",
    [{}, {"bit_error_rate": 0.01}, {"one_shot": True}, {"drawing": "stratified", "pilot": 3, "trials": 90}],
    ids=["bits", "rate", "one_shot", "strata"],
)
def test_a_replayed_trial_is_the_same_bit_for_bit(small, choices, options):
    spec = campaigns.CampaignSpec(**{"trials": 60, **choices})
    campaign = campaigns.prepare(*small, spec, key=KEY, **options)
    found = campaigns.conduct(campaign)
    for number in (0, 33, found.trials.count - 1):
        again = campaigns.replay(campaign, found.trials, number)
        as_bits = lambda x: x.view(np.uint32) if x.dtype == np.float32 else x  # noqa: E731
        _assert_same(jax.tree.map(as_bits, again), jax.tree.map(as_bits, trials.take(found.trials, [number])))
    with pytest.raises(ValueError, match="trial 999 is not among"):
        campaigns.replay(campaign, found.trials, 999)


def test_one_shot_hits_one_image_alone(small):
    found = _run(small, one_shot=True, kinds=("weights", "activations"), trials=200, flips=2)
    table, rows = found.drawing.table, found.trials
    assert set(np.unique(rows.result.accuracy)) <= {0.0, 1.0}
    for number in range(0, 200, 23):
        fault = jax.tree.map(lambda x, n=number: jnp.asarray(x[n]), rows.faults)
        image = slice(rows.image[number], rows.image[number] + 1)
        faulty = faults.inject(small.variables, table, fault)
        logits, clean = (small.apply(v, small.images[image]) for v in (faulty, small.variables))
        assert rows.result.accuracy[number] == float(threats.outcomes.correct(logits, small.labels[image], "binary")[0])
        assert rows.result.sdc[number] == float(threats.outcomes.changed(logits, clean, "binary")[0])


def test_groups_that_divide_strata_count_by_their_own_bits(small, everything):
    """The layer `second` holds a kernel and a bias: as a part of the stratum each has its own share of the bits."""
    found = _run(small, trials=3000, drawing="stratified", allocation="proportional", options=_FAST)
    leaf = lambda site: site.path.rsplit("/", 1)[1]  # noqa: E731
    exact, ours = everything.by(leaf, "sdc"), found.by(leaf, "sdc")
    assert list(exact) == list(ours)
    for name, interval in ours.items():
        assert interval.low - 0.02 <= exact[name].value <= interval.high + 0.02


def test_exhaustive_groups_have_no_sampling_error(everything):
    for interval in everything.by("field", "sdc").values():
        assert interval.low == interval.value == interval.high


def test_trials_without_a_hit_belong_to_no_group(small):
    found = _run(small, bit_error_rate=0.0005)
    assert (found.trials.faults.site < 0).any()
    with pytest.raises(ValueError, match="one hit each"):
        found.by("layer", "accuracy")


def test_a_pilot_needs_its_trials(small):
    with pytest.raises(ValueError, match=r"trials must be at least 60, got 50: 6 strata .* after a pilot of 8"):
        _run(small, drawing="stratified", trials=50)


def test_parts_of_another_pilot_are_refused(small):
    store = _Memory()
    whole = _run(small, drawing="stratified", pilot=3, trials=90, store=store)
    key = max(store.kept)
    turned = store.kept[key].stratum[::-1].copy()
    store.kept[key] = store.kept[key]._replace(stratum=(turned + 1) % len(whole.drawing.strata))
    with pytest.raises(ValueError, match="of other strata"):
        _run(small, drawing="stratified", pilot=3, trials=90, store=store)


def test_an_empty_store_is_a_store(small):
    class Empty(_Memory):
        def __bool__(self):
            return bool(self.kept)

    store = Empty()
    _run(small, store=store)
    assert len(store.saved) == 4


@pytest.mark.parametrize("one_shot", [False, True])
def test_options_that_do_not_exist_are_refused(small, one_shot):
    with pytest.raises(TypeError, match="trials_at_onec"):
        _run(small, one_shot=one_shot, options={"trials_at_onec": 4})


def test_bad_campaigns(small):
    with pytest.raises(ValueError, match="statistics: collections must be among"):
        _run(small, kinds=("weights", "statistics"))
    with pytest.raises(ValueError, match="shard must be"):
        _run(small, shard=(4, 3))
    with pytest.raises(ValueError, match="use fewer shards"):
        _run(small, shard=(9, 9))
    with pytest.raises(ValueError, match="cannot be split"):
        _run(small, shard=(1, 2), trials=None, half_width=0.2)
    with pytest.raises(ValueError, match="no site matches"):
        _run(small, include=("nowhere/*",))
    with pytest.raises(ValueError, match="one hit"):
        _run(small, flips=2).by("layer", "accuracy")
    with pytest.raises(ValueError, match="no estimate by bit"):
        _run(small, drawing="stratified", pilot=2).by("bit", "accuracy")
    with pytest.raises(ValueError, match="group must be one of"):
        _run(small).by("block", "accuracy")
