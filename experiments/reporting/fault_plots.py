"""Fault trials to figures: how bad faults are, which bits and which layers matter, and the worst case.

The trials are rows of `faults.csv`, whose columns are `records.TRIAL_COLUMNS`.
"""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colors

from experiments import blocks
from experiments.reporting import style
from experiments.storage import records
from threats import statistics

_FIELDS = ("sign", "exponent", "mantissa")


def losses(faults: pd.DataFrame):
    """The share of random trials that lose at least so many points of accuracy, a step curve per campaign."""
    trials = records.select(faults, mode="random") if len(faults) else faults
    if trials.empty:
        return None
    figure, (axis,) = style.panels(1)
    for number, (name, part) in enumerate(trials.groupby(["target", "drawing", "flips"], sort=False)):
        loss = np.sort(_points_lost(part))[::-1]
        share = 100 * np.arange(1, loss.size + 1) / loss.size
        axis.step(
            loss, share, where="post", color=style.colour(number), linewidth=1.7, label=_campaign(*name, loss.size)
        )
    axis.set_yscale("log")
    axis.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axis.set_ylim(100 / len(trials) / 1.5, 130)
    axis.set_xlim(left=0)
    axis.set_xlabel("accuracy lost, at least (points)")
    axis.set_ylabel("share of trials (%)")
    style.titles(axis, "How much a random fault costs", _subtitle(trials))
    axis.legend(fontsize=8.5)
    return figure


def bits(faults: pd.DataFrame):
    """Mean accuracy lost by the position of the flipped bit, a panel per target."""
    trials = records.select(faults, mode="random", drawing="bits", flips=1) if len(faults) else faults
    targets = list(dict.fromkeys(trials["target"])) if len(trials) else []
    if not targets:
        return None
    figure, axes = style.panels(len(targets))
    for axis, target in zip(axes, targets, strict=True):
        part = records.select(trials, target=target)
        for number, field in enumerate(_FIELDS):
            _bars(axis, part[part["field"] == field], field, style.colour(number))
        axis.invert_xaxis()
        axis.set_ylim(min(0, axis.get_ylim()[0]), max(5, axis.get_ylim()[1]))
        axis.set_xlabel("bit flipped (highest first)")
        axis.set_ylabel("mean accuracy lost (points)")
        style.titles(axis, f"Which bit, in {target}", _subtitle(part))
        axis.legend(fontsize=8.5, loc="upper right")
    return figure


def layers(faults: pd.DataFrame, target: str):
    """Heat map of mean accuracy lost by layer and bit field; a column of cells is a block, a panel a bit field."""
    trials = records.select(faults, mode="layerwise", target=target) if len(faults) else faults
    if trials.empty:
        return None
    trials = trials.assign(lost=_points_lost(trials))
    return heat_map(trials, f"Accuracy lost to one flipped bit, layer by layer, in {target}", _subtitle(trials))


def heat_map(found: pd.DataFrame, title: str, subtitle: str):
    """Mean points of accuracy lost, a panel per bit field, a column per block, a row per part of a block.

    Args:
      found: columns `layer`, `field` and `lost`; several rows of a cell are averaged.
      title, subtitle: of the figure.
    """
    split = [blocks.split(layer) for layer in found["layer"]]
    found = found.assign(block=[block for block, _ in split], part=[part for _, part in split])
    fields = [field for field in dict.fromkeys((*_FIELDS, *found["field"])) if field in set(found["field"])]
    columns, parts = (list(dict.fromkeys(found[name])) for name in ("block", "part"))
    figure, axes = style.panels(len(fields), width=2.2 + 0.34 * len(columns), height=1.5 + 0.21 * len(parts))
    image = None
    for axis, field in zip(axes, fields, strict=True):
        means = found[found["field"] == field].pivot_table(index="part", columns="block", values="lost", sort=False)
        image = _heat(axis, means.reindex(index=parts, columns=columns), labelled=axis is axes[0])
        axis.set_xlabel(f"{field} bit, block (stage.block)")
    style.frame_titles(figure, title, subtitle)
    figure.colorbar(image, ax=axes, label="mean accuracy lost (points)", fraction=0.05, pad=0.02)
    return figure


def worst(rows: pd.DataFrame, majority: float | None):
    """Accuracy after each flip of the worst-case search, beside as many random flips."""
    rows = records.select(rows, stage="fault", method=("worst", "random_control"), metric="accuracy")
    targets = list(dict.fromkeys(rows["threat"]))
    if not targets:
        return None
    figure, axes = style.panels(len(targets))
    for axis, target in zip(axes, targets, strict=True):
        part = records.select(rows, threat=target)
        found = records.select(part, method="worst")
        style.curve(axis, found, f"worst case found ({int(found['count'].max()):,} test images)", 1)
        control = records.select(part, method="random_control")
        # The control starts from the fault-free images; its trials begin with the first flip.
        drawn = control.loc[control["strength"] > 0, "count"].max()
        style.curve(
            axis, control, "random flips" if np.isnan(drawn) else f"random flips (mean of {drawn:,.0f} trials)", 0
        )
        style.reference_line(axis, majority, "most frequent class")
        style.percent_axis(axis, "accuracy (%)")
        axis.set_xticks(np.unique(part["strength"].to_numpy(int)))
        axis.set_xlabel("bits flipped")
        style.titles(axis, f"Worst-case flips in {target}", _bands(found.iloc[0]))
        axis.legend(fontsize=8.5)
    return figure


def _points_lost(trials: pd.DataFrame) -> np.ndarray:
    return 100 * (trials["accuracy_before"] - trials["accuracy"]).to_numpy(float)


def _subtitle(trials: pd.DataFrame) -> str:
    first = trials.iloc[0]
    return f"{first.dataset}, {first.model}, {len(trials):,} trials on {int(first.images):,} test images each"


def _bands(row: pd.Series) -> str:
    return f"{row.dataset}, {row.model}; 95 % bands over images, over trials"


def _campaign(target: str, drawing: str, flips: int, count: int) -> str:
    bits_text = "1 bit" if flips == 1 else f"{flips} bits"
    return f"{target}, {bits_text}, uniform over {drawing} ({count:,})"


def _bars(axis, trials: pd.DataFrame, field: str, colour: str) -> None:
    if trials.empty:
        return
    # From files with several flips in a row, the bits are text.
    groups = {bit: _points_lost(part) for bit, part in trials.groupby(trials["bit"].astype(int))}
    before = 100 * float(trials["accuracy_before"].iloc[0])
    means = [statistics.bounded_mean(lost, bounds=(before - 100, before)) for lost in groups.values()]
    heights, low, high, count = (np.array(column) for column in zip(*means, strict=True))
    # A single trial says nothing of the spread: no whisker is drawn.
    whiskers = np.where(count > 1, np.maximum([heights - low, high - heights], 0), 0)
    style_of = {"linewidth": 0.8, "ecolor": "#555555"}
    axis.bar(list(groups), heights, width=0.75, color=colour, label=field, yerr=whiskers, error_kw=style_of)


def _heat(axis, means: pd.DataFrame, *, labelled: bool):
    palette = matplotlib.colormaps["YlOrRd"].with_extremes(bad="#f2f2f2")
    values = means.to_numpy(float)
    # Most faults cost nothing: a root scale keeps losses of a few points apart from none.
    image = axis.imshow(values, cmap=palette, norm=colors.PowerNorm(0.5, vmin=0, vmax=100), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and value >= 0.5:
            ink = "white" if value > 55 else "#222222"
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
    axis.set_xticks(range(means.shape[1]), means.columns, rotation=90, fontsize=7.5)
    axis.set_yticks(range(means.shape[0]), means.index if labelled else [""] * means.shape[0], fontsize=7.5)
    axis.grid(False)
    axis.tick_params(length=0)
    return image
