"""Rows: written and read back exactly, selected, and printed with their intervals."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments.storage import records
from threats import statistics


def test_rows_are_read_back_digit_for_digit(tmp_path):
    intervals = [
        statistics.wilson(1, 3),
        statistics.Interval(math.nan, math.nan, math.nan, 7),
        statistics.mean([0.1, 0.7]),
    ]
    measured = [
        records.Measurement("none", "None", 1 / 3, f"metric_{i}", interval) for i, interval in enumerate(intervals)
    ]
    frame = records.table(measured, dataset="NA", model="null", seed=3, stage="clean")
    records.write(frame, tmp_path / "rows.csv")
    back = records.read(tmp_path / "rows.csv")
    assert tuple(back.columns) == records.COLUMNS
    assert list(back["dataset"]) == ["NA"] * 3
    assert list(back["method"]) == ["None"] * 3
    np.testing.assert_array_equal(
        back[["strength", "value", "low", "high"]], frame[["strength", "value", "low", "high"]]
    )
    assert list(back["count"]) == [3, 7, 2]


def test_writing_replaces_the_file_in_one_step_and_leaves_nothing_beside_it(tmp_path):
    for value in (1, 2):
        records.write(pd.DataFrame({"a": [value]}), tmp_path / "rows.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert (tmp_path / "rows.csv").read_text() == "a\n2\n"


def test_a_file_that_is_not_there_has_no_rows(tmp_path):
    assert records.read(tmp_path / "rows.csv").empty
    assert tuple(records.join([tmp_path / "rows.csv"]).columns) == records.COLUMNS


def test_select_takes_values_and_tuples_of_values(rows):
    frame = rows["adversarial"]
    assert set(records.select(frame, method="fgsm")["method"]) == {"fgsm"}
    assert set(records.select(frame, method=("fgsm", "pgd"), metric="accuracy")["method"]) == {"fgsm", "pgd"}
    assert records.select(frame, method="none of these").empty


@pytest.mark.parametrize(
    ("numbers", "percent", "text"),
    [
        ((0.8125, 0.79, 0.8333), False, "0.812 [0.790, 0.833]"),
        ((0.8125, 0.79, 0.8333), True, "81.2 [79.0, 83.3]"),
        ((0.8125, math.nan, math.nan), True, "81.2"),
        ((math.nan, 0.0, 1.0), True, "not a number"),
    ],
)
def test_a_number_is_printed_with_its_interval(numbers, percent, text):
    assert records.interval_text(*numbers, percent=percent) == text
