"""mCE and balanced error against their definitions, and intervals that hold what they promise."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from threats import corruptions

NAMES = ("fog", "snow")


@pytest.fixture(scope="module")
def wrong():
    """Two corruptions, 400 images, five severities, wrong ever more often."""
    rng = np.random.default_rng(0)
    return {name: rng.random((400, 5)) < np.linspace(0.1, 0.5, 5) + 0.1 * i for i, name in enumerate(NAMES)}


BASELINE = {"fog": [0.3, 0.4, 0.5, 0.6, 0.7], "snow": [0.5, 0.6, 0.7, 0.8, 0.9], "frost": [0.9] * 5}


def test_mce_is_the_mean_of_ratios_of_sums(wrong):
    found = corruptions.mean_corruption_error(wrong, BASELINE, replicates=20)
    expected = {name: wrong[name].mean(axis=0).sum() / np.sum(BASELINE[name]) for name in NAMES}
    assert {name: interval.value for name, interval in found.each.items()} == pytest.approx(expected)
    assert found.mean.value == pytest.approx(np.mean(list(expected.values())))
    assert found.mean.count == 400


def test_relative_mce_subtracts_the_clean_errors(wrong):
    clean = np.arange(400) < 20
    found = corruptions.mean_corruption_error(wrong, BASELINE, clean=(clean, 0.2), replicates=20)
    ratios = [(wrong[name].mean(axis=0) - 0.05).sum() / (np.array(BASELINE[name]) - 0.2).sum() for name in NAMES]
    assert found.mean.value == pytest.approx(np.mean(ratios))


def test_a_baseline_may_be_given_image_by_image_or_as_its_mean(wrong):
    same = corruptions.mean_corruption_error(wrong, wrong, replicates=50)
    assert (same.mean.value, same.mean.low, same.mean.high) == pytest.approx((1, 1, 1)), "resampled in pairs"
    means = {name: np.mean(errors) for name, errors in BASELINE.items()}
    by_mean = corruptions.mean_corruption_error(wrong, means, replicates=20)
    assert by_mean.mean == pytest.approx(corruptions.mean_corruption_error(wrong, BASELINE, replicates=20).mean)


def test_balanced_error_is_that_of_scikit_learn(wrong):
    labels = np.random.default_rng(1).choice(3, 400, p=[0.7, 0.2, 0.1])
    found = corruptions.balanced_error(labels, wrong, BASELINE, replicates=20)
    for name in NAMES:
        errors = [
            1 - sklearn_metrics.balanced_accuracy_score(labels, np.where(column, (labels + 1) % 3, labels))
            for column in wrong[name].T
        ]
        assert found.each[name].value == pytest.approx(np.mean(errors) / np.mean(BASELINE[name]))
    clean = np.arange(400) % 10 == 0
    relative = corruptions.balanced_error(labels, wrong, BASELINE, clean=(clean, 0.1), replicates=20)
    error = 1 - sklearn_metrics.balanced_accuracy_score(labels, np.where(clean, (labels + 1) % 3, labels))
    mine = [found.each[name].value * np.mean(BASELINE[name]) - error for name in NAMES]
    theirs = [np.mean(BASELINE[name]) - 0.1 for name in NAMES]
    assert relative.mean.value == pytest.approx(np.mean(np.divide(mine, theirs)))


def test_intervals_hold_the_truth_and_shrink_with_images():
    """The severities of one image are as alike as can be, so an interval over n x s values would be far too narrow."""
    rng = np.random.default_rng(2)
    held, widths = 0, []
    for trial in range(60):
        hard = rng.random(100) < 0.4
        shown = {"fog": np.repeat(hard[:, None], 5, axis=1)}
        found = corruptions.mean_corruption_error(shown, {"fog": 0.8}, seed=trial, replicates=200).mean
        held += found.low <= 0.5 <= found.high
        widths.append(found.high - found.low)
    assert held >= 51
    np.testing.assert_allclose(np.mean(widths), 2 * 1.96 * np.sqrt(0.24 / 100) / 0.8, rtol=0.15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda wrong: ({}, BASELINE), "wrong must name at least one"),
        (lambda wrong: (wrong, {"fog": 0.5}), "baseline must have every corruption of wrong, snow is missing"),
        (lambda wrong: ({"fog": np.zeros(5)}, BASELINE), r"wrong must be \[n, s\] .* got shape \(5,\) for fog"),
        (lambda wrong: (wrong, {**BASELINE, "fog": [0.1, 0.2]}), r"baseline must fit shape \(400, 5\), got \(2,\)"),
    ],
)
def test_refuses(wrong, make, message):
    with pytest.raises(ValueError, match=message):
        corruptions.mean_corruption_error(*make(wrong))
    with pytest.raises(ValueError, match="labels must be"):
        corruptions.balanced_error([0, 1], wrong, BASELINE)
