"""Rows: every measured number with its count and interval, one per line, in the order of the stages.

Columns are those of `COLUMNS`. `threat` says what is disturbed (`none`, `linf`, `l2`, `occlusion`, `corruption`,
`weights`, `activations`), `method` how, `strength` how much, in the unit of the method (1/255 for L-inf radii, share of
patches, severity, number of flipped bits). Figures and reports are functions of these rows alone.
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


def read(path: pathlib.Path) -> pd.DataFrame:
    """The rows of a file, exactly as written; an empty table with the same columns where there is no file."""
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    # Otherwise "None" or "NA" as a name would be read as a missing value.
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


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
