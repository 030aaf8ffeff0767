"""Robust accuracy of several models against the radius, side by side for each data set and norm."""

import pathlib

import numpy as np
import pandas as pd

from experiments.reporting import style

_AXES = {"linf": "radius of the L-inf ball (1/255)", "l2": "radius of the L2 ball (all pixels, in [0, 1])"}


def draw(found: pd.DataFrame, path: pathlib.Path) -> pathlib.Path:
    """Draws the worst case over the attacks of a norm, or the one attack that there is.

    Args:
      found: columns dataset, run, model, norm, method, strength, value, low, high and count.
      path: of the PNG file.
    """
    panels = [(*names, _hardest(rows)) for names, rows in found.groupby(["dataset", "norm"], sort=False)]
    models = list(dict.fromkeys(_labels(found)))
    with style.applied():
        figure, axes = style.panels(len(panels), width=4.6, height=3.6, columns=2)
        for axis, (dataset, norm, rows) in zip(axes, panels, strict=True):
            for label, curve in rows.groupby(_labels(rows), sort=False):
                style.curve(axis, curve, label, models.index(label))
            style.stretch(axis, np.unique(rows["strength"].to_numpy(float)))
            style.percent_axis(axis, "robust accuracy (%)")
            axis.set_xlabel(_AXES[norm])
            counts = f"{int(rows['count'].iloc[0]):,} test images; bands: 95 % intervals"
            style.titles(axis, f"{dataset}, {rows['method'].iloc[0].replace('_', ' ')}", counts)
            axis.legend(fontsize=8.5)
        return style.save(figure, path)


def _hardest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the method that all runs have, the last one: the worst case follows the attacks it is of."""
    runs = rows["run"].nunique()
    shared = [name for name, of_name in rows.groupby("method", sort=False) if of_name["run"].nunique() == runs]
    return rows[rows["method"] == (shared or [rows["method"].iloc[-1]])[-1]]


def _labels(rows: pd.DataFrame) -> pd.Series:
    """The model's name, with the folder's where two runs of a data set share it."""
    shared = rows.groupby(["dataset", "model"])["run"].transform("nunique") > 1
    return rows["model"].where(~shared, rows["model"] + ", " + rows["run"].map(lambda path: pathlib.Path(path).name))
