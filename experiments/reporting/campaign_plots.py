"""A campaign's rows to figures: which bits, and which layers and fields, cost accuracy in each number format."""

import numpy as np
import pandas as pd

from experiments.reporting import fault_plots, style
from experiments.storage import records


def bits(rows: pd.DataFrame):
    """Mean accuracy lost by the position of the bit that was hit, a panel per number format, with intervals."""
    rows = lost(rows, "bit")
    formats = list(dict.fromkeys(rows["format"]))
    if not formats:
        return None
    figure, axes = style.panels(len(formats))
    for number, (axis, number_format) in enumerate(zip(axes, formats, strict=True)):
        part = rows[rows["format"] == number_format]
        heights, low, high = (part[name].to_numpy(float) for name in ("lost", "least", "most"))
        # A single trial says nothing of the spread: no whisker is drawn.
        whiskers = np.where(part["count"] > 1, np.maximum([heights - low, high - heights], 0), 0)
        style_of = {"linewidth": 0.8, "ecolor": "#555555"}
        axis.bar(
            part["name"].astype(int), heights, width=0.75, color=style.colour(number), yerr=whiskers, error_kw=style_of
        )
        axis.invert_xaxis()
        axis.set_ylim(min(0, axis.get_ylim()[0]), max(5, axis.get_ylim()[1]))
        axis.set_xlabel("bit hit (highest first)")
        axis.set_ylabel("mean accuracy lost (points)")
        style.titles(axis, f"Which bit, weights in {number_format}", _subtitle(part))
    return figure


def layers(rows: pd.DataFrame):
    """Heat map of the mean accuracy lost by layer and bit field, of the first number format."""
    rows = lost(rows, "cell")
    if rows.empty:
        return None
    first = rows[rows["format"] == rows["format"].iloc[0]]
    layer, field = zip(*(name.rsplit(":", 1) for name in first["name"]), strict=True)
    title = f"Accuracy lost to one fault, layer by layer, weights in {first['format'].iloc[0]}"
    return fault_plots.heat_map(first.assign(layer=layer, field=field), title, _subtitle(first))


def lost(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    """The accuracy rows of a group with the columns `format`, `name`, and `lost`, `least`, `most` in points."""
    rows = records.select(rows, stage="fault", threat="campaign")
    clean = {row.method: row.value for row in records.select(rows, metric="clean_accuracy").itertuples()}
    rows = records.select(rows, metric="accuracy")
    rows = rows[rows["method"].str.contains(f"^[^/]+/{group}/", regex=True)]
    split = [method.split("/", 2) for method in rows["method"]]
    before = np.array([clean[number_format] for number_format, *_ in split])
    points = {"lost": "value", "least": "high", "most": "low"}
    return rows.assign(
        format=[number_format for number_format, *_ in split],
        name=[name for *_, name in split],
        **{column: 100 * (before - rows[source].to_numpy(float)) for column, source in points.items()},
    )


def _subtitle(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"{first.dataset}, {first.model}; {int(rows['count'].sum()):,} trials, intervals over them"
