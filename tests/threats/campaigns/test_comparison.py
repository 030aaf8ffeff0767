"""Two models under one campaign: what pairs, what does not, and intervals that hold in simulated campaigns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import threats
from threats import campaigns, faults
from threats.campaigns import comparison, estimates, trials

KEY = jax.random.key(3)
_FAST = {"trials_at_once": 64, "strategy": "vmap"}


@pytest.fixture(scope="module")
def other(small):
    """A model of the same architecture with other weights."""
    return small._replace(variables=jax.tree.map(lambda x: 1.1 * x + 0.05, small.variables))


def _run(example, key=KEY, **choices):
    spec = campaigns.CampaignSpec(**{"trials": 150, **choices})
    return threats.run_campaign(*example, spec, key=key, **_FAST)


def _side(found):
    figures = {metric: found.overall(metric) for metric in ("accuracy", "sdc", "critical_5")}
    return comparison.Side(repr(found.drawing.table), found.accuracy, figures, found.trials)


def _compare(a, b, metric="sdc"):
    sides, spec = (_side(a), _side(b)), a.drawing.spec
    return comparison.pairing(*sides, spec), comparison.difference(*sides, metric, spec)


def test_the_same_faults_in_one_architecture_pair(small, other):
    a, b = _run(small), _run(other)
    for metric in ("accuracy", "critical_5"):
        rests_on, found = _compare(a, b, metric)
        assert rests_on == "paired"
        assert found == campaigns.difference(a, b, metric)
        assert found.count == 150
    fewer = _side(a)._replace(ran=trials.take(a.trials, slice(100)))
    assert comparison.difference(fewer, _side(b), "sdc", a.drawing.spec).count == 100, "the trials that both have"


def test_other_faults_and_other_sites_are_independent(small, other):
    params = {"first": {"kernel": jnp.ones((4, 5))}, "second": {"kernel": jnp.ones((5, 2)), "bias": jnp.zeros(2)}}
    a = _run(small)
    for b in (_run(other, key=jax.random.key(4)), _run(small._replace(variables={"params": params}))):
        rests_on, found = _compare(a, b)
        assert rests_on == "independent"
        assert found == threats.statistics.independent_difference(a.overall("sdc"), b.overall("sdc"))
        assert found.count == 300


def test_stratified_trials_are_independent(small, other):
    choices = {"drawing": "stratified", "pilot": 3}
    rests_on, found = _compare(_run(small, **choices), _run(other, **choices))
    assert rests_on == "independent"
    assert found.high > found.low


def test_of_every_fault_the_difference_is_exact(small, other):
    a, b = (_run(example, drawing="exhaustive", trials=None) for example in (small, other))
    rests_on, found = _compare(a, b)
    assert rests_on == "exhaustive"
    assert found.low == found.value == found.high == a.overall("sdc").value - b.overall("sdc").value
    _, estimate = _compare(_run(small), _run(other))
    assert estimate.low <= found.value <= estimate.high


def _trials(accuracy) -> trials.Trials:
    """Trials with these accuracies; nothing else of them matters."""
    count, rest = len(accuracy), np.zeros(len(accuracy))
    hit = faults.Faults(*np.zeros((4, count, 1)))
    result = faults.TrialResult(
        accuracy=accuracy, loss=rest, sdc=rest, nonfinite=rest, auc=rest, before=rest, after=rest
    )
    return trials.make(np.arange(count), rest, rest, hit, result)


def test_paired_differences_hold_and_are_narrower():
    """One trial in ten harms both, the second a little less: 300 campaigns of 200 trials."""
    rng = np.random.default_rng(0)
    harmed = rng.random((300, 200)) < 0.1
    loss = harmed * rng.random((300, 200))
    a, b = 0.9 * (1 - loss), 0.9 * (1 - loss * rng.uniform(0.5, 1.0, loss.shape))
    truth, covered, widths = -0.9 * 0.1 * 0.5 * 0.25, [], []
    for pair in zip(a, b, strict=True):
        sides = [_trials(each) for each in pair]
        found = estimates.paired_difference(*sides, "accuracy", accuracy=(0.9, 0.9), confidence=0.95)
        figures = [estimates.of(each, confidence=0.95) for each in pair]
        apart = threats.statistics.independent_difference(*figures)
        assert found.value == pytest.approx(apart.value, abs=1e-6)
        covered.append(found.low <= truth <= found.high)
        widths.append((found.high - found.low) / (apart.high - apart.low))
    assert np.mean(covered) >= 0.93
    assert np.mean(widths) < 0.8
