"""Patches set to black, by chance or by how much the model looks at them, over a grid of information losses."""

import functools

import jax
import numpy as np

from experiments.stages import context, measures, pictures
from experiments.storage import records
from mamba_jax import data
from threats import occlusion, outcomes, statistics


def run(ctx: context.Context) -> list[records.Measurement]:
    """Accuracy for every mode and information loss; of random drops the mean over the draws."""
    chosen = ctx.config.occlusion
    split = ctx.test_images(chosen.images)
    draws = {mode: chosen.draws if mode == "random" else 1 for mode in chosen.modes}
    rows = []
    with ctx.bar(len(split) * sum(draws.values()) * len(chosen.information_losses), "occlusion") as bar:
        for mode, count in draws.items():
            for loss in chosen.information_losses:
                found = _measure(ctx, mode, loss, count, split, bar)
                rows += [
                    records.Measurement("occlusion", mode, loss, metric, interval) for metric, interval in found.items()
                ]
    half = min(chosen.information_losses, key=lambda loss: abs(loss - 0.5))
    titles = {mode: f"{mode.replace('_', '-')}\n{100 * half:.0f} % of patches" for mode in chosen.modes}
    pictures.keep(ctx, "occlusion", {titles[mode]: _occluded(ctx, mode, half) for mode in chosen.modes})
    return rows


def _measure(ctx, mode: str, loss: float, draws: int, split: data.Split, bar) -> dict[str, statistics.Interval]:
    drop = _occluded(ctx, mode, loss)
    logits = [ctx.logits(drop, split, key=ctx.key("occlusion", mode, draw), bar=bar) for draw in range(draws)]
    if draws == 1:
        return {**measures.accuracy(logits[0], split.labels, ctx.task), "nonfinite": measures.nonfinite(logits[0])}
    # The draws share their images, so what is independent is an image's mean over its draws.
    right = np.stack([np.asarray(outcomes.accuracy(each, split.labels, ctx.task)) for each in logits])
    means = right.mean(axis=0)
    alike = bool(np.all((means == 0) | (means == 1)))
    accuracy = statistics.wilson(int(means.sum()), len(means)) if alike else statistics.mean(means, bounds=(0.0, 1.0))
    return {"accuracy": accuracy, "nonfinite": measures.nonfinite(np.concatenate(logits))}


def _occluded(ctx: context.Context, mode: str, loss: float) -> pictures.Disturb:
    grid = ctx.config.occlusion.grid or occlusion.default_grid(ctx.dataset.image_size)

    def disturb(key, images, labels):
        if mode == "random":
            ranks = occlusion.random_order(key, len(images), grid=grid)
        else:
            ranks = _salient(ctx.model.apply, grid, ctx.task)(ctx.variables, images)
        if mode == "non_salient":
            ranks = occlusion.reversed_order(ranks)
        return _drop(images, ranks, loss, grid)

    return disturb


@functools.cache
def _salient(apply, grid: int, task: str):
    return jax.jit(functools.partial(occlusion.salient_order, apply, grid=grid, task=task))


@functools.partial(jax.jit, static_argnums=3)
def _drop(images, ranks, loss, grid: int):
    return occlusion.patch_drop(images, ranks, information_loss=loss, grid=grid)
