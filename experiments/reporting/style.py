"""How every figure looks: one palette that colour-blind readers can tell apart, one frame, one way to draw a curve."""

import contextlib
import pathlib

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import axes, figure

# Okabe and Ito, "Color Universal Design", 2008; marker and colour change together, so that grey prints can be read,
# and there is one marker more than colours, so that eight and more curves differ.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
COLOURS = len(_COLOURS)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK, _FAINT = "#222222", "#8a8a8a"
_SETTINGS = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 22,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


RADIUS_AXES = {
    "linf": "radius of the L-inf ball, epsilon (1/255)",
    "l2": "radius of the L2 ball, epsilon (all pixels, in [0, 1])",
}


def applied() -> contextlib.AbstractContextManager:
    """The style, while a figure is drawn and saved; the caller's own matplotlib settings come back afterwards."""
    return matplotlib.rc_context(_SETTINGS)


def panels(
    count: int, *, width: float = 5.6, height: float = 4.0, columns: int | None = None
) -> tuple[figure.Figure, list[axes.Axes]]:
    """A figure with panels side by side, in rows of `columns` if given, in the common style."""
    columns = min(columns or count, count)
    lines = -(-count // columns)
    drawn = figure.Figure(figsize=(width * columns, height * lines), layout="constrained")
    cells = list(drawn.subplots(lines, columns, squeeze=False).flat)
    for cell in cells[count:]:
        cell.remove()
    return drawn, cells[:count]


def grid(rows: int, columns: int, *, side: float) -> tuple[figure.Figure, np.ndarray]:
    """A figure of pictures without frames; the axes are [rows, columns]."""
    size = (side * columns + 0.6, (side + 0.2) * rows + 0.6)
    drawn = figure.Figure(figsize=size, layout="constrained")
    cells = drawn.subplots(rows, columns, squeeze=False)
    for cell in cells.flat:
        cell.set_xticks([])
        cell.set_yticks([])
        for spine in cell.spines.values():
            spine.set_visible(False)
    return drawn, cells


def titles(axis: axes.Axes, title: str, subtitle: str) -> None:
    """A bold line that says what is shown, and under it a faint one that says of what."""
    axis.set_title(title)
    place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 6), "textcoords": "offset points"}
    axis.annotate(subtitle, **place, fontsize=8.5, color=_FAINT, va="bottom", annotation_clip=False)


def frame_titles(drawn: figure.Figure, title: str, caption: str) -> None:
    """The same for a figure of several panels that share them: the line above all, the caption below."""
    drawn.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    drawn.supxlabel(caption, x=0.01, ha="left", fontsize=8.5, color=_FAINT)


def subtitle(rows: pd.DataFrame, unit: str = "test images") -> str:
    """What the rows were measured on: `bloodmnist, medmamba_n, 1,000 test images; 95 % intervals`."""
    first = rows.iloc[0]
    counts = sorted(rows["count"].astype(int).unique())
    count = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"{first.dataset}, {first.model}, {count} {unit}; bands: 95 % intervals"


def curve(axis: axes.Axes, rows: pd.DataFrame, label: str, number: int) -> None:
    """Values in percent against strength, with the interval as a band.

    Args:
      axis: to draw on.
      rows: one per strength.
      label: for the legend.
      number: of the curve on this axis, which gives colour and marker.
    """
    rows = rows.sort_values("strength")
    x = rows["strength"].to_numpy(float)
    value, low, high = (100 * rows[name].to_numpy(float) for name in ("value", "low", "high"))
    colour = _COLOURS[number % len(_COLOURS)]
    axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axis.plot(
        x, value, color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=4.5, linewidth=1.6, label=label
    )


def percent_axis(axis: axes.Axes, label: str) -> None:
    """The vertical axis from 0 to 100 %."""
    axis.set_ylim(-2, 102)
    axis.set_yticks(np.arange(0, 101, 20))
    axis.set_ylabel(label)


def reference_line(axis: axes.Axes, share: float | None, text: str) -> None:
    """A dashed level in percent that needs no model, such as that of always giving the most frequent class."""
    if share is None:
        return
    axis.axhline(
        100 * share, color=_FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1, label=f"{text} ({100 * share:.1f} %)"
    )


def stretch(axis: axes.Axes, strengths: np.ndarray) -> None:
    """A horizontal axis on which 0 is a point and doublings are evenly spaced, with a tick at every strength."""
    positive = strengths[strengths > 0]
    if positive.size:
        unit = float(positive.min())
        axis.set_xscale(
            "function", functions=(lambda x: np.log2(1 + np.maximum(x, 0) / unit), lambda y: unit * (2.0**y - 1))
        )
    axis.set_xticks(strengths, [f"{value:g}" for value in strengths])
    axis.minorticks_off()


def colour(number: int) -> str:
    """The colour of the curve of that number."""
    return _COLOURS[number % len(_COLOURS)]


def save(drawn: figure.Figure, path: pathlib.Path) -> pathlib.Path:
    """Writes the figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)
    return path
