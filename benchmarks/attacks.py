"""A step of projected gradient descent against one gradient with respect to the images: what an attack costs beside it.

A step's time is the difference of a long and a short attack over the difference of their steps, in the same round; so
the passes before the first step and after the last do not count.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import threats
from benchmarks import figures, floors, setting, timing
from mamba_jax import models, training

_EPSILON = 8 / 255


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Seconds of an input gradient and of a PGD step, and their ratio."""
    model, variables = setting.subject(given.sizes)
    count, (few, many) = given.sizes.attack_images, given.sizes.attack_steps
    images = setting.images(count, model.config.image_size, model.config.in_channels)
    labels = setting.labels(count)
    given.say("attacks: compiling")

    def gradient_of(method: str):
        apply = models.from_config(dataclasses.replace(model.config, scan_method=method)).apply

        def total(images, variables):
            return jnp.sum(training.loss(apply(variables, images), labels, "multi-class"))

        return lambda variables, images: jax.grad(total)(images, variables)

    def attack(steps: int):
        whole = jax.jit(functools.partial(threats.pgd, model.apply, steps=steps))
        return functools.partial(whole, variables, images, labels, key=jax.random.key(0), epsilon=_EPSILON)

    work = floors.without_scan(gradient_of, variables, images, gradient=True).work
    floor = work.seconds(given.rates)
    gradient = functools.partial(jax.jit(gradient_of("auto")), variables, images)
    compared = {"input gradient": gradient, "short": attack(few), "long": attack(many)}
    seconds = given.compare(f"attacks, PGD of {few} and of {many} steps, {count} images", compared)
    step = (seconds["long"] - seconds["short"]) / (many - few)
    for name, samples in (("input_gradient", seconds["input gradient"]), ("pgd_step", step)):
        yield figures.Figure(name=f"attacks/{name}", unit="s", interval=timing.median(samples), floor=floor)
    interval = timing.ratio(step, seconds["input gradient"])
    yield figures.Figure(name="attacks/pgd_step_over_input_gradient", unit="x", interval=interval)
