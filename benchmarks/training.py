"""Training steps: augmentation, forward and backward pass with dropped paths and batch statistics, AdamW.

The steps are those of `steps`, on one batch over and over.
"""

import functools
from collections.abc import Iterator

from benchmarks import figures, floors, setting, steps, timing

_NUM_CLASSES = 8


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Seconds per step and images per second of MedMamba-T at 28 px.

    The floor is that of the FLOPs alone, before XLA optimises: compiling to count takes as long as measuring.
    """
    sizes, batch = given.sizes, given.sizes.batch
    options = {**sizes.model, "num_classes": _NUM_CLASSES, "image_size": sizes.side_28, "patch_size": sizes.patch_28}
    given.say("training: compiling")
    flops = floors.flops(functools.partial(steps.of_method, options), *steps.arguments(options, batch), gradient=True)
    floor = flops / given.rates.flops
    seconds = given.compare(f"training, batch {batch}", {"auto": steps.Steps(options, batch)})
    step = timing.median(seconds["auto"])
    yield figures.Figure(name="training/medmamba_t_step", unit="s", interval=step, floor=floor)
    rate = timing.rate(step, batch)
    yield figures.Figure(name="training/medmamba_t", unit="images/s", interval=rate, floor=batch / floor)
