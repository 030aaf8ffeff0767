"""The gallery's columns: the same few test images of every class, disturbed by each stage in its own way."""

from collections.abc import Callable, Mapping

import jax

from experiments.reporting import gallery
from experiments.stages import context

Disturb = Callable[..., jax.Array]
# More columns of a stage would make the gallery's pictures too small to see.
MOST = 6


def keep(ctx: context.Context, stage: str, columns: Mapping[str, Disturb], *, batch_size: int | None = None) -> None:
    """Writes a stage's columns.

    Args:
      ctx: the run.
      stage: its name.
      columns: title -> `(key, images, labels) -> images`.
      batch_size: of the stage, where it is not the configured one, so that nothing is compiled anew.
    """
    test = ctx.test_images(0)
    split = test.take(gallery.pick(test.labels))
    drawn = {}
    for title, disturb in columns.items():

        def both(key, images, labels, disturb=disturb):
            disturbed = disturb(key, images, labels)
            return disturbed, ctx.apply(ctx.variables, disturbed)

        images, logits = ctx.map(both, split, key=ctx.key("gallery", stage, title), batch_size=batch_size)
        drawn[title] = (images, ctx.decisions(logits))
    gallery.save(ctx.folder.gallery, stage, drawn, ctx.dataset.class_names, split.labels)
