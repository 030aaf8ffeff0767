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
    draws = chosen.draws if "random" in chosen.modes else 0
    salient = [mode for mode in chosen.modes if mode != "random"]
    logits = {mode: [] for mode in chosen.modes}
    what = f"occlusion ({len(chosen.information_losses)} information losses at a time)"
    with ctx.bar(len(split) * (draws + bool(salient)), what) as bar:
        for draw in range(draws):
            key = ctx.key("occlusion", "random", draw)
            logits["random"].append(ctx.map(_logits(ctx, ["random"]), split, key=key, bar=bar)["random"])
        if salient:
            found = ctx.map(_logits(ctx, salient), split, key=ctx.key("occlusion", "salient"), bar=bar)
            logits |= {mode: [found[mode]] for mode in salient}
    _keep_pictures(ctx)
    return [
        records.Measurement("occlusion", mode, loss, metric, interval)
        for mode in chosen.modes
        for place, loss in enumerate(chosen.information_losses)
        for metric, interval in _measure([each[:, place] for each in logits[mode]], split, ctx.task).items()
    ]


def _logits(ctx: context.Context, modes: list[str]):
    """`(key, images, labels) -> mode -> [b, losses, k]`: the patches of an image are ranked once for all of them."""
    grid, losses = _grid(ctx), ctx.config.occlusion.information_losses

    def batch(key, images, labels):
        def after(ranks):
            return np.stack([ctx.apply(ctx.variables, _drop(images, ranks, loss, grid)) for loss in losses], axis=1)

        ranks = _ranks(ctx, key, images, modes)
        return {mode: after(ranks[mode]) for mode in modes}

    return batch


def _measure(draws: list[np.ndarray], split: data.Split, task: str) -> dict[str, statistics.Interval]:
    """What [n, k] logits of each draw add up to."""
    if len(draws) == 1:
        return {**measures.accuracy(draws[0], split.labels, task), "nonfinite": measures.nonfinite(draws[0])}
    # The draws share their images, so what is independent is an image's mean over its draws.
    right = np.stack([np.asarray(outcomes.accuracy(each, split.labels, task)) for each in draws])
    nonfinite = np.stack([~np.isfinite(each).all(axis=-1) for each in draws])
    means = {"accuracy": right.mean(axis=0, dtype=np.float64), "nonfinite": nonfinite.mean(axis=0)}
    return {metric: measures.of_images(shares) for metric, shares in means.items()}


def _keep_pictures(ctx: context.Context) -> None:
    chosen = ctx.config.occlusion
    half = min(chosen.information_losses, key=lambda loss: abs(loss - 0.5))
    titles = {mode: f"{mode.replace('_', '-')}\n{100 * half:.0f} % of patches" for mode in chosen.modes}
    pictures.keep(ctx, "occlusion", {titles[mode]: _occluded(ctx, mode, half) for mode in chosen.modes})


def _occluded(ctx: context.Context, mode: str, loss: float) -> pictures.Disturb:
    def disturb(key, images, labels):
        return _drop(images, _ranks(ctx, key, images, [mode])[mode], loss, _grid(ctx))

    return disturb


def _ranks(ctx: context.Context, key: jax.Array, images: jax.Array, modes: list[str]) -> dict[str, jax.Array]:
    """Mode -> ranks [b, g * g]; one gradient serves the salient and the non-salient order."""
    grid, found = _grid(ctx), {}
    if "random" in modes:
        found["random"] = occlusion.random_order(key, len(images), grid=grid)
    if set(modes) - {"random"}:
        found["salient"] = _salient(ctx.model.apply, grid, ctx.task)(ctx.variables, images)
        found["non_salient"] = occlusion.reversed_order(found["salient"])
    return found


def _grid(ctx: context.Context) -> int:
    return ctx.config.occlusion.grid or occlusion.default_grid(ctx.dataset.image_size)


@functools.cache
def _salient(apply, grid: int, task: str):
    return jax.jit(functools.partial(occlusion.salient_order, apply, grid=grid, task=task))


@functools.partial(jax.jit, static_argnums=3)
def _drop(images, ranks, loss, grid: int):
    return occlusion.patch_drop(images, ranks, information_loss=loss, grid=grid)
