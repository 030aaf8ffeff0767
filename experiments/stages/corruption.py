"""Corruptions in five severities, with the clean image as severity 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages import context, measures, pictures
from experiments.storage import records
from threats import corruptions

# More columns would make the gallery's pictures too small to see.
_COLUMNS = 6


def run(ctx: context.Context) -> list[records.Measurement]:
    """Accuracy, AUC and non-finite outputs for every corruption and severity."""
    chosen = ctx.config.corruption
    split = ctx.test_images(chosen.images)
    rows = []
    with ctx.bar(len(split) * (1 + len(chosen.corruptions) * len(chosen.severities)), "corruption") as bar:
        clean = _measure(ctx, ctx.clean_logits(split, bar), split.labels)
        for name in chosen.corruptions:
            rows += _rows(name, 0, clean)
            for severity in chosen.severities:
                key = ctx.key("corruption", name, severity)
                logits = ctx.logits(_corrupted(ctx, name, severity), split, key=key, bar=bar)
                rows += _rows(name, severity, _measure(ctx, logits, split.labels))
    worst = max(chosen.severities)
    columns = {
        f"{name.replace('_', ' ')}\nseverity {worst}": _corrupted(ctx, name, worst) for name in _shown(rows, worst)
    }
    pictures.keep(ctx, "corruption", columns)
    return rows


def _shown(rows: list[records.Measurement], severity: int) -> list[str]:
    """The corruptions for the gallery, in the order of the rows: of many, those that cost most at the severity."""
    left = {row.method: row.interval.value for row in rows if row.metric == "accuracy" and row.strength == severity}
    hardest = sorted(left, key=left.get)[:_COLUMNS]
    return [name for name in left if name in hardest]


def _corrupted(ctx: context.Context, name: str, severity: int) -> pictures.Disturb:
    corrupt = _compiled(name, ctx.config.corruption.preset)
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
    found |= measures.by_class(ctx.decisions(logits), labels, ctx.dataset.class_names)
    return {**found, "nonfinite": measures.nonfinite(logits)}


def _rows(name: str, severity: int, found: dict) -> list[records.Measurement]:
    return [records.Measurement("corruption", name, severity, metric, interval) for metric, interval in found.items()]
