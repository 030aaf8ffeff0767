"""Training steps: augmentation, forward and backward pass with dropped paths and batch statistics, AdamW.

The steps are those of `steps`, on one batch over and over.
"""

import functools
from collections.abc import Iterator

from benchmarks import figures, floors, setting, steps, timing

_NUM_CLASSES = 8


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Seconds per step and images per second of the nano model and of MedMamba-T at 28 px.

    The floor is that of the FLOPs alone, before XLA optimises: compiling to count takes as long as measuring.
    """
    sizes = given.sizes
    for name, chosen, batch in (
        ("medmamba_n", sizes.model_n, sizes.train_batch_n),
        ("medmamba_t", sizes.model, sizes.batch),
    ):
        options = {**chosen, "num_classes": _NUM_CLASSES, "image_size": sizes.side_28, "patch_size": sizes.patch_28}
        given.say(f"training, {name}: compiling")
        arguments = steps.arguments(options, batch)
        flops = floors.flops(functools.partial(steps.of_method, options), *arguments, gradient=True)
        floor = flops / given.rates.flops
        seconds = given.compare(f"training, {name}, batch {batch}", {"auto": steps.Steps(options, batch)})
        step = timing.median(seconds["auto"])
        yield figures.Figure(name=f"training/{name}_step", unit="s", interval=step, floor=floor)
        yield figures.Figure(
            name=f"training/{name}", unit="images/s", interval=timing.rate(step, batch), floor=batch / floor
        )
