"""Compares two models under the same fault campaign: each one's figures, and the difference a - b with its interval.

    python -m experiments.compare runs/a runs/b
    python -m experiments.compare --output=difference.csv runs/a runs/b

The folders are those of two finished runs whose campaigns asked the same of the same images. Their rows and trials are
read; no model is. Where trial n of both hit the same bit, as in two models of one architecture, the difference is
paired, trial by trial; otherwise it is that of two independent samples, see `threats.campaigns.comparison`. Exit codes
as of `experiments.run`.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
from absl import flags

from experiments import commands
from experiments.settings import serial
from experiments.storage import folder, parts, records
from threats import campaigns, statistics
from threats.campaigns import comparison

METRICS = ("accuracy", "auc", "sdc", "critical_1", "critical_5", "critical_10", "nonfinite")
_CAMPAIGN = "campaign_"
_INTERVAL = ("value", "low", "high", "count")
_RESTS_ON = {
    "paired": "paired, trial by trial: the same faults hit both",
    "independent": "of two independent samples: the trials do not pair",
    "exhaustive": "exact: every fault of both was tried",
}


class _Run(NamedTuple):
    """A folder's path as given, its files, and by number format what identifies the campaign (`campaign.json`)."""

    path: str
    files: folder.RunFolder
    identities: dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "CSV file to write", flag_values=values)

    def body(paths: list[str]) -> Iterator[str]:
        if len(paths) != 2:
            raise ValueError(f"give the folders of two runs, runs/a runs/b, got {len(paths)}")
        found = compare(*paths)
        if values.output:
            records.write(found, pathlib.Path(values.output))
        return _lines(found, *paths)

    return commands.call("experiments.compare", __doc__, values, body, arguments)


def compare(a: str, b: str) -> pd.DataFrame:
    """The comparison of two runs' campaigns, a row for each number format that both have and each of `METRICS`.

    Args:
      a, b: the folders.

    Returns:
      Columns `number_format`, `metric`, `rests_on` (of `comparison.pairing`), `a_fault_free` and `b_fault_free`
      (accuracy), and value, low, high and count of each one's own figure (`a_value`, ...) and of a - b
      (`difference_value`, ...).

    Raises:
      ValueError: a folder has no campaign, or one that is not finished, or they are of other images or specs.
    """
    runs = _open(a), _open(b)
    both = [name for name in runs[0].identities if name in runs[1].identities]
    if not both:
        held = " and ".join(f"{run.path} has {', '.join(run.identities)}" for run in runs)
        raise ValueError(f"there is no number format in common: {held}")
    return pd.DataFrame([row for name in both for row in _rows(*runs, name)])


def _open(path: str) -> _Run:
    files = folder.RunFolder(pathlib.Path(path))
    files.about()  # refuses what is no run
    roots = sorted(files.fault_parts.glob(f"{_CAMPAIGN}*"))
    if not roots:
        raise ValueError(f"{path} holds no campaign: run it with --fault_modes=campaign")
    if folder.finished(files, "fault") is None:
        raise ValueError(f"the campaign in {path} is not finished: give its command again")
    return _Run(path, files, {root.name.removeprefix(_CAMPAIGN): parts.read_identity(root) for root in roots})


def _rows(a: _Run, b: _Run, number_format: str) -> Iterator[dict[str, Any]]:
    of_a, of_b = a.identities[number_format], b.identities[number_format]
    if of_a["data"] != of_b["data"]:
        raise ValueError(
            f"{a.path} and {b.path} are of different images (hash {of_a['data']} and {of_b['data']}): give both the "
            "same data, --fault_images and --seed"
        )
    differs = serial.difference(*({name: one[name] for name in ("task", "spec")} for one in (of_a, of_b)))
    if differs:
        raise ValueError(f"the campaigns of {a.path} and {b.path} are of different specs ({'; '.join(differs)})")
    spec = campaigns.CampaignSpec.parse(of_a["spec"])
    sides = [_side(run, number_format) for run in (a, b)]
    if comparison.may_pair(*sides, spec):
        sides = [_with_trials(side, run, number_format) for side, run in zip(sides, (a, b), strict=True)]
    about = {"rests_on": comparison.pairing(*sides, spec)}
    about |= {f"{name}_fault_free": side.accuracy for name, side in zip("ab", sides, strict=True)}
    for metric in (name for name in METRICS if name in sides[0].figures):
        found = {"a": sides[0].figures[metric], "b": sides[1].figures[metric]}
        found["difference"] = comparison.difference(*sides, metric, spec)
        intervals = {f"{name}_{of}": x for name, one in found.items() for of, x in zip(_INTERVAL, one, strict=True)}
        yield {"number_format": number_format, "metric": metric, **about, **intervals}


def _side(run: _Run, number_format: str) -> comparison.Side:
    rows = records.select(run.files.rows(), threat="campaign", method=number_format)
    intervals = rows[list(_INTERVAL)].itertuples(index=False, name=None)
    figures = {metric: statistics.Interval(*one) for metric, one in zip(rows["metric"], intervals, strict=True)}
    return comparison.Side(run.identities[number_format]["sites"], figures["clean_accuracy"].value, figures)


def _with_trials(side: comparison.Side, run: _Run, number_format: str) -> comparison.Side:
    """With the trials that its figures are of: other processes may have run more, after the last that counts."""
    root, count = run.files.fault_parts / f"{_CAMPAIGN}{number_format}", side.figures["accuracy"].count
    found = parts.read_all(root, parts.digest(run.identities[number_format]))
    found = campaigns.take(found, found.number < count)
    if found.count < count:
        raise ValueError(f"{root} has only {found.count:,} of the {count:,} trials that its run has reported")
    return side._replace(ran=found)


def _lines(found: pd.DataFrame, a: str, b: str) -> Iterator[str]:
    yield f"a: {a}"
    yield f"b: {b}"
    for number_format, rows in found.groupby("number_format", sort=False):
        first = rows.iloc[0]
        yield ""
        yield f"{number_format}: a - b is {_RESTS_ON[first['rests_on']]}"
        yield f"accuracy without a fault: a {first['a_fault_free']:.3f}, b {first['b_fault_free']:.3f}"
        yield _line("", "a", "b", "a - b")
        for row in rows.to_dict("records"):
            intervals = ([row[f"{name}_{of}"] for of in _INTERVAL] for name in ("a", "b", "difference"))
            yield _line(row["metric"], *(f"{records.interval_text(*x[:3])} ({x[3]:,})" for x in intervals))


def _line(name: str, *cells: str) -> str:
    return f"{name:13}" + "".join(f"{cell:32}" for cell in cells).rstrip()


if __name__ == "__main__":
    sys.exit(main())
