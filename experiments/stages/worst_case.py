"""The worst bits that a gradient-ranked greedy search finds, as rows of `faults.csv`: trial n has the first n flips."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.stages import context, trials
from experiments.storage import records
from threats import faults


def run(ctx: context.Context, target: str, bench: trials.Bench, before: float) -> pd.DataFrame:
    """Searches, or reads what an earlier call has found; one row per flip, none where no bit was admissible.

    Args:
      ctx: the run.
      target: weights or activations.
      bench: images, labels and sites of that target.
      before: fault-free accuracy.
    """
    path = ctx.folder.fault_parts / f"{target}_worst.csv"
    if not path.is_file():
        with ctx.bar(ctx.config.fault.worst_flips, f"worst flips in {target} (one search)", "flips") as bar:
            found = _search(ctx, bench)
            bar.update(ctx.config.fault.worst_flips)
        frame = _rows(target, found, bench, trials.common(ctx, before, len(bench.images)))
        records.write(frame, path)
    return records.read(path)


def _search(ctx: context.Context, bench: trials.Bench) -> faults.WorstCase:
    chosen = ctx.config.fault
    search = functools.partial(
        faults.worst_case,
        ctx.model.apply,
        table=bench.table,
        flips=chosen.worst_flips,
        candidates=chosen.worst_candidates,
        task=ctx.task,
        allow_nonfinite=chosen.allow_nonfinite,
        strategy=ctx.run.trial_strategy,
    )
    found = jax.jit(search)(ctx.variables, bench.images, bench.labels, reference=jnp.asarray(bench.logits))
    return jax.tree.map(np.asarray, found)


def _rows(target: str, found: faults.WorstCase, bench: trials.Bench, common: dict[str, object]) -> pd.DataFrame:
    count = int((found.faults.site >= 0).sum())
    # Row n keeps the flips 0..n and leaves its other slots unused.
    kept = np.tril(np.ones((count, count), bool))

    def cumulative(values: np.ndarray, unused: float) -> np.ndarray:
        return np.where(kept, values[:count], unused)

    slots = faults.Faults(*(cumulative(leaf, -1).astype(np.int32) for leaf in found.faults))
    result = faults.TrialResult(
        accuracy=found.accuracy[:count],
        loss=np.full(count, np.nan, np.float32),
        sdc=found.sdc[:count],
        nonfinite=found.nonfinite[:count],
        before=cumulative(found.before, np.nan),
        after=cumulative(found.after, np.nan),
    )
    campaign = trials.Campaign(target, "worst", "search", count, slots)
    frame = trials.rows(campaign, slots, result, bench.table, first=0, common=common)
    return frame.assign(flips=np.arange(1, count + 1))
