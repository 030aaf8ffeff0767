"""Robust accuracy of several models against the radius, side by side for each data set and norm."""

import pathlib

import numpy as np
import pandas as pd

from experiments.reporting import style


def draw(found: pd.DataFrame, path: pathlib.Path) -> pathlib.Path:
    """Draws the worst case over the attacks of a norm, or the one attack that there is.

    Args:
      found: of `compare_attacks.compare`.
      path: of the PNG file.
    """
    found = found.assign(label=_labels(found))
    labels = list(found["label"].unique())
    panels = list(found.groupby(["dataset", "norm"], sort=False))
    with style.applied():
        figure, axes = style.panels(len(panels), width=4.8, height=3.6, columns=2)
        for axis, ((dataset, norm), rows) in zip(axes, panels, strict=True):
            attacks = [name for name in rows["method"].unique() if name != f"any_of_{norm}"]
            shown = rows[rows["method"] == rows["method"].iloc[-1]]
            for _, curve in shown.groupby("run", sort=False):
                label = curve["label"].iloc[0]
                style.curve(axis, curve, label, labels.index(label))
            majority = shown["majority"].iloc[0]
            style.reference_line(axis, None if pd.isna(majority) else majority, "most frequent class")
            style.stretch(axis, np.unique(shown["strength"].to_numpy(float)))
            style.percent_axis(
                axis, "all labels right (%)" if "exact_match" in set(shown["metric"]) else "accuracy (%)"
            )
            axis.set_xlabel(style.RADIUS_AXES[norm])
            under = " and ".join(attacks).replace("_", " ")
            count = f"{int(shown['count'].iloc[0]):,} test images; bands: 95 % intervals"
            style.titles(axis, dataset, f"under {under}; {count}")
            axis.legend(fontsize=8.5)
        return style.save(figure, path)


def _labels(found: pd.DataFrame) -> pd.Series:
    """The model's name, or the run's path where runs of a data set share it."""
    alone = found.groupby(["dataset", "model"])["run"].transform("nunique") == 1
    return found["model"].where(alone, found["run"])
