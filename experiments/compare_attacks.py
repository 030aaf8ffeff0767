"""Compares models under attack: each one's robust accuracy, and the difference to the first, paired image by image.

    python -m experiments.compare_attacks runs/medmamba_n runs/resnet18 runs/vit_ti
    python -m experiments.compare_attacks --output=robust.csv --figure=robust.png runs/*

The folders are those of finished runs. Those of one data set, two or more, must have attacked the same images in the
same way; they are compared with the first of them, in the attacks and radii that all of them have. What became of every
image is read; no model is. An image is robust to an attack where the attack finds nothing, and to `any_of_linf` where
none of these attacks does at that radius or a smaller one. In multi-label an image is right where all of its labels
are. The intervals are of single figures, and of these models on other images: they do not allow for how many are looked
at, nor for another training. Exit codes as of `experiments.run`.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from absl import flags

from experiments import commands
from experiments.reporting import robust_curves
from experiments.settings import serial
from experiments.stages import adversarial as stage
from experiments.storage import fingerprint, folder, kept, records
from threats import adversarial, outcomes, statistics

_BOUNDS = ("value", "low", "high")
_WHAT = {"accuracy": "robust accuracy", "exact_match": "images of which all labels stay right"}


class _Run(NamedTuple):
    """A run under attack: its folder's path as given, its files, `config.json`, and the arrays of its clean images."""

    path: str
    files: folder.RunFolder
    about: dict[str, Any]
    clean: dict[str, np.ndarray]

    @property
    def chosen(self) -> dict[str, Any]:
        return self.about["identity"]["adversarial"]

    @property
    def task(self) -> str:
        return self.about["data"]["task"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "CSV file to write", flag_values=values)
    flags.DEFINE_string("figure", None, "PNG file to draw, a panel for each data set and norm", flag_values=values)

    def body(paths: list[str]) -> Iterator[str]:
        if values.figure and pathlib.Path(values.figure).suffix != ".png":
            raise ValueError(f"figure must end in .png, got {values.figure}")
        found = compare(paths)
        if values.output:
            records.write(found, pathlib.Path(values.output))
        if values.figure:
            robust_curves.draw(found, pathlib.Path(values.figure))
        return _lines(found)

    return commands.call("experiments.compare_attacks", __doc__, values, body, arguments)


def compare(paths: Sequence[str]) -> pd.DataFrame:
    """Robust accuracy of every run under the attacks that all of its data set have, and its difference to the first.

    Args:
      paths: folders, of each data set two or more.

    Returns:
      Columns `dataset`, `run` (the folder), `model`, `majority` (accuracy of always giving the most frequent class, NaN
      where there is no such class), `metric` (accuracy or exact_match), `norm`, `method` (an attack, or any_of_linf and
      any_of_l2 over several), `strength` (1/255 for L-inf), value, low, high and count with Wilson's interval, and
      `difference_value`, `_low` and `_high` with Newcombe's paired one, NaN for the first run.

    Raises:
      ValueError: a folder is given twice, has no finished attacks or is the only one of its data set, or those of a
        data set were attacked on other images or otherwise, or have no attack and radius in common.
    """
    if not paths or len({pathlib.Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"give the folders of two runs or more, each once, got {' '.join(paths) or 'none'}")
    runs: dict[str, list[_Run]] = {}
    for path in paths:
        run = _open(path)
        runs.setdefault(run.about["data"]["name"], []).append(run)
    return pd.DataFrame([row for of_data in runs.values() for row in _rows(of_data)])


def _open(path: str) -> _Run:
    files = folder.RunFolder(pathlib.Path(path))
    about = files.about()
    if folder.finished(files, "adversarial") is None:
        raise ValueError(f"{path} has no finished attacks: add adversarial to --stages")
    return _Run(path, files, about, kept.read(stage.clean_part(files), remedy=_again(files)))


def _again(files: folder.RunFolder) -> str:
    return f"remove {files.root / 'finished' / 'adversarial.json'} and give the run's command again"


def _rows(runs: list[_Run]) -> Iterator[dict[str, Any]]:
    first, dataset = runs[0], runs[0].about["data"]["name"]
    if len(runs) == 1:
        raise ValueError(f"{first.path} is the only run on {dataset}: give another one, or leave it out")
    shared = _shared(runs)
    for run in runs[1:]:
        differs = serial.difference(*(_asked(one, [name for name, _, _ in shared]) for one in (first, run)))
        if differs:
            raise ValueError(f"{first.path} and {run.path} were not attacked alike ({'; '.join(differs)})")
    robust = [_robust(run, shared) for run in runs]
    for run, own in zip(runs, robust, strict=True):
        data = run.about["data"]
        about = {"dataset": dataset, "run": run.path, "model": data["model"]["name"], "majority": data["majority"]}
        about["metric"] = stage.per_image(run.task)
        for key, of_images in own.items():
            row = about | dict(zip(("norm", "method", "strength"), key, strict=True))
            row |= statistics.wilson(int(of_images.sum()), of_images.size)._asdict()
            apart = (np.nan,) * 3 if run is first else statistics.paired_proportions(of_images, robust[0][key])
            yield row | {f"difference_{name}": bound for name, bound in zip(_BOUNDS, apart[:3], strict=True)}


def _shared(runs: list[_Run]) -> list[tuple[str, str, list[float]]]:
    """Name, norm and radii of the attacks that all of the runs have."""
    found = []
    for name in runs[0].chosen["attacks"]:
        norm = adversarial.get_attack(name).norm
        radii = set.intersection(*(set(run.chosen[stage.RADII[norm]]) for run in runs))
        if radii and all(name in run.chosen["attacks"] for run in runs):
            found.append((name, norm, sorted(radii)))
    if not found:
        have = "; ".join(f"{run.path} has {', '.join(run.chosen['attacks'])}" for run in runs)
        raise ValueError(f"there is no attack and radius in common: {have}")
    return found


def _asked(run: _Run, attacks: list[str]) -> dict[str, Any]:
    """What decides which images these attacks were given, and how hard they tried."""
    entries = [adversarial.get_attack(name) for name in attacks]
    labels = fingerprint.of_arrays([run.clean["labels"]])
    asked = {"task": run.task, "images": str(run.clean["images"]), "labels": labels}
    if any(entry.iterative for entry in entries):
        asked["pgd_steps"] = run.chosen["pgd_steps"]
    if any(entry.iterative and entry.random for entry in entries):
        asked["restarts"] = run.chosen["restarts"]
    return asked


def _robust(run: _Run, shared: list[tuple[str, str, list[float]]]) -> dict[tuple[str, str, float], np.ndarray]:
    """(norm, attack, radius) -> [n] bool; the worst case over the attacks of a norm behind these."""
    right = np.asarray(outcomes.correct(run.clean["logits"], run.clean["labels"], run.task))
    robust = {}
    for name, norm, radii in shared:
        for radius in radii:
            robust[norm, name, radius] = right
            if radius > 0:
                found = kept.read(stage.part(run.files, norm, name, radius), remedy=_again(run.files))
                robust[norm, name, radius] = ~found["success"]
    for norm in dict.fromkeys(norm for _, norm, _ in shared):
        of_norm = [(name, radii) for name, other, radii in shared if other == norm]
        left = right
        for radius in of_norm[0][1] if len(of_norm) > 1 else ():
            left = np.all([left, *(robust[norm, name, radius] for name, _ in of_norm)], axis=0)
            robust[norm, f"any_of_{norm}", radius] = left
    return robust


def _lines(found: pd.DataFrame) -> Iterator[str]:
    for dataset, of_data in found.groupby("dataset", sort=False):
        first, what = of_data["run"].iloc[0], _WHAT[of_data["metric"].iloc[0]]
        yield f"{dataset}: {what} (%) with 95 % intervals, {int(of_data['count'].iloc[0]):,} test images"
        yield f"below each run its difference to {first} in points, paired image by image"
        for (norm, method), rows in of_data.groupby(["norm", "method"], sort=False):
            yield ""
            yield from _table(f"{method} ({norm})", rows, first, "/255" if norm == "linf" else "")
        yield ""


def _table(title: str, rows: pd.DataFrame, first: str, unit: str) -> Iterator[str]:
    radii = sorted(rows["strength"].unique())
    table = [[title, *(f"{radius:g}{unit if radius else ''}" for radius in radii)]]
    for run, of_run in rows.groupby("run", sort=False):
        cells = [cell for _, cell in of_run.sort_values("strength").iterrows()]
        table.append([run, *(_text(cell, "") for cell in cells)])
        if run != first:
            table.append(["  difference", *(_text(cell, "difference_") for cell in cells)])
    widths = [max(map(len, column)) + 2 for column in zip(*table, strict=True)]
    for line in table:
        yield "".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def _text(cell: pd.Series, prefix: str) -> str:
    return records.interval_text(*(cell[f"{prefix}{name}"] for name in _BOUNDS), percent=True)


if __name__ == "__main__":
    sys.exit(main())
