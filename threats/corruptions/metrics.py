"""One score for a model over all corruptions, relative to a baseline model: mCE and its balanced form, with intervals.

    CE_c = sum_s E_{s,c} / sum_s E'_{s,c}                        mCE = mean_c CE_c
    relative CE_c = sum_s (E_{s,c} - E_0) / sum_s (E'_{s,c} - E'_0)

E is the error of the model at severity s of corruption c, E_0 its error on clean images, E' the baseline's.
ImageNet-C's mCE takes the share of wrong images for E and AlexNet for the baseline; MedMNIST-C's BE and rBE take 1
minus the balanced accuracy. 1 is the baseline's level and smaller is better. Both were published in percent of the
baseline.

A relative error divides by what the baseline loses: where that is little beside its noise, the ratio says nothing, and
its interval shows it.

Intervals are of a bootstrap over images: one resample serves every corruption and severity, as all of them show the
same images. A baseline known by its published errors alone is taken as exact; given image by image it is resampled too,
in pairs.

References: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019, section 4.1; Di Salvo, Doerrich and Ledig, "MedMNIST-C: Comprehensive benchmark and improved classifier
robustness by simulating realistic image corruptions", 2024.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy import typing as npt

from threats import statistics


class CorruptionErrors(NamedTuple):
    """Errors relative to a baseline's.

    Attributes:
      mean: over the corruptions: mCE, relative mCE, BE or rBE.
      each: name of the corruption -> its own.
    """

    mean: statistics.Interval
    each: dict[str, statistics.Interval]


def mean_corruption_error(
    wrong: Mapping[str, npt.ArrayLike],
    baseline: Mapping[str, npt.ArrayLike],
    *,
    clean: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    seed: int = 0,
    replicates: int = 1000,
    confidence: float = 0.95,
) -> CorruptionErrors:
    """mCE, or with `clean` the relative mCE, of a model.

    Args:
      wrong: corruption -> [n, s], 1 where the model is wrong on the image at the severity and 0 where not; the same n
        images everywhere.
      baseline: corruption -> errors of the baseline in [0, 1]: [s] by severity, a scalar that is their mean, or [n, s]
        image by image as in `wrong`. It may know more corruptions.
      clean: for the relative error, what the model and the baseline do on clean images: [n] wrong or not, and [n] or a
        scalar error.
      seed: of the bootstrap.
      replicates: resamples, >= 1.
      confidence: in (0, 1).

    Raises:
      ValueError: shapes do not fit together, a corruption is missing in `baseline`, or an option is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, section 4.1.
    """
    options = {"seed": seed, "replicates": replicates, "confidence": confidence}
    return _relative(lambda wrong, labels: wrong.mean(axis=0), wrong, baseline, None, clean, options)


def balanced_error(
    labels: npt.ArrayLike,
    wrong: Mapping[str, npt.ArrayLike],
    baseline: Mapping[str, npt.ArrayLike],
    *,
    clean: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    seed: int = 0,
    replicates: int = 1000,
    confidence: float = 0.95,
) -> CorruptionErrors:
    """BE, or with `clean` the relative BE (rBE), of a model: as mCE, each class counting the same.

    Args:
      labels: [n] true classes. A class that a resample misses does not count in it.
      wrong: as in `mean_corruption_error`.
      baseline: as there; numbers are balanced errors.
      clean: as there.
      seed: of the bootstrap.
      replicates: resamples, >= 1.
      confidence: in (0, 1).

    Raises:
      ValueError: as `mean_corruption_error` does.

    Reference: Di Salvo, Doerrich and Ledig, 2024.
    """
    options = {"seed": seed, "replicates": replicates, "confidence": confidence}
    return _relative(_by_class, wrong, baseline, np.asarray(labels), clean, options)


def _relative(
    error: Callable[..., np.ndarray],
    wrong: Mapping[str, npt.ArrayLike],
    baseline: Mapping[str, npt.ArrayLike],
    labels: np.ndarray | None,
    clean: tuple[npt.ArrayLike, npt.ArrayLike] | None,
    options: dict[str, float],
) -> CorruptionErrors:
    if not wrong:
        raise ValueError("wrong must name at least one corruption")
    missing = sorted(set(wrong) - set(baseline))
    if missing:
        raise ValueError(f"baseline must have every corruption of wrong, {missing[0]} is missing")
    names = list(wrong)
    ours = np.stack([_by_image(name, wrong[name]) for name in names], axis=1)
    count, severities = len(ours), ours.shape[2]
    theirs = np.stack([_filled(name, baseline[name], (count, severities)) for name in names], axis=1)
    # The clean errors are one more column, which is zero where the plain ratio is asked for.
    clean_ours, clean_theirs = (0.0, 0.0) if clean is None else clean
    columns = [_filled("clean", side, (count,))[:, None] for side in (clean_ours, clean_theirs)]
    labels = np.zeros(count, int) if labels is None else labels
    if labels.shape != (count,):
        raise ValueError(f"labels must be [{count}], one for each image, got shape {labels.shape}")
    rows = np.concatenate([*(part.mean(axis=2) for part in (ours, theirs)), *columns], axis=1)

    def mean_ratio(rows: np.ndarray, labels: np.ndarray) -> float:
        found = error(rows, labels)
        half = len(found) // 2 - 1
        mine, other, (mine_clean, other_clean) = found[:half], found[half:-2], found[-2:]
        lost = other - other_clean
        # Sums of shares that are equal differ by rounding.
        return np.mean((mine - mine_clean) / np.where(np.abs(lost) < 1e-12, 0.0, lost))

    def interval(columns: list[int]) -> statistics.Interval:
        # A baseline without an error: the ratio is infinite.
        with np.errstate(divide="ignore", invalid="ignore"):
            return statistics.bootstrap(mean_ratio, rows[:, columns], labels, **options)

    last = [2 * len(names), 2 * len(names) + 1]
    each = {name: interval([place, len(names) + place, *last]) for place, name in enumerate(names)}
    return CorruptionErrors(interval(list(range(rows.shape[1]))), each)


def _by_class(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Column means of [n, m], each class counting the same."""
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1 / counts[places]
    return weights @ rows / len(counts)


def _by_image(name: str, values: npt.ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"wrong must be [n, s] for every corruption, got shape {values.shape} for {name}")
    return values


def _filled(name: str, values: npt.ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """A scalar, one number per severity, or one per image, as an array of the shape."""
    try:
        return np.broadcast_to(np.asarray(values, np.float64), shape)
    except ValueError as error:
        raise ValueError(f"baseline must fit shape {shape}, got {np.shape(values)} for {name}") from error
