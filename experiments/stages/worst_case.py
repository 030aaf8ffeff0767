"""The worst bits that a gradient-ranked greedy search finds, as a campaign: trial n makes the first n + 1 flips.

The search sees validation images. Its flips then run as ordinary trials on the test images, so that accuracy after them
is measured on images that did not choose them, and its interval over images is an honest one. Values before and after a
flip are of the test bench (of an activation: at its first test image), as in every other trial.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.stages import context, trials
from experiments.storage import records
from mamba_jax import data
from threats import faults


def campaign(ctx: context.Context, target: str, bench: trials.Bench) -> trials.Campaign:
    """Searches, or reads what an earlier call has found; one trial per flip, none where no bit was admissible.

    Args:
      ctx: the run.
      target: weights or activations.
      bench: images and sites of that target; as many validation images are searched on, or all there are.
    """
    path = ctx.folder.fault_parts / f"{target}_worst_flips.csv"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with ctx.bar(ctx.config.fault.worst_flips, f"worst flips in {target} (one search)", "flips") as bar:
            found = _search(ctx, bench)
            bar.update(ctx.config.fault.worst_flips)
        records.write(pd.DataFrame(found._asdict()), path)
    table = pd.read_csv(path)
    flips = faults.Faults(*(table[name].to_numpy(np.int32) for name in ("site", "element", "bit")))
    return trials.Campaign(target, "worst", "search", ctx.config.fault.worst_flips, prefixes(flips, bench.width))


def prefixes(found: faults.Faults, width: int) -> faults.Faults:
    """Trials [n, width] that make the first 1, 2 .. n of the n flips found.

    Args:
      found: [k] in the order of the search; unused slots, wherever they are, count as no flip.
      width: slots of a trial.
    """
    used = found.site >= 0
    count = int(used.sum())
    made = np.tril(np.ones((count, count), bool))
    kept = jax.tree.map(lambda leaf, unused: jnp.where(made, leaf[used], unused), found, faults.no_faults(count, count))
    return faults.widen(kept, width)


def _search(ctx: context.Context, bench: trials.Bench) -> faults.Faults:
    chosen = ctx.config.fault
    split = data.stratified_subset(ctx.dataset.splits["val"], len(bench.images), seed=ctx.config.seed)
    search = functools.partial(
        faults.worst_case,
        bench.apply,
        table=bench.table,
        flips=chosen.worst_flips,
        candidates=chosen.worst_candidates,
        task=ctx.task,
        allow_nonfinite=chosen.allow_nonfinite,
        largest_magnitude=chosen.worst_magnitude,
        restarts=chosen.worst_restarts,
        strategy=ctx.run.trial_strategy,
    )
    found = jax.jit(search)(bench.variables, data.to_float(split.images), jnp.asarray(split.labels))
    return jax.tree.map(np.asarray, found.faults)
