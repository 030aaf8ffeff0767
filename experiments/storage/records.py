"""Rows: every measured number with its count and interval, one per line, in the order of the stages.

Columns are those of `COLUMNS`. `threat` says what is disturbed (`none`, `linf`, `l2`, `occlusion`,
`corruption/PRESET` with whose strengths, `weights`, `activations`), `method` how, `strength` how much, in the unit of
the method (1/255 for L-inf radii, share of patches, severity, number of flipped bits). Figures and reports are
functions of these rows alone.
"""

import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from threats import statistics

COLUMNS = (
    "dataset",
    "model",
    "seed",
    "stage",
    "threat",
    "method",
    "strength",
    "metric",
    "value",
    "low",
    "high",
    "count",
)

TRIAL_COLUMNS = (
    "dataset", "model", "seed", "images", "target", "mode", "drawing", "flips", "trial", "layer", "path", "element",
    "bit", "field", "value_before", "value_after", "accuracy_before", "accuracy", "sdc", "nonfinite",
)  # fmt: skip
# Columns that hold an entry per flip: text, even where a file's trials flip one bit each.
TRIAL_LISTS = ("layer", "path", "element", "bit", "field", "value_before", "value_after")


class Measurement(NamedTuple):
    """One measured number of a stage.

    threat, method: what is disturbed and how. strength: how much. metric: what is measured, `accuracy` for instance.
    interval: `statistics.Interval` (value, low, high, count).
    """

    threat: str
    method: str
    strength: float
    metric: str
    interval: statistics.Interval


def table(measurements: Iterable[Measurement], *, dataset: str, model: str, seed: int, stage: str) -> pd.DataFrame:
    """The rows of one stage, with the columns `COLUMNS`."""
    rows = [
        (
            dataset,
            model,
            seed,
            stage,
            m.threat,
            m.method,
            float(m.strength),
            m.metric,
            *map(float, m.interval[:3]),
            int(m.interval.count),
        )
        for m in measurements
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(frame: pd.DataFrame, path: pathlib.Path) -> None:
    """Writes a table as CSV in one step: a reader, or a run that is killed, never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_csv(temporary, index=False)
    os.replace(temporary, path)


def read(path: pathlib.Path, *, columns: tuple[str, ...] = COLUMNS, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """The rows of a file, exactly as written; an empty table with the same columns where there is no file.

    Args:
      path: of a CSV file.
      columns: of the empty table.
      text: columns that are text even where every entry looks like a number.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    # Otherwise "None" or "NA" as a name would be read as a missing value.
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])


def read_trials(path: pathlib.Path) -> pd.DataFrame:
    """The fault trials of a file, exactly as written; none where there is no file.

    What is joined by semicolons is text: pandas would take "5" as a number where no neighbour is "5;7", and as another
    bit than the text "5" of a later block of the same file.
    """
    return read(path, columns=TRIAL_COLUMNS, text=TRIAL_LISTS)


def join(paths: Iterable[pathlib.Path]) -> pd.DataFrame:
    """The rows of several files, one after the other; files that are not there are passed over."""
    frames = [frame for frame in map(read, paths) if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def select(rows: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """The rows whose columns have the given values: `select(rows, stage="clean", metric="accuracy")`.

    A tuple stands for any of its entries.
    """
    for column, value in equal.items():
        rows = rows[rows[column].isin(value if isinstance(value, tuple) else (value,))]
    return rows


def interval_text(value: float, low: float, high: float, *, percent: bool = False) -> str:
    """A number with its interval, as reports print it: `0.812 [0.790, 0.833]` or `81.2 [79.0, 83.3]`."""
    scale, digits = (100.0, 1) if percent else (1.0, 3)
    if pd.isna(value):
        return "not a number"
    if pd.isna(low) or pd.isna(high):
        return f"{scale * value:.{digits}f}"
    return f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
