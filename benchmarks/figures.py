"""One measured figure, its line of JSON, and the table of all of them.

    {"name": "model/medmamba_t_28_forward", "value": ..., "unit": "s", "low": ..., "high": ..., "count": ..., ...}

`floor` is the least that the machine's measured rates allow, in the figure's unit (for a rate the most);
`times_floor` says how far from it the figure is, 1 being at the limit.
"""

import dataclasses
import datetime
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks import timing
from experiments.reporting import tables
from experiments.storage import provenance
from threats import statistics

_HEADER = ("figure", "value", "unit", "95 % interval", "n", "floor", "times the floor", "other method, times as long")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured.

    Attributes:
      name: subject and figure, "scan/...".
      unit: "s", "ms", "GB", "x" (a ratio), or a rate such as "images/s".
      interval: median, its interval, and the number of samples.
      floor: the limit in the same unit, where one was worked out.
      other: the method that was measured beside this one in the same rounds.
      other_ratio: how many times as long that one takes.
    """

    name: str
    unit: str
    interval: statistics.Interval
    floor: float | None = None
    other: str | None = None
    other_ratio: statistics.Interval | None = None

    @property
    def times_floor(self) -> float | None:
        """How many times as long (or as much) as at the limit."""
        if not self.floor:
            return None
        return self.floor / self.interval.value if "/s" in self.unit else self.interval.value / self.floor


def json_line(figure: Figure, *, small: bool) -> str:
    """The figure as one line of JSON; a number that is not finite becomes null.

    Args:
      figure: what was measured.
      small: whether shapes were shrunk, so that the figure is no measurement of what its name says.
    """
    value, low, high, count = figure.interval
    line: dict[str, Any] = {"name": figure.name, "value": value, "unit": figure.unit}
    line |= {"low": low, "high": high, "count": count}
    if figure.floor is not None:
        line |= {"floor": figure.floor, "times_floor": figure.times_floor}
    if figure.other_ratio is not None:
        line |= {"other": figure.other, "other_ratio": figure.other_ratio.value}
        line |= {"other_ratio_low": figure.other_ratio.low, "other_ratio_high": figure.other_ratio.high}
    if small:
        line["small"] = True
    clean = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in line.items()}
    return json.dumps(clean, allow_nan=False)


def table(figures: Sequence[Figure], *, unmeasured: Sequence[str] = ()) -> str:
    """All figures as a Markdown table.

    Args:
      figures: a line each.
      unmeasured: names of columns for machines that are not at hand; every line says so.
    """
    lines = [[*_line(figure), *("not measured" for _ in unmeasured)] for figure in figures]
    return tables.markdown([*_HEADER, *unmeasured], lines)


def about(command: str) -> dict[str, Any]:
    """What the figures were measured on: device, versions, commit, date, and how busy the machine was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**provenance.describe([]), "command": command, "date": date, "load_average_at_start": load}


def write(folder: pathlib.Path, figures: Sequence[Figure], text: str, made: dict[str, Any], *, small: bool) -> None:
    """Writes `results.jsonl` (a line per figure), `results.md` (the table) and `machine.json` (see `about`)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json_line(figure, small=small)}\n" for figure in figures)
    (folder / "results.jsonl").write_text(lines, "utf-8")
    (folder / "results.md").write_text(f"{text}\n", "utf-8")
    (folder / "machine.json").write_text(f"{json.dumps(made, indent=2)}\n", "utf-8")


def page(title: str, figures: Sequence[Figure], made: dict[str, Any], *, notes: Sequence[str] = (), **columns) -> str:
    """The table under a title, the machine and the notes.

    Args:
      title: of the page.
      figures: a line each.
      made: see `about`.
      notes: paragraphs before the table.
      columns: as in `table`.
    """
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items() if version)
    machine = f"{made['device']}; Python {made['python']}; {versions}; commit {made['commit']}; {made['date']}."
    machine += "".join(f" {name}={value}." for name, value in made["environment"].items() if value)
    if made["load_average_at_start"] is not None:
        machine += f" Load average at the start: {made['load_average_at_start']:.2f}."
    return "\n\n".join([f"# {title}", f"`{made['command']}`", machine, *notes, table(figures, **columns)])


def _line(figure: Figure) -> list[str]:
    value, _, _, count = figure.interval
    floor = "-" if figure.floor is None else _number(figure.floor)
    times = "-" if figure.times_floor is None else f"{figure.times_floor:.3g}"
    other = "-"
    if figure.other_ratio is not None:
        other = f"{figure.other}: {_number(figure.other_ratio.value)} {_bounds(figure.other_ratio)}"
    return [figure.name, _number(value), figure.unit, _bounds(figure.interval), str(count), floor, times, other]


def _bounds(interval: statistics.Interval) -> str:
    if interval.count == 1:
        return "once"
    bounds = f"{_number(interval.low)}, {_number(interval.high)}"
    return f"[{bounds}]" if interval.count >= timing.SAMPLES_FOR_95 else f"range {bounds}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
