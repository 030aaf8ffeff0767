"""Corruptions in five severities, with the clean image as severity 0.

The outputs are kept in a file for each corruption and severity, so that a stage that was killed goes on there and
`experiments.corruption_errors` can compare models image by image.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages import context, measures, pictures
from experiments.storage import folder, kept, records
from mamba_jax import data
from threats import corruptions

CLEAN = "clean"


def run(ctx: context.Context) -> list[records.Measurement]:
    """Accuracy, AUC and non-finite outputs for every corruption and severity."""
    chosen = ctx.config.corruption
    split = ctx.test_images(chosen.images)
    rows = []
    with ctx.bar(len(split) * (1 + len(chosen.corruptions) * len(chosen.severities)), "corruption") as bar:
        clean = _measure(ctx, _kept(ctx, CLEAN, 0, split, bar), split.labels)
        for name in chosen.corruptions:
            rows += _rows(ctx, name, 0, clean)
            for severity in chosen.severities:
                rows += _rows(ctx, name, severity, _measure(ctx, _kept(ctx, name, severity, split, bar), split.labels))
    worst = max(chosen.severities)
    columns = {
        f"{name.replace('_', ' ')}\nseverity {worst}": _corrupted(ctx, name, worst) for name in _shown(rows, worst)
    }
    pictures.keep(ctx, "corruption", columns)
    return rows


def part(files: folder.RunFolder, name: str, severity: int) -> pathlib.Path:
    """The file of a corruption and severity: arrays logits [n, k] and labels, in the order of the run's images."""
    return files.corruption_parts / f"{name}-{severity}.npz"


def _kept(ctx: context.Context, name: str, severity: int, split: data.Split, bar) -> np.ndarray:
    def compute() -> dict[str, np.ndarray]:
        if name == CLEAN:
            return {"logits": ctx.clean_logits(split, bar), "labels": split.labels}
        key = ctx.key("corruption", name, severity)
        logits = ctx.logits(_corrupted(ctx, name, severity), split, key=key, bar=bar)
        return {"logits": logits, "labels": split.labels}

    before = bar.n
    found = kept.arrays(part(ctx.folder, name, severity), compute)
    bar.update(before + len(split) - bar.n)  # what was there already
    return found["logits"]


def _shown(rows: list[records.Measurement], severity: int) -> list[str]:
    """The corruptions for the gallery, in the order of the rows: of many, those that cost most at the severity."""
    left = {row.method: row.interval.value for row in rows if row.metric == "accuracy" and row.strength == severity}
    hardest = sorted(left, key=left.get)[: pictures.MOST]
    return [name for name in left if name in hardest]


def preset(ctx: context.Context, name: str) -> str:
    """Whose strengths: those asked for, made for this size, this set's own in MedMNIST-C, or the first there are."""
    known = corruptions.CORRUPTIONS[name].presets
    own = f"medmnist-c/{ctx.dataset.name.removesuffix('mnist')}"
    by_size = corruptions.preset_for(ctx.dataset.image_size)
    wanted = (ctx.config.corruption.preset, by_size, own)
    return next((each for each in wanted if each in known), next(iter(known)))


def _corrupted(ctx: context.Context, name: str, severity: int) -> pictures.Disturb:
    corrupt = _compiled(name, preset(ctx, name))
    strength = jnp.int32(severity) if corruptions.CORRUPTIONS[name].traceable else severity
    return lambda key, images, labels: corrupt(key, images, severity=strength)


@functools.cache
def _compiled(name: str, preset: str | None):
    """`(key, images, *, severity) -> images`, compiled once for all severities where they may be traced."""
    static = () if corruptions.CORRUPTIONS[name].traceable else ("severity",)
    return jax.jit(functools.partial(corruptions.corrupt, name=name, preset=preset), static_argnames=static)


def _measure(ctx: context.Context, logits: np.ndarray, labels: np.ndarray) -> dict:
    found = measures.accuracy(logits, labels, ctx.task)
    found |= measures.whole_set(logits, labels, ctx.task, metrics=("auc", "ece"), seed=ctx.config.seed)
    found |= measures.recall(ctx.decisions(logits), labels, ctx.dataset.class_names)
    return {**found, "nonfinite": measures.nonfinite(logits)}


def _rows(ctx: context.Context, name: str, severity: int, found: dict) -> list[records.Measurement]:
    threat = f"corruption/{preset(ctx, name)}"
    return [records.Measurement(threat, name, severity, metric, interval) for metric, interval in found.items()]
