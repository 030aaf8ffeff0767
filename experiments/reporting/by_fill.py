"""Occlusion fill by fill: what takes the place of dropped patches, apart from the order in which they are dropped."""

import pandas as pd

TITLES = {
    "zero": "filled with black",
    "mean": "filled with the image's mean",
    "blur": "filled with the blurred image",
    "noise": "filled with noise",
}
EXPLANATION = (
    "The mean is that of the image's channel over all its pixels; the blur is a Gaussian one of the whole image, of a "
    "standard deviation of an eighth of its side; noise is uniform, drawn for every pixel and channel. Where the order "
    "of patches or the fill is random, the accuracy is a mean over draws."
)


def split(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name of the fill -> its rows, with the mode alone as method.

    Args:
      rows: of the occlusion stage, whose methods are `random` (black) or `random/mean`.
    """
    names = [method.partition("/") for method in rows["method"]]
    rows = rows.assign(method=[mode for mode, _, _ in names])
    fills = pd.Series([fill or "zero" for _, _, fill in names], index=rows.index, dtype=object)
    return {fill: rows[fills == fill] for fill in dict.fromkeys(fills)}
