"""Fault trials to rows: every flip in its place, prefixes of the worst case, chunks that are not run twice."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import tqdm

from experiments.stages import trials, worst_case
from experiments.storage import records
from mamba_jax import data
from threats import faults, statistics
from threats.faults import sites

COMMON = {"dataset": "cells", "model": "tiny", "seed": 0, "images": 10, "accuracy_before": 0.8}
TABLE = sites.SiteTable(
    tuple(
        sites.Site(path=path, kind="weight", collection="params", shape=(size,), dtype="float32")
        for path, size in (("a/kernel", 8), ("b/kernel", 8))
    )
)


def _slots(*trials_of_flips) -> faults.Faults:
    """Trials of (site, element, bit); None is an unused slot."""
    columns = np.array([[flip or (-1, 0, 0) for flip in flips] for flips in trials_of_flips], np.int32)
    return faults.Faults(*(jnp.asarray(columns[..., i]) for i in range(3)))


class _Model:
    """Loses a tenth of accuracy for every flip; remembers the sizes of its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, slots: faults.Faults) -> faults.TrialResult:
        site = np.asarray(slots.site)
        self.calls.append(len(site))
        used = site >= 0
        accuracy = (0.8 - 0.1 * used.sum(axis=1)).astype(np.float32)
        before = np.where(used, np.asarray(slots.element) + 0.5, np.nan)
        quiet = np.zeros(len(site), np.float32)
        return faults.TrialResult(accuracy, quiet, quiet + 0.25, quiet, quiet + 0.5, before, -before)


def _run(folder, model, slots, flips=1, chunk=2, mode="random"):
    advanced = []
    campaign = trials.Campaign("weights", mode, "bits", flips, slots)
    frame = trials.run_in_chunks(
        campaign, model, TABLE, common=COMMON, parts=folder, chunk=chunk, advance=advanced.append
    )
    return frame, advanced


SINGLE = _slots(*([(n % 2, n, 31 - n)] for n in range(5)))


def test_a_trial_lists_each_of_its_flips_in_order(tmp_path):
    frame, _ = _run(tmp_path, _Model(), _slots([(1, 7, 30), None, (0, 2, 31)], [(0, 1, 5), (0, 3, 6), (1, 4, 7)]), 3)
    assert list(frame.columns) == list(records.TRIAL_COLUMNS)
    assert frame["flips"].tolist() == [2, 3]
    assert frame["path"].tolist() == ["b/kernel;a/kernel", "a/kernel;a/kernel;b/kernel"]
    assert frame["element"].tolist() == ["7;2", "1;3;4"]
    assert frame["bit"].tolist() == ["30;31", "5;6;7"]
    assert frame["field"].tolist() == ["exponent;sign", "mantissa;mantissa;mantissa"]
    assert frame["value_before"].tolist() == ["7.5;2.5", "1.5;3.5;4.5"]
    assert frame["value_after"].tolist() == ["-7.5;-2.5", "-1.5;-3.5;-4.5"]
    assert frame["accuracy"].tolist() == pytest.approx([0.6, 0.5])


def test_finished_chunks_are_read_and_only_the_others_run(tmp_path):
    first, second = _Model(), _Model()
    whole, advanced = _run(tmp_path, first, SINGLE)
    assert (first.calls, advanced) == ([2, 2, 1], [2, 2, 1])
    assert whole["trial"].tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "weights_random_bits_1_2_2.csv").unlink()
    again, advanced = _run(tmp_path, second, SINGLE)
    assert (second.calls, advanced) == ([2], [2, 2, 1])
    assert again.equals(whole)


def test_one_bit_and_several_are_text_in_the_same_file(tmp_path):
    frame, _ = _run(tmp_path, _Model(), _slots([(0, 1, 5), None], [(0, 1, 5), (0, 2, 7)]), 2)
    many = frame.iloc[np.repeat([0, 1], [300_000, 1])]
    records.write(many, tmp_path / "faults.csv")
    back = records.read_trials(tmp_path / "faults.csv")
    assert back["bit"].value_counts().to_dict() == {"5": 300_000, "5;7": 1}
    single = tmp_path / "single.csv"
    records.write(frame.iloc[:1], single)
    assert records.read_trials(single)["bit"].tolist() == ["5"]
    assert records.read_trials(tmp_path / "none.csv").columns.tolist() == list(records.TRIAL_COLUMNS)


def test_the_worst_case_makes_one_flip_more_in_every_trial(tmp_path):
    found = faults.Faults(np.array([1, -1, 0, 1]), np.array([3, 0, 4, 5]), np.array([30, 0, 29, 28]))
    slots = worst_case.prefixes(found, 5)
    assert slots.site.shape == (3, 5)
    frame, _ = _run(tmp_path, _Model(), slots, flips=4, mode="worst")
    assert frame["flips"].tolist() == [1, 2, 3]
    assert frame["element"].tolist() == ["3", "3;4", "3;4;5"]
    assert frame["bit"].tolist() == ["30", "30;29", "30;29;28"]
    assert frame["accuracy"].tolist() == pytest.approx([0.7, 0.6, 0.5])


def test_no_worst_flip_found_is_no_trial(tmp_path):
    nothing = faults.Faults(*(np.full(2, value) for value in (-1, 0, 0)))
    frame, advanced = _run(tmp_path, _Model(), worst_case.prefixes(nothing, 2), mode="worst")
    assert (len(frame), advanced) == (0, [])


def test_a_campaign_adds_up_to_means_and_shares_of_trials(tmp_path):
    frame, _ = _run(tmp_path, _Model(), SINGLE)
    frame = frame.assign(accuracy=[0.8, 0.8, 0.75, 0.79, 0.2], sdc=[0.0, 0.0, 0.1, 0.0, 0.4], nonfinite=0.0)
    found = trials.summarise(frame)
    assert found["accuracy"].value == pytest.approx(0.668)
    lost = np.array([0.0, 0.0, 0.05, 0.01, 0.6])
    assert found["accuracy_loss"].value == pytest.approx(0.132)
    assert found["accuracy_loss"] == pytest.approx(statistics.bounded_mean(lost, bounds=(-0.2, 0.8)))
    assert found["sdc"].value == pytest.approx(0.1)
    # A loss of exactly 1 or 5 points is not more than that.
    assert found["critical_1"] == statistics.wilson(2, 5)
    assert found["critical_5"] == statistics.wilson(1, 5)
    assert found["critical_10"] == statistics.wilson(1, 5)
    assert found["nonfinite"][:2] == (0.0, 0.0)
    assert found["nonfinite"] == statistics.wilson(0, 5)


def test_the_search_sees_validation_images_only_and_is_kept(tmp_path, monkeypatch):
    searched = []

    def search(apply, variables, images, labels, *, table, flips, **options):
        searched.append(images.shape)
        # The brightest pixel is the element, so that the result says which images were seen.
        slots = faults.Faults(
            jnp.zeros(flips, jnp.int32), jnp.full(flips, 10 * images.max(), jnp.int32), labels[:flips]
        )
        return faults.WorstCase(slots, *[jnp.zeros(flips)] * 6)

    monkeypatch.setattr(worst_case.faults, "worst_case", search)
    val = data.Split(np.full((9, 1, 1, 1), 153, np.uint8), np.full(9, 7, np.int32))
    fault = types.SimpleNamespace(
        worst_flips=2, worst_candidates=1, allow_nonfinite=False, worst_restarts=1, worst_magnitude=None
    )
    ctx = types.SimpleNamespace(
        config=types.SimpleNamespace(fault=fault, seed=0),
        run=types.SimpleNamespace(trial_strategy="auto", trials_at_once=None, images_at_once=None),
        model=types.SimpleNamespace(apply=None),
        dataset=types.SimpleNamespace(splits={"val": val}),
        folder=types.SimpleNamespace(fault_parts=tmp_path / "parts"),
        task="multi-class",
        variables=None,
        bar=lambda *arguments: tqdm.tqdm(disable=True),
    )
    bench = trials.Bench(None, {}, jnp.zeros((4, 1, 1, 1)), jnp.zeros(4), np.zeros((4, 2)), TABLE, 3, None, 32)
    first, second = (worst_case.campaign(ctx, "weights", bench) for _ in range(2))
    assert searched == [(4, 1, 1, 1)], "as many as on the test bench, and searched once"
    for campaign in (first, second):
        np.testing.assert_array_equal(campaign.faults.site, [[0, -1, -1], [0, 0, -1]])
        assert campaign.faults.element[1].tolist() == [6, 6, 0]
        assert campaign.faults.bit[1].tolist() == [7, 7, 0]
