"""Corruption errors of one model relative to another: mCE and relative mCE, balanced BE and rBE, with intervals.

    python -m experiments.corruption_errors runs/model --baseline=runs/baseline
    python -m experiments.corruption_errors runs/model --baseline=runs/baseline --output=errors.csv

The folders are those of two finished runs whose corruption stages saw the same images. What every image was decided as
is read; no model is. Where an image has several labels, it is wrong if one of them is. 1 is the baseline's level and
smaller is better, see `threats.corruptions.metrics`; the intervals are of a bootstrap over images, paired. The balanced
errors are of sets with one class per image. Exit codes as of `experiments.run`.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import flags

from experiments import commands
from experiments.settings import serial
from experiments.stages import corruption
from experiments.storage import folder, kept, records
from threats import corruptions, outcomes, statistics

_SCORES = {"mce": "mCE", "relative_mce": "relative mCE", "be": "BE", "rbe": "rBE"}
_MEAN = "mean"


class _Run(NamedTuple):
    """A folder's path as given, its identity, labels [n] or [n, k], and 1 where wrong: clean [n], corrupted [n, s]."""

    path: str
    identity: dict
    labels: np.ndarray
    clean: np.ndarray
    wrong: dict[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("baseline", None, "folder of the run that the errors are relative to", flag_values=values)
    flags.DEFINE_string("output", None, "CSV file to write", flag_values=values)

    def body(paths: list[str]) -> Iterator[str]:
        if len(paths) != 1 or values.baseline is None:
            raise ValueError("give the folders of two runs: runs/model --baseline=runs/baseline")
        found = errors(paths[0], values.baseline)
        if values.output:
            records.write(found, pathlib.Path(values.output))
        return _lines(found, paths[0], values.baseline)

    return commands.call("experiments.corruption_errors", __doc__, values, body, arguments)


def errors(model: str, baseline: str) -> pd.DataFrame:
    """The scores of one run relative to another's.

    Args:
      model, baseline: the folders.

    Returns:
      Columns `score` (mce, relative_mce, be, rbe), `corruption` (its name, or "mean" for the score itself), and value,
      low, high and count, the number of images.

    Raises:
      ValueError: a folder has no finished corruption stage, or they are of other images or strengths.
    """
    ours, theirs = _open(model), _open(baseline)
    # The seed says which of the test images were taken.
    differs = serial.difference(
        *({of: run.identity[of] for of in ("data", "corruption", "seed")} for run in (theirs, ours))
    )
    if differs:
        raise ValueError(f"{baseline} and {model} are of different images or strengths ({'; '.join(differs)})")
    scores = {"mce": corruptions.mean_corruption_error, "be": corruptions.balanced_error}
    rows = []
    for name, score in scores.items():
        of_class = (ours.labels,) if name == "be" else ()
        if of_class and ours.labels.ndim == 2:
            continue
        for prefix, clean in (("", None), ("r" if of_class else "relative_", (ours.clean, theirs.clean))):
            found = score(*of_class, ours.wrong, theirs.wrong, clean=clean)
            rows += [(prefix + name, _MEAN, *found.mean)]
            rows += [(prefix + name, each, *interval) for each, interval in found.each.items()]
    return pd.DataFrame(rows, columns=["score", "corruption", *statistics.Interval._fields])


def _open(path: str) -> _Run:
    files = folder.RunFolder(pathlib.Path(path))
    about = files.about()
    if folder.finished(files, "corruption") is None:
        raise ValueError(f"{path} has no finished corruption stage: add corruption to --stages")
    identity, task = about["identity"], about["data"]["task"]
    levels = identity["corruption"]["severities"]

    def part(name: str, severity: int) -> dict[str, np.ndarray]:
        again = f"remove {files.root / 'finished' / 'corruption.json'} and give the run's command again"
        return kept.read(corruption.part(files, name, severity), remedy=again)

    def wrong(name: str, severity: int) -> np.ndarray:
        found = part(name, severity)
        return 1.0 - np.asarray(outcomes.correct(found["logits"], found["labels"], task), np.float64)

    clean = corruption.CLEAN
    names = identity["corruption"]["corruptions"]
    by_name = {name: np.stack([wrong(name, level) for level in levels], axis=1) for name in names}
    return _Run(path, identity, part(clean, 0)["labels"], wrong(clean, 0), by_name)


def _lines(found: pd.DataFrame, model: str, baseline: str) -> Iterator[str]:
    yield f"model:    {model}"
    yield f"baseline: {baseline}, whose errors are 1; {int(found['count'].iloc[0]):,} images; 95 % intervals"
    yield ""
    scores = [name for name in _SCORES if name in set(found["score"])]
    table = [["", *(_SCORES[name] for name in scores)]]
    for name in [_MEAN, *(each for each in dict.fromkeys(found["corruption"]) if each != _MEAN)]:
        cells = (records.select(found, score=score, corruption=name).iloc[0] for score in scores)
        table.append([name, *map(_text, cells)])
    widths = [max(map(len, column)) + 2 for column in zip(*table, strict=True)]
    for line in table:
        yield "".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def _text(cell: pd.Series) -> str:
    if np.isfinite([cell["low"], cell["high"]]).all():
        return records.interval_text(cell["value"], cell["low"], cell["high"])
    return f"{records.interval_text(cell['value'], np.nan, np.nan)} [undefined]"


if __name__ == "__main__":
    sys.exit(main())
