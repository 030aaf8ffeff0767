"""In a process of its own: fault trials of one model, with and without reuse, and the memory. Started by `campaign`.

A trial flips one bit of the weights, all bits equally likely, and evaluates every image. With reuse it is a trial of
`faults.make_trial_fn` in a campaign of 10,000; without, a plain loop: the whole model, compiled once, over the batches.
Rounds take both in turn.

    peak       largest resident set of the process while trials with reuse compile and run
"""

import functools
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import children, setting
from mamba_jax import models, tuning
from threats import faults, outcomes
from threats.faults import batching, program, reuse

_CAMPAIGN = 10_000


def measure(options: dict, images: int, trials: int, whole_trials: int, rounds: int) -> dict[str, object]:
    """Seconds per trial in each round, `reuse` and `whole`; `compiling` seconds of the first trials; `peak` bytes.

    Args:
      options: of `create_model`.
      images: evaluated in each trial.
      trials, whole_trials: in a round, with and without reuse.
      rounds: how many.
    """
    tuning.tune_cpu()
    model = models.create_model(**options)
    variables = model.init(jax.random.key(0))
    data = setting.images(images, options["image_size"]), setting.labels(images)
    table = faults.weight_sites(variables)
    run = faults.make_trial_fn(model.apply, *data, table, expected_trials=_CAMPAIGN)
    draw = functools.partial(faults.random_faults, jax.random.key(0), table, flips=1)
    begun = time.perf_counter()
    run(variables, _one_of_each_part(model.apply, variables, data[0], table))
    compiling = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    whole = _whole(model.apply, *data, table)
    whole(variables, jax.tree.map(lambda x: x[0], draw(trials=1)))
    seconds: dict[str, list[float]] = {"reuse": [], "whole": []}
    for number in range(rounds):
        drawn = draw(trials=trials, first_trial=number * trials)
        seconds["reuse"].append(_seconds(lambda drawn=drawn: run(variables, drawn)) / trials)
        few = [jax.tree.map(lambda x, i=i, drawn=drawn: x[i], drawn) for i in range(whole_trials)]
        seconds["whole"].append(_seconds(lambda few=few: [whole(variables, one) for one in few]) / whole_trials)
    return {**seconds, "compiling": compiling, "peak": peak}


def _one_of_each_part(apply, variables, images, table) -> faults.Faults:
    """[p, 1] a fault for every program that the trials may need, so that all of them are compiled before the rounds."""
    size = batching.default_images(images)
    found = program.trace(apply, variables, images[:size], table)
    chosen = reuse.plan(found, table, batches=-(-len(images) // size), trials=_CAMPAIGN)
    _, site = np.unique(chosen.part_of, return_index=True)
    site = jnp.asarray(site, jnp.int32)[:, None]
    return faults.Faults(site, jnp.zeros_like(site), jnp.zeros_like(site))


def _whole(apply, images, labels, table):
    size = batching.default_images(images)
    batches = [list(batching.split(jnp.asarray(rows), size)) for rows in (images, labels)]
    valid = list(batching.valid(images.shape[0], size))
    inject = jax.jit(lambda variables, fault: faults.inject(variables, table, fault))
    clean = jax.jit(apply)
    sums = jax.jit(lambda variables, images, *rest: outcomes.sums(clean(variables, images), *rest, "multi-class"))
    reference: list[jax.Array] = []

    def trial(variables, fault) -> np.ndarray:
        if not reference:
            reference.extend(clean(variables, batch) for batch in batches[0])
        faulty = inject(variables, fault)
        return sum(np.asarray(sums(faulty, *batch)) for batch in zip(*batches, reference, valid, strict=True))

    return trial


def _seconds(function) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begun


if __name__ == "__main__":
    children.answer(measure(**children.arguments()))
