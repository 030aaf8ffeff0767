"""What becomes of each class under attack: tables of recall, and heat maps of what a class is taken for."""

import numpy as np
import pandas as pd

from experiments.reporting import style, tables
from experiments.storage import records

_RECALL, _CONFUSION, _BETWEEN = "recall/", "confusion/", " > "
_NAMES = {"linf": "L-inf", "l2": "L2"}
# More names would not fit below the columns, nor numbers into the cells.
_MOST_NUMBERS = 11


def recall(rows: pd.DataFrame, norm: str) -> tuple[str, str]:
    """The strongest attack of a norm, and a table with a line per class and a column per radius; "" without rows."""
    name, part = _strongest(rows, norm)
    part = part[part["metric"].str.startswith(_RECALL)]
    if part.empty:
        return name, ""
    part = part.assign(method=part["metric"].str.removeprefix(_RECALL), metric="recall")
    return name, tables.grid(part, metric="recall", strengths="class")


def confusion(rows: pd.DataFrame):
    """Heat maps of the decisions on each class: clean, and under the strongest attack, a panel per norm.

    Shown is the smallest radius at which the attack leaves less than half of the clean accuracy, or else the largest.
    """
    clean = records.select(rows, stage="clean", method="test", metric="accuracy")
    rows = records.select(rows, stage="adversarial")
    shown = []
    for norm in _NAMES:
        name, part = _strongest(rows, norm)
        cells = part[part["metric"].str.startswith(_CONFUSION)]
        if cells.empty:
            continue
        accuracy = records.select(part, metric="accuracy").set_index("strength")["value"].sort_index()
        before = accuracy.get(0.0, clean["value"].iloc[0] if len(clean) else np.nan)
        halved = accuracy.index[accuracy < before / 2]
        strength = halved[0] if len(halved) else accuracy.index[-1]
        if not shown and accuracy.index[0] == 0:
            shown.append(("Clean images", cells[cells["strength"] == 0]))
        size = f"{strength:g}/255" if norm == "linf" else f"{strength:g}"
        shown.append((f"{tables.words(name)}, {_NAMES[norm]}, epsilon {size}", cells[cells["strength"] == strength]))
    if not shown:
        return None
    figure, axes = style.panels(len(shown), width=4.6, height=4.6)
    for number, (axis, (title, cells)) in enumerate(zip(axes, shown, strict=True)):
        drawn = _map(axis, cells, named=number == 0)
        axis.set_title(title, pad=8, fontsize=10)
    figure.colorbar(drawn, ax=axes, label="share of the class (%)", shrink=0.8)
    first = shown[0][1].iloc[0]
    caption = (
        f"{first.dataset}, {first.model}; beside each class its test images; outputs that are not finite are no class"
    )
    style.frame_titles(figure, "What a class is taken for", caption)
    return figure


def _strongest(rows: pd.DataFrame, norm: str) -> tuple[str, pd.DataFrame]:
    """The attack that leaves the lowest accuracy at the largest radius, of equals the last, and its rows."""
    rows = records.select(rows, stage="adversarial", threat=norm)
    own = rows[~rows["method"].isin((f"any_of_{norm}", "uniform_noise"))]
    left = records.select(own, metric="accuracy")[::-1]
    left = left[left["strength"] == left["strength"].max()]
    if left.empty:
        return "", own
    name = left.loc[left["value"].idxmin(), "method"]
    part = records.select(own, method=name)
    pairs = part["metric"].str.removeprefix(_CONFUSION).str.split(_BETWEEN, n=1, expand=True)
    return name, part.assign(true=pairs[0], decided=pairs.get(1))


def _map(axis, cells: pd.DataFrame, *, named: bool):
    wide = cells.pivot(index="true", columns="decided", values="value")
    true, decided = (list(dict.fromkeys(cells[name])) for name in ("true", "decided"))
    shares = 100 * wide.loc[true, decided].to_numpy(float)
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axis.grid(visible=False)
    axis.set_xticks(range(len(decided)), decided, rotation=40, ha="right", rotation_mode="anchor", fontsize=7.5)
    counts = cells.drop_duplicates("true").set_index("true")["count"].astype(int)
    names = [f"{name} ({counts[name]:,})" if named else "" for name in true]
    axis.set_yticks(range(len(true)), names, fontsize=7.5)
    axis.set_xlabel("decided")
    if named:
        axis.set_ylabel("true")
    if len(decided) <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 60 else "#222222"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    return drawn
