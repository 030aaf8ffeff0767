"""Weight-fault trials per second: one bit of the weights flipped, the model evaluated on all images, next trial.

One trial after another (`map`) against all at once (`vmap`), in the same rounds.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax

from benchmarks import figures, floors, setting, timing
from mamba_jax import models
from threats import faults


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Trials per second of both strategies on the model of the zoo."""
    model, variables = setting.subject(given.sizes)
    count, trials = given.sizes.campaign_images, given.sizes.campaign_trials
    images = setting.images(count, model.config.image_size, model.config.in_channels)
    labels = setting.labels(count)
    table = faults.weight_sites(variables)
    drawn = faults.random_faults(jax.random.key(0), table, trials=trials, flips=1)
    given.say("campaign: compiling")
    reference = jax.jit(functools.partial(faults.fault_free_logits, model.apply))(variables, images)

    def campaign(strategy: str, at_once: int):
        run_trials = faults.make_trial_fn(
            model.apply,
            images,
            labels,
            table,
            strategy=strategy,
            trials_at_once=at_once,
            reference=reference,
            reuse=False,
        )
        return functools.partial(run_trials, variables, drawn)

    compared = {"map": campaign("map", 1), "vmap": campaign("vmap", trials)}
    seconds = given.compare(f"campaign, {trials} trials on {count} images", compared)
    limit = 1 / _trial_floor(given, model, variables, images)
    for name, rival in (("map", "vmap"), ("vmap", "map")):
        yield figures.Figure(
            name=f"campaign/weight_trials_{name}",
            unit="trials/s",
            interval=timing.rate(timing.median(seconds[name]), trials),
            floor=limit,
            other=rival,
            other_ratio=timing.ratio(seconds[rival], seconds[name]),
        )


def _trial_floor(given: setting.Setting, model: models.Model, variables, images: jax.Array) -> float:
    """Seconds of one forward pass over all images."""

    def apply_of(method: str):
        return models.from_config(dataclasses.replace(model.config, scan_method=method)).apply

    return floors.without_scan(apply_of, variables, images, gradient=False).work.seconds(given.rates)
