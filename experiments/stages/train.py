"""Training, kept in checkpoints, with its course as rows: accuracy on training and validation images by epoch.

The epoch whose weights are kept has rows of its own, `chosen_by_accuracy` for instance, named by the validation figure
that chose it: accuracy, AUC and loss of those weights on the validation images.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments import processes
from experiments.stages import context, measures
from experiments.storage import records
from mamba_jax import training
from threats import statistics

_SHOWN = {
    "loss": "loss {:.3f}",
    "accuracy": "accuracy {:.3f}",
    "val_accuracy": "validation {:.3f}",
    "images_per_second": "{:,.0f} images/s",
}


def run(ctx: context.Context) -> list[records.Measurement]:
    """The course of the training, and the weights that were chosen."""
    result = fit(ctx) if ctx.fitted is None else ctx.fitted
    records.write(pd.DataFrame(result.history), ctx.folder.root / "history.csv")
    return [*(row for epoch in result.history for row in _course(ctx, epoch)), *_chosen(ctx, result)]


def fit(ctx: context.Context) -> training.FitResult:
    """Trains, or goes on where an earlier call was stopped; of several processes, process 0 shows how it gets on."""
    bar, shown = None, {}

    def progress(epoch: int, step: int, steps: int, metrics: dict[str, Any]) -> None:
        nonlocal bar, shown
        if bar is None:
            done = (epoch - 1) * steps
            bar = ctx.bar(ctx.config.train.epochs * steps, "training", "steps")
            bar.update(done)
        shown |= {name: value for name, value in metrics.items() if name in _SHOWN}
        bar.set_postfix_str(f"epoch {epoch}  " + "  ".join(_SHOWN[name].format(value) for name, value in shown.items()))
        bar.update((epoch - 1) * steps + step - bar.n)

    chosen = ctx.config.train
    batch = min(chosen.batch_size, len(ctx.dataset.splits["train"]))
    try:
        return training.fit(
            ctx.model,
            ctx.dataset,
            chosen,
            directory=ctx.folder.checkpoints,
            init_variables=ctx.variables,
            progress=progress if processes.is_main() else None,
            mesh=processes.mesh(ctx.run.devices, batch // chosen.accumulate),
        )
    finally:
        if bar is not None:
            bar.close()


def _course(ctx: context.Context, epoch: dict[str, Any]) -> list[records.Measurement]:
    rows = []
    for split in ("train", "val"):
        count = len(ctx.dataset.splits[split])
        if split == "train":
            batch = min(ctx.config.train.batch_size, count)
            count -= count % batch
        # In multi-label an image's share of right labels varies less than right or wrong would: the interval is safe.
        interval = statistics.wilson(round(float(epoch[f"{split}_accuracy"]) * count), count)
        interval = interval._replace(value=float(epoch[f"{split}_accuracy"]))
        rows.append(records.Measurement("none", split, epoch["epoch"], "accuracy", interval))
    return rows


def _chosen(ctx: context.Context, result: training.FitResult) -> list[records.Measurement]:
    val = ctx.dataset.splits["val"]
    logits = dataclasses.replace(ctx, variables=result.variables).clean_logits(val)
    losses = np.asarray(training.loss(jnp.asarray(logits), jnp.asarray(val.labels), ctx.task), float)
    found = measures.accuracy(logits, val.labels, ctx.task)
    found |= measures.whole_set(logits, val.labels, ctx.task, metrics=("auc",), seed=ctx.config.seed)
    found["loss"] = statistics.mean(losses)
    method = f"chosen_by_{ctx.config.train.select}"
    return [
        records.Measurement("none", method, result.best_epoch, metric, interval) for metric, interval in found.items()
    ]
