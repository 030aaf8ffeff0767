"""Fault trials as rows of `faults.csv`: one row per trial, with every flipped bit of it, and what they add up to.

A trial that flips several bits lists them with semicolons, in the same order in each of its columns; `flips` says how
many they are. Trials run in chunks that are kept as they finish, so that a campaign which is stopped goes on where it
was.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from experiments.stages import context
from experiments.storage import records
from threats import faults, statistics

# A trial is critical if it loses more than so many points of accuracy.
CRITICAL_POINTS = (1, 5, 10)


class Campaign(NamedTuple):
    """Trials of one kind.

    target, mode, drawing: as in the rows. flips: bits of each trial (of the worst case: of the longest). faults: slots
    [t, k], k >= flips.
    """

    target: str
    mode: str
    drawing: str
    flips: int
    faults: faults.Faults

    @property
    def name(self) -> str:
        return f"{self.target}_{self.mode}_{self.drawing}_{self.flips}"


class Bench(NamedTuple):
    """What every trial of one target needs.

    apply, variables: the model. images, labels: of the test images. logits: of the fault-free model. table: where bits
    may flip. width: slots of a trial, so that all campaigns share compiled programs. run: `faults -> TrialResult`.
    chunk: trials per call and file.
    """

    apply: Any
    variables: Any
    images: jax.Array
    labels: jax.Array
    logits: np.ndarray
    table: faults.SiteTable
    width: int
    run: Any
    chunk: int


def run_in_chunks(
    campaign: Campaign,
    run: Callable[[faults.Faults], faults.TrialResult],
    table: faults.SiteTable,
    *,
    common: dict[str, object],
    parts: pathlib.Path,
    chunk: int,
    advance: Callable[[int], object],
) -> pd.DataFrame:
    """Runs the trials of a campaign, or reads those that an earlier call has finished.

    Args:
      campaign: the trials.
      run: `faults [t, k] -> TrialResult`.
      table: the sites that the faults point into.
      common: columns that are the same in every row.
      parts: folder of the finished chunks.
      chunk: trials per call and file.
      advance: told how many trials have been done.

    Returns:
      Rows with the columns `records.TRIAL_COLUMNS`.
    """
    parts.mkdir(parents=True, exist_ok=True)
    count = campaign.faults.site.shape[0]
    frames = []
    for start in range(0, count, chunk):
        path = parts / f"{campaign.name}_{start}_{chunk}.csv"
        if not path.is_file():
            slots = jax.tree.map(lambda leaf, start=start: leaf[start : start + chunk], campaign.faults)
            records.write(rows(campaign, slots, run(slots), table, first=start, common=common), path)
        frames.append(records.read_trials(path))
        advance(min(chunk, count - start))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(records.TRIAL_COLUMNS))


def rows(
    campaign: Campaign,
    slots: faults.Faults,
    result: faults.TrialResult,
    table: faults.SiteTable,
    *,
    first: int,
    common: dict[str, object],
) -> pd.DataFrame:
    """The rows of some trials of a campaign.

    Args:
      campaign: that they belong to.
      slots: their faults [t, k].
      result: their outcomes [t].
      table: the sites that the faults point into.
      first: number of the first trial.
      common: columns that are the same in every row.
    """
    slots, result = jax.tree.map(np.asarray, (slots, result))
    kind = {"target": campaign.target, "mode": campaign.mode, "drawing": campaign.drawing}
    outcomes = {name: getattr(result, name) for name in ("accuracy", "sdc", "nonfinite")}
    made = []
    for trial in range(len(slots.site)):
        used = slots.site[trial] >= 0
        sites = [table[site] for site in slots.site[trial][used]]
        bits = slots.bit[trial][used]
        where = {
            "layer": _join(site.layer for site in sites),
            "path": _join(site.path for site in sites),
            "element": _join(slots.element[trial][used]),
            "bit": _join(bits),
            "field": _join(faults.field_of(int(bit), site.dtype) for bit, site in zip(bits, sites, strict=True)),
            "value_before": _join(result.before[trial][used]),
            "value_after": _join(result.after[trial][used]),
        }
        found = {name: float(values[trial]) for name, values in outcomes.items()}
        made.append({**common, **kind, "flips": int(used.sum()), "trial": first + trial, **where, **found})
    return pd.DataFrame(made, columns=list(records.TRIAL_COLUMNS))


def common(ctx: context.Context, accuracy_before: float, images: int) -> dict[str, object]:
    """The columns that are the same in every trial of a run."""
    names = {"dataset": ctx.dataset.name, "model": ctx.model.name, "seed": ctx.config.seed}
    return {**names, "images": images, "accuracy_before": accuracy_before}


def summarise(frame: pd.DataFrame) -> dict[str, statistics.Interval]:
    """What the trials of one campaign add up to: means over trials, and shares of trials that are critical."""
    before = float(frame["accuracy_before"].iloc[0])
    lost = before - frame["accuracy"].to_numpy(float)
    found = {name: statistics.bounded_mean(frame[name].to_numpy(float)) for name in ("accuracy", "sdc", "nonfinite")}
    found["accuracy_loss"] = statistics.bounded_mean(lost, bounds=(before - 1.0, before))
    for points in CRITICAL_POINTS:
        # Half an image above the limit in float32 is not above it.
        found[f"critical_{points}"] = statistics.wilson(int((lost > points / 100 + 1e-6).sum()), len(lost))
    return found


def _join(values) -> str:
    return ";".join(str(value) for value in values)
