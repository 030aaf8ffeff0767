"""Training steps: augmentation, forward and backward pass with dropped paths and batch statistics, AdamW.

The steps are those of `steps`, on one batch over and over.
"""

import functools
from collections.abc import Iterator

from benchmarks import figures, floors, setting, steps, timing

_NUM_CLASSES = 8


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Seconds per step and images per second of the nano model and of MedMamba-T at 28 px."""
    sizes = given.sizes
    for name, chosen, batch, other in (
        ("medmamba_n", sizes.model_n, sizes.train_batch_n, "associative"),
        ("medmamba_t", sizes.model, sizes.batch, None),
    ):
        options = {**chosen, "num_classes": _NUM_CLASSES, "image_size": sizes.side_28, "patch_size": sizes.patch_28}
        given.say(f"training, {name}: compiling")
        work = floors.without_scan(
            functools.partial(steps.of_method, options), *steps.arguments(options, batch), gradient=True
        ).work
        methods = ("auto", other) if other else ("auto",)
        compared = {method: steps.Steps({**options, "scan_method": method}, batch) for method in methods}
        seconds = given.compare(f"training, {name}, batch {batch}", compared)
        step = timing.median(seconds["auto"])
        against = {"other": other, "other_ratio": timing.ratio(seconds[other], seconds["auto"])} if other else {}
        floor = work.seconds(given.rates)
        yield figures.Figure(name=f"training/{name}_step", unit="s", interval=step, floor=floor, **against)
        yield figures.Figure(
            name=f"training/{name}", unit="images/s", interval=timing.rate(step, batch), floor=batch / floor
        )
