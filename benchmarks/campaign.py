"""Fault trials per second: one bit of the weights flipped, every image evaluated, next trial.

    python -m benchmarks.campaign          # the nano model and MedMamba-T, 4 to 6 minutes on 2 cores

Trials that evaluate only what their fault can change (`threats.faults.reuse`) against the whole model for each, in turn
in one process per model, which also says how much memory it held at most. The suite measures the nano model alone.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks import children, figures, setting, timing
from threats import statistics

_NUM_CLASSES = 8


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """The nano model; its figures other than the rate end with `_n`."""
    yield from _figures(given, "medmamba_n", given.sizes.model_n, given.sizes.campaign_trials_n, "_n")


def run_t(given: setting.Setting) -> Iterator[figures.Figure]:
    """MedMamba-T."""
    yield from _figures(given, "medmamba_t", given.sizes.model, given.sizes.campaign_trials_t, "")


def _figures(
    given: setting.Setting, name: str, model: Mapping[str, Any], trials: tuple[int, int], suffix: str
) -> Iterator[figures.Figure]:
    sizes = given.sizes
    given.say(f"campaign, {name}: {sizes.campaign_rounds} rounds of {trials[0]} trials with reuse, {trials[1]} without")
    options = {**model, "num_classes": _NUM_CLASSES, "image_size": sizes.side_28, "patch_size": sizes.patch_28}
    arguments = {"options": options, "images": sizes.campaign_images, "rounds": sizes.campaign_rounds}
    found = children.run("benchmarks.trials", {**arguments, "trials": trials[0], "whole_trials": trials[1]})
    reuse, whole = np.asarray(found["reuse"]), np.asarray(found["whole"])
    gain = timing.ratio(whole, reuse)
    yield figures.Figure(
        name=f"campaign/trials_per_s_{name}",
        unit="trials/s",
        interval=timing.rate(timing.median(reuse), 1),
        other="whole model",
        other_ratio=gain,
    )
    yield figures.Figure(name=f"campaign/prefix_reuse_speedup{suffix}", unit="x", interval=gain)
    yield _once(f"campaign/compiling{suffix}", "s", found["compiling"])
    yield _once(f"campaign/peak_memory{suffix}", "GB", found["peak"] / 1e9)


def _once(name: str, unit: str, value: float) -> figures.Figure:
    return figures.Figure(name=name, unit=unit, interval=statistics.Interval(value, value, value, 1))


if __name__ == "__main__":
    from benchmarks import suite

    sys.exit(suite.main(["--only=campaign,campaign_t", *sys.argv[1:]]))
