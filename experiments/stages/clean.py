"""The undisturbed model: accuracy, AUC, balanced accuracy, calibration error and non-finite outputs."""

from experiments.stages import context, measures, pictures
from experiments.storage import records


def run(ctx: context.Context) -> list[records.Measurement]:
    """Measures the test images, and the accuracy of the validation images beside them."""
    rows = []
    for name in ("val", "test"):
        split = ctx.dataset.splits[name]
        with ctx.bar(len(split), f"clean, {name} images") as bar:
            logits = ctx.clean_logits(split, bar)
        found = measures.accuracy(logits, split.labels, ctx.task)
        if name == "test":
            found |= measures.whole_set(
                logits, split.labels, ctx.task, metrics=measures.WHOLE_SET, seed=ctx.config.seed
            )
            found["nonfinite"] = measures.nonfinite(logits)
        rows += [records.Measurement("none", name, 0, metric, interval) for metric, interval in found.items()]
    pictures.keep(ctx, "clean", {"clean": lambda key, images, labels: images})
    return rows
