"""Compares models under attack: each one's robust accuracy, and the difference to the first, paired image by image.

    python -m experiments.compare_attacks runs/medmamba_n runs/resnet18 runs/vit_ti
    python -m experiments.compare_attacks --output=robust.csv --figure=robust.png runs/*

The folders are those of finished runs. Those of one data set must have attacked the same images in the same way; the
first of them is what the others are compared with, in the attacks and radii that both have. What became of every image
is read; no model is. An image is robust to an attack where the attack finds nothing, and to `any_of_linf` where no
attack of that norm does at that radius or a smaller one; this worst case is shown of those runs that chose the same
attacks and radii as the first. Exit codes as of `experiments.run`.
"""

import itertools
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
from experiments.storage import folder, kept, records
from threats import adversarial, outcomes, statistics

_BOUNDS = ("value", "low", "high")
_SETTINGS = ("pgd_steps", "restarts", "images")


class _Run(NamedTuple):
    """A run under attack.

    Attributes:
      path: the folder, as given.
      about: its `config.json`.
      robust: (norm, attack, radius) -> [n] bool.
      worst: norm -> what its worst case is over: attacks, and radii of which the smaller ones count for the larger.
    """

    path: str
    about: dict[str, Any]
    robust: dict[tuple[str, str, float], np.ndarray]
    worst: dict[str, tuple[list[str], list[float]]]

    @property
    def data(self) -> str:
        return self.about["data"]["name"]

    @property
    def asked(self) -> dict[str, Any]:
        """What decides which images were attacked and how hard; the seed says which of the test images were taken."""
        identity = self.about["identity"]
        return {
            "data": identity["data"]["content"],
            "seed": identity["seed"],
            **{name: identity["adversarial"][name] for name in _SETTINGS},
        }


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
    """Robust accuracy of every run under every attack and radius of it, and its difference to the first of its data.

    Args:
      paths: folders of two runs or more.

    Returns:
      Columns `dataset`, `run` (the folder), `model`, `norm`, `method`, `strength` (1/255 for L-inf), value, low, high
      and count with Wilson's interval, and `difference_value`, `_low` and `_high` with Newcombe's paired one, NaN where
      the first of the data set has no such attack or is the run itself.

    Raises:
      ValueError: fewer than two folders or one given twice, a folder has no finished attacks, or two of one data set
        were attacked on other images or otherwise.
    """
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise ValueError(f"give the folders of two runs or more, each once, got {' '.join(paths) or 'none'}")
    runs: dict[str, list[_Run]] = {}
    for path in paths:
        run = _open(path)
        runs.setdefault(run.data, []).append(run)
    return pd.DataFrame([row for of_data in runs.values() for row in _rows(of_data)])


def _open(path: str) -> _Run:
    files = folder.RunFolder(pathlib.Path(path))
    about = files.about()
    if folder.finished(files, "adversarial") is None:
        raise ValueError(f"{path} has no finished attacks: add adversarial to --stages")
    chosen, task = about["identity"]["adversarial"], about["data"]["task"]
    again = f"remove {files.root / 'finished' / 'adversarial.json'} and give the run's command again"
    clean = kept.read(stage.clean_part(files), remedy=again)
    right = np.asarray(outcomes.correct(clean["logits"], clean["labels"], task))
    robust, worst = {}, {}
    for norm, names in _by_norm(chosen["attacks"]).items():
        left, radii = right, sorted(chosen["epsilons" if norm == "linf" else "epsilons_l2"])
        for name, epsilon in itertools.product(names, radii):
            robust[norm, name, epsilon] = right
            if epsilon > 0:
                found = kept.read(stage.part(files, norm, name, epsilon), remedy=again)
                robust[norm, name, epsilon] = ~found["success"]
        if len(names) > 1:
            worst[norm] = names, radii
            for epsilon in radii:
                left = np.all([left, *(robust[norm, name, epsilon] for name in names)], axis=0)
                robust[norm, f"any_of_{norm}", epsilon] = left
    return _Run(path, about, robust, worst)


def _by_norm(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(adversarial.ATTACKS[name].norm, []).append(name)
    return found


def _rows(runs: list[_Run]) -> Iterator[dict[str, Any]]:
    first = runs[0]
    for run in runs:
        if differs := serial.difference(first.asked, run.asked):
            raise ValueError(f"{first.path} and {run.path} were not attacked alike ({'; '.join(differs)})")
        for key, robust in run.robust.items():
            norm, method, epsilon = key
            if method == f"any_of_{norm}" and run.worst[norm] != first.worst.get(norm):
                continue
            apart = statistics.Interval(np.nan, np.nan, np.nan, 0)
            if run is not first and key in first.robust:
                apart = statistics.newcombe(robust, first.robust[key])
            about = {"dataset": run.data, "run": run.path, "model": run.about["data"]["model"]["name"]}
            about |= {"norm": norm, "method": method, "strength": epsilon}
            about |= statistics.wilson(int(robust.sum()), robust.size)._asdict()
            yield about | {f"difference_{name}": getattr(apart, name) for name in _BOUNDS}


def _lines(found: pd.DataFrame) -> Iterator[str]:
    for dataset, of_data in found.groupby("dataset", sort=False):
        yield f"{dataset}: robust accuracy (%) with 95 % intervals, {int(of_data['count'].iloc[0]):,} test images"
        first = of_data["run"].iloc[0]
        yield f"in the lines below each model, its difference to {first} in points, paired image by image"
        for (norm, method), rows in of_data.groupby(["norm", "method"], sort=False):
            radii = sorted(rows["strength"].unique())
            unit = "/255" if norm == "linf" else ""
            table = [[f"{method} ({norm})", *(f"{radius:g}{unit if radius else ''}" for radius in radii)]]
            for run, of_run in rows.groupby("run", sort=False):
                by_radius = of_run.set_index("strength").reindex(radii)
                table.append([run, *(_text(cell, "") for _, cell in by_radius.iterrows())])
                if run != first:
                    table.append(["  difference", *(_text(cell, "difference_") for _, cell in by_radius.iterrows())])
            widths = [max(map(len, column)) + 2 for column in itertools.zip_longest(*table, fillvalue="")]
            yield ""
            for line in table:
                yield "".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        yield ""


def _text(cell: pd.Series, prefix: str) -> str:
    value, low, high = (cell[f"{prefix}{name}"] for name in _BOUNDS)
    return "-" if np.isnan(value) else records.interval_text(value, low, high, percent=True)


if __name__ == "__main__":
    sys.exit(main())
