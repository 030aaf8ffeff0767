"""From the start of a process to its first finished training step: with nothing compiled before, and a second time.

Each pair of starts has a folder of its own for compiled programs (`JAX_COMPILATION_CACHE_DIR`), empty at the first.
The time includes Python's start and the imports, drawing the weights, and compiling (or reading) every program. Large
pages are off here: they speed up steps and slow down compiling.
"""

import tempfile
import time
from collections.abc import Iterator

import numpy as np

from benchmarks import children, figures, setting, timing


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Seconds to the first step of MedMamba-T at 28 px, cold and warm."""
    cold, warm = [], []
    for number in range(given.sizes.starts):
        given.say(f"startup: pair {number + 1} of {given.sizes.starts}")
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_start(given.sizes, cache))
            warm.append(_start(given.sizes, cache))
    yield figures.Figure(name="startup/first_step", unit="s", interval=timing.median(np.asarray(cold)))
    yield figures.Figure(
        name="startup/second_start_first_step",
        unit="s",
        interval=timing.median(np.asarray(warm)),
        other="first start",
        other_ratio=timing.ratio(np.asarray(cold), np.asarray(warm)),
    )


def _start(sizes: setting.Sizes, cache: str) -> float:
    options = {**sizes.model, "num_classes": 8, "image_size": sizes.side_28, "patch_size": sizes.patch_28}
    environment = {"JAX_COMPILATION_CACHE_DIR": cache, "GLIBC_TUNABLES": ""}
    begun = time.time()
    found = children.run("benchmarks.first_step", {"options": options, "batch": sizes.batch}, environment)
    return found["finished"] - begun
