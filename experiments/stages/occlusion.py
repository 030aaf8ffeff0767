"""Patches dropped by chance, by how much the model looks at them, or along a scan, over a grid of information losses.

The method of a row is the mode, `random` for instance, where dropped patches are black, and mode/fill with any other
fill, as in `random/mean`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.stages import context, measures, pictures
from experiments.storage import records
from mamba_jax import data
from threats import occlusion, outcomes, statistics

# Folded into the key of the patch orders, whose images fold in their index: far above any.
_NOISE = 2**31


class Method(NamedTuple):
    """In which order patches are dropped and what takes their place."""

    mode: str
    fill: str

    @property
    def name(self) -> str:
        return self.mode if self.fill == "zero" else f"{self.mode}/{self.fill}"

    @property
    def random(self) -> bool:
        return self.mode == "random" or occlusion.FILLS[self.fill].random


def run(ctx: context.Context) -> list[records.Measurement]:
    """Accuracy for every mode, fill and information loss; the mean over the draws where one of them is random."""
    chosen = ctx.config.occlusion
    split = ctx.test_images(chosen.images)
    methods = [Method(mode, fill) for fill in chosen.fills for mode in chosen.modes]
    random = [method for method in methods if method.random]
    passes = [methods, *[random] * (chosen.draws - 1)] if random else [methods]
    logits = {method: [] for method in methods}
    what = f"occlusion ({len(chosen.information_losses)} information losses at a time)"
    with ctx.bar(len(split) * len(passes), what) as bar:
        for draw, drawn in enumerate(passes):
            found = ctx.map(_logits(ctx, drawn), split, key=ctx.key("occlusion", "random", draw), bar=bar)
            for method in drawn:
                logits[method].append(found[method.name])
    _keep_pictures(ctx)
    return [
        records.Measurement("occlusion", method.name, loss, metric, interval)
        for method in methods
        for place, loss in enumerate(chosen.information_losses)
        for metric, interval in _measure(
            [each[:, place] for each in logits[method]], split, ctx.task, ctx.config.seed
        ).items()
    ]


def _logits(ctx: context.Context, methods: Sequence[Method]):
    """`(key, images, labels) -> name of the method -> [b, losses, k]`; patches are ranked once for all of them."""
    grid, losses = _grid(ctx), ctx.config.occlusion.information_losses

    def batch(key, images, labels):
        def after(ranks, fill):
            dropped = (_drop(images, ranks, loss, fill, grid) for loss in losses)
            return np.stack([ctx.apply(ctx.variables, each) for each in dropped], axis=1)

        ranks = _ranks(ctx, key, images, {method.mode for method in methods})
        fills = {name: _fill(key, images, name) for name in {method.fill for method in methods}}
        return {method.name: after(ranks[method.mode], fills[method.fill]) for method in methods}

    return batch


def _measure(draws: list[np.ndarray], split: data.Split, task: str, seed: int) -> dict[str, statistics.Interval]:
    """What [n, k] logits of each draw add up to."""
    calibration = measures.whole_set(np.stack(draws), split.labels, task, metrics=("ece",), seed=seed)
    if len(draws) == 1:
        found = measures.accuracy(draws[0], split.labels, task)
        return {**found, "nonfinite": measures.nonfinite(draws[0]), **calibration}
    # The draws share their images, so what is independent is an image's mean over its draws.
    shares = {"accuracy": [outcomes.accuracy(each, split.labels, task) for each in draws]}
    if task == "multi-label":
        shares["exact_match"] = [outcomes.correct(each, split.labels, task) for each in draws]
    shares["nonfinite"] = [~np.isfinite(each).all(axis=-1) for each in draws]
    means = {metric: np.mean(np.asarray(each), axis=0, dtype=np.float64) for metric, each in shares.items()}
    return {**{metric: measures.of_images(mean) for metric, mean in means.items()}, **calibration}


def _keep_pictures(ctx: context.Context) -> None:
    """Every mode with the first fill, and every further fill with the first mode."""
    chosen = ctx.config.occlusion
    half = min(chosen.information_losses, key=lambda loss: abs(loss - 0.5))
    shown = [Method(mode, chosen.fills[0]) for mode in chosen.modes]
    shown += [Method(chosen.modes[0], fill) for fill in chosen.fills[1:]]
    pictures.keep(ctx, "occlusion", {_title(method, half): _occluded(ctx, method, half) for method in shown})


def _title(method: Method, loss: float) -> str:
    mode = method.mode.replace("non_", "non-").replace("_", " ")
    fill = "" if method.fill == "zero" else f", {method.fill}"
    return f"{mode}{fill}\n{100 * loss:.0f} % of patches"


def _occluded(ctx: context.Context, method: Method, loss: float) -> pictures.Disturb:
    def disturb(key, images, labels):
        ranks = _ranks(ctx, key, images, {method.mode})[method.mode]
        return _drop(images, ranks, loss, _fill(key, images, method.fill), _grid(ctx))

    return disturb


def _ranks(ctx: context.Context, key: jax.Array, images: jax.Array, modes: set[str]) -> dict[str, jax.Array]:
    """Mode -> ranks [b, g * g]; one gradient serves the salient and the non-salient order."""
    grid, count = _grid(ctx), len(images)
    directions = [name for name in occlusion.SCAN_DIRECTIONS if f"scan_{name}" in modes]
    found = {f"scan_{name}": occlusion.scan_order(count, direction=name, grid=grid) for name in directions}
    if "random" in modes:
        found["random"] = occlusion.random_order(key, count, grid=grid)
    if modes & {"salient", "non_salient"}:
        found["salient"] = _salient(ctx.model.apply, grid, ctx.task)(ctx.variables, images)
        found["non_salient"] = occlusion.reversed_order(found["salient"])
    return found


def _grid(ctx: context.Context) -> int:
    return ctx.config.occlusion.grid or occlusion.default_grid(ctx.dataset.image_size)


@functools.cache
def _salient(apply, grid: int, task: str):
    return jax.jit(functools.partial(occlusion.salient_order, apply, grid=grid, task=task))


@functools.partial(jax.jit, static_argnums=2)
def _fill(key, images, name: str):
    return occlusion.make_fill(jax.random.fold_in(key, _NOISE), images, name=name)


@functools.partial(jax.jit, static_argnums=4)
def _drop(images, ranks, loss, fill, grid: int):
    return occlusion.patch_drop(images, ranks, information_loss=loss, grid=grid, fill=fill)
