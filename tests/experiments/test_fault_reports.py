"""Figures and tables of fault trials: losses of either sign, and what every number rests on."""

import io

import numpy as np
import pandas as pd
import pytest

from experiments.reporting import fault_plots, sections, tables
from experiments.storage import records
from threats import statistics


def _bars(figure) -> dict[int, float]:
    bars = [bar for container in figure.axes[0].containers for bar in getattr(container, "patches", [])]
    return {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars}


def test_bits_whose_flips_help_are_drawn_below_zero(faults):
    gain = np.where(faults["bit"] == "3", 0.05, 0.0)
    figure = fault_plots.bits(faults.assign(accuracy=faults["accuracy"] + gain))
    assert _bars(figure)[3] == pytest.approx(-5)
    assert figure.axes[0].get_ylim()[0] <= -5
    figure.savefig(io.BytesIO())


def test_a_bit_hit_once_has_no_whisker(faults):
    once = records.select(faults, mode="random", target="weights").drop_duplicates("bit")
    drawn = fault_plots.bits(once).axes[0].collections
    heights = [np.ptp(path.vertices[:, 1]) for lines in drawn for path in lines.get_paths()]
    assert heights
    assert max(heights) == 0


def test_bits_read_as_text_and_as_numbers_are_one_bit(faults):
    mixed = faults.assign(bit=[int(bit) if i % 2 else bit for i, bit in enumerate(faults["bit"])])
    assert _bars(fault_plots.bits(mixed)) == _bars(fault_plots.bits(faults))


def _worst_rows() -> pd.DataFrame:
    interval = statistics.wilson(200, 256)
    few = statistics.mean(np.linspace(0.7, 0.8, 32), bounds=(0, 1))
    found = [records.Measurement("weights", "worst", flips, "accuracy", interval) for flips in (0, 1)]
    control = [records.Measurement("weights", "random_control", 0, "accuracy", interval)]
    control += [records.Measurement("weights", "random_control", 1, "accuracy", few)]
    return records.table([*found, *control], dataset="cells", model="tiny", seed=0, stage="fault")


def test_a_line_over_images_and_trials_says_both_counts():
    lines = tables.grid(_worst_rows(), metric="accuracy", strengths="bits flipped").splitlines()
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["256", "32 to 256"]


def test_the_worst_case_names_what_both_bands_rest_on():
    axis = fault_plots.worst(_worst_rows(), None).axes[0]
    assert "cells, tiny; 95 % bands over images, over trials" in [text.get_text() for text in axis.texts]
    labels = [line.get_label() for line in axis.get_lines()]
    assert labels == ["worst case found (256 test images)", "random flips (mean of 32 trials)"]


def test_a_campaign_names_what_costs_most(rows):
    text = next(text for section in sections.SECTIONS if "### Campaign" in (text := section(rows["fault"], {})))
    table, *_ = text.split("Where it costs most, by layer:")
    assert "| float32 | 80.0 [73.9, 85.0] | 70.0 [65.3, 74.3] | 0.700 [0.653, 0.743] |" in table
    assert "Accuracy under fault, int8 - float32, in points, trial by trial: 10.0" in text
    lines = [line for line in text.splitlines() if line.startswith("| int8 | `")]
    assert lines[0].startswith("| int8 | `head` | 40.0 ")
    assert lines[-1].startswith("| int8 | `patch_embed/proj` | 0.0 ")
