"""Rows to figures: accuracy against the strength of each threat, with intervals.

Every figure is a function of rows, fault trials and gallery images that came from files, so that it can be drawn again
without a model. A figure whose rows are not there is not drawn.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.reporting import by_class, by_fill, campaign_plots, fault_plots, gallery, style
from experiments.storage import records
from threats import corruptions


class Material(NamedTuple):
    """What figures are drawn from.

    rows: columns `records.COLUMNS`. faults: one row per trial. majority: accuracy of always giving the most frequent
    class, or None. gallery: folder of the gallery's images.
    """

    rows: pd.DataFrame
    faults: pd.DataFrame
    majority: float | None
    gallery: pathlib.Path


def draw_all(material: Material, directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Draws every figure there are rows for.

    Returns:
      Name of the figure (a key of `FIGURES`) -> its PNG file.
    """
    drawn = {}
    for name, draw in FIGURES.items():
        with style.applied():
            figure = draw(material)
            if figure is not None:
                drawn[name] = style.save(figure, directory / f"{name}.png")
    return drawn


def training(material: Material):
    """Accuracy on training and validation images by epoch."""
    rows = records.select(material.rows, stage="train", metric="accuracy")
    if rows.empty:
        return None
    figure, (axis,) = style.panels(1)
    for number, split in enumerate(("train", "val")):
        part = records.select(rows, method=split)
        style.curve(axis, part, {"train": "training images, as augmented", "val": "validation images"}[split], number)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    style.percent_axis(axis, "accuracy (%)")
    style.titles(axis, "Training", style.subtitle(records.select(rows, method="val"), "validation images"))
    axis.legend(loc="lower right")
    return figure


def adversarial(material: Material):
    """Accuracy against the radius of the attack, a panel per norm."""
    rows = records.select(material.rows, stage="adversarial", metric="accuracy")
    norms = [norm for norm in ("linf", "l2") if norm in set(rows["threat"])]
    if not norms:
        return None
    figure, axes = style.panels(len(norms))
    for axis, norm in zip(axes, norms, strict=True):
        part = records.select(rows, threat=norm)
        # The worst of the attacks lies on top of the strongest one; the tables have it.
        _curves(axis, part[part["method"] != f"any_of_{norm}"], material.majority)
        style.stretch(axis, np.unique(part["strength"].to_numpy(float)))
        axis.set_xlabel(style.RADIUS_AXES[norm])
        style.titles(axis, f"Accuracy under attack, {'L-inf' if norm == 'linf' else 'L2'}", style.subtitle(part))
    return figure


def occlusion(material: Material):
    """Accuracy against the share of patches dropped, a panel for each fill where they are not just black."""
    label = "information loss (share of patches dropped)"
    rows = records.select(material.rows, stage="occlusion", metric="accuracy")
    fills = by_fill.split(rows)
    if not set(fills) - {"zero"}:
        return _by_strength(material, "occlusion", label)
    figure, axes = style.panels(len(fills), columns=2)
    for axis, (fill, part) in zip(axes, fills.items(), strict=True):
        _curves(axis, part, material.majority)
        axis.set_xlabel(label)
        axis.set_title(by_fill.TITLES[fill], pad=6)
    style.frame_titles(figure, "Accuracy under occlusion", style.subtitle(rows))
    return figure


def corruption(material: Material):
    """Accuracy against severity; of more corruptions than there are colours, a panel for each kind."""
    label = "severity (0: clean image)"
    rows = records.select(material.rows, stage="corruption", metric="accuracy")
    if rows["method"].nunique() <= style.COLOURS:
        return _by_strength(material, "corruption", label, whole=True)
    known = {name: entry.kind for name, entry in corruptions.CORRUPTIONS.items()}
    kinds = rows["method"].map(known).fillna("other")
    present = [kind for kind in (*corruptions.KINDS, "other") if (kinds == kind).any()]
    figure, axes = style.panels(len(present), columns=3)
    for axis, kind in zip(axes, present, strict=True):
        _curves(axis, rows[kinds == kind], material.majority)
        axis.set_xlabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(kind, pad=6)
    style.frame_titles(figure, "Accuracy under corruption", style.subtitle(rows))
    return figure


def _by_strength(material: Material, stage: str, label: str, *, whole: bool = False):
    rows = records.select(material.rows, stage=stage, metric="accuracy")
    if rows.empty:
        return None
    figure, (axis,) = style.panels(1)
    _curves(axis, rows, material.majority)
    axis.set_xlabel(label)
    axis.xaxis.get_major_locator().set_params(integer=whole)
    style.titles(axis, f"Accuracy under {stage}", style.subtitle(rows))
    return figure


def _curves(axis, rows: pd.DataFrame, majority: float | None) -> None:
    for number, (method, part) in enumerate(rows.groupby("method", sort=False)):
        style.curve(axis, part, method.replace("_", " "), number)
    style.reference_line(axis, majority, "most frequent class")
    style.percent_axis(axis, "accuracy (%)")
    axis.legend(fontsize=8.5)


FIGURES: dict[str, Callable[[Material], object]] = {
    "training": training,
    "adversarial": adversarial,
    "confusion": lambda material: by_class.confusion(material.rows),
    "occlusion": occlusion,
    "corruption": corruption,
    "fault_losses": lambda material: fault_plots.losses(material.faults),
    "fault_bits": lambda material: fault_plots.bits(material.faults),
    "fault_layers_weights": lambda material: fault_plots.layers(material.faults, "weights"),
    "fault_layers_activations": lambda material: fault_plots.layers(material.faults, "activations"),
    "fault_worst": lambda material: fault_plots.worst(material.rows, material.majority),
    "campaign_bits": lambda material: campaign_plots.bits(material.rows),
    "campaign_layers": lambda material: campaign_plots.layers(material.rows),
    "gallery": lambda material: gallery.draw(material.gallery),
}
