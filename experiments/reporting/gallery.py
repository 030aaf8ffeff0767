"""A gallery of the same few test images: clean, attacked, corrupted, occluded, with what the model says of each.

Stages leave their columns as small files (`save`), and the figure is drawn from those alone.
"""

import pathlib

import numpy as np

from experiments.reporting import style
from experiments.storage import folder as run_folder

COUNT = 6


def save(
    directory: pathlib.Path,
    stage: str,
    columns: dict[str, tuple[np.ndarray, np.ndarray]],
    names: tuple[str, ...],
    labels: np.ndarray,
) -> None:
    """Keeps a stage's columns of the gallery.

    Args:
      directory: the gallery's folder.
      stage: its name, which names the file.
      columns: title -> (images [m, h, w, c] in [0, 1], decisions [m] int, -1 where the output is not finite); in
        multi-label [m, k].
      names: of the classes.
      labels: [m] or [m, k], the truth.
    """
    run_folder.write_arrays(
        directory / f"{stage}.npz",
        titles=np.array(list(columns)),
        images=np.stack([np.round(255 * np.asarray(images)).astype(np.uint8) for images, _ in columns.values()]),
        answers=np.array([[_words(answer, names) for answer in answers] for _, answers in columns.values()]),
        right=np.array(
            [[bool(np.all(a == b)) for a, b in zip(answers, labels, strict=True)] for _, answers in columns.values()]
        ),
        truth=np.array([_words(label, names) for label in labels]),
    )


def draw(directory: pathlib.Path):
    """One row per image and one column per disturbance; None where no stage left images."""
    parts = [np.load(directory / f"{stage}.npz") for stage in _ORDER if (directory / f"{stage}.npz").is_file()]
    if not parts:
        return None
    columns = [
        column
        for part in parts
        for column in zip(part["titles"], part["images"], part["answers"], part["right"], strict=True)
    ]
    truth = parts[0]["truth"]
    figure, axes = style.grid(len(truth), len(columns), side=1.35)
    for axis_column, (title, images, answers, right) in zip(axes.T, columns, strict=True):
        axis_column[0].set_title(title, fontsize=8, fontweight="normal", loc="center", pad=4)
        for axis, image, answer, is_right in zip(axis_column, images, answers, right, strict=True):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_xlabel(answer, fontsize=7.5, color="#1b7837" if is_right else "#b2182b", labelpad=2)
    for axis, name in zip(axes[:, 0], truth, strict=True):
        axis.set_ylabel(name, fontsize=8)
    figure.suptitle("Test images (truth at the left) and what the model says: green right, red wrong", fontsize=10)
    return figure


def pick(labels: np.ndarray, count: int = COUNT) -> np.ndarray:
    """Places of `count` images, of as many classes as there are: the first of each class, then the second, ..."""
    groups = labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    turn = np.empty(len(groups), int)
    for group in np.unique(groups):
        turn[groups == group] = np.arange((groups == group).sum())
    return np.lexsort((groups, turn))[:count]


_ORDER = ("clean", "adversarial", "occlusion", "corruption")


def _words(decision: np.ndarray, names: tuple[str, ...]) -> str:
    if np.ndim(decision) == 0:
        return names[int(decision)] if decision >= 0 else "not finite"
    if np.any(decision < 0):
        return "not finite"
    present = [name for name, here in zip(names, decision, strict=True) if here]
    return ", ".join(present[:2]) + (" ..." if len(present) > 2 else "") if present else "none"
