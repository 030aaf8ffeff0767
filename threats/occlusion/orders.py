"""In which order patches are dropped: by chance, by their saliency, or along one of the four scans of a Mamba model.

An order is given as ranks [b, g * g]: ranks[i, p] is how many patches of image i are dropped before patch p, where
p = row * g + column. Random, salient (most important first) and non-salient (least important first) drops are those of
Naseer et al., "Intriguing Properties of Vision Transformers", 2021, section 3.1. The scans are the four of the cross
scan in Liu et al., "VMamba: Visual State Space Model", 2024, which MedMamba shares.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from threats import draws, outcomes
from threats.adversarial import objectives
from threats.occlusion import patches

# As VMamba numbers them.
SCAN_DIRECTIONS = ("rows", "columns", "rows_reversed", "columns_reversed")


def random_order(key: jax.Array, batch_size: int, *, grid: int) -> jax.Array:
    """A uniform random order of the patches, drawn for each image from the key and the image's index.

    Args:
      key: consumed.
      batch_size: b, images in the batch.
      grid: g, patches along each side.

    Returns:
      ranks [b, g * g] int32: ranks[i, p] = how many patches of image i are dropped before patch p.

    Example:
      >>> random_order(jax.random.key(0), 2, grid=3).shape
      (2, 9)
    """
    keys = draws.of_rows(key, batch_size)
    return jax.vmap(lambda row_key: jax.random.permutation(row_key, grid * grid))(keys).astype(jnp.int32)


def salient_order(
    apply: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    images: jax.Array,
    labels: jax.Array | None = None,
    *,
    grid: int,
    task: outcomes.Task = "multi-class",
    objective: objectives.Objective | None = None,
) -> jax.Array:
    """The patches in order of gradient saliency, the most salient dropped first.

    The saliency of patch p is the sum over its pixels and channels of |d objective / d x| (Simonyan et al., "Deep
    Inside Convolutional Networks", 2014, section 3). A patch whose gradient is NaN comes last; ties keep the
    patches' order.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only.
      variables: the model's parameters, any pytree.
      images: [b, h, w, c] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own. None: what the model decides on the clean images.
      grid: g, patches along each side.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      objective: `(logits, labels) -> [b]`. None: `objectives.margin(task)`, whose gradient does not fade where the
        model is certain.

    Returns:
      ranks [b, g * g] int32, as `random_order`.

    Raises:
      ValueError: if the grid does not fit the images or the task is unknown.

    Example:
      >>> corner = lambda variables, x: jnp.stack([x[:, 0, 0, 0], 0.5 * x[:, -1, -1, 0]], axis=-1)
      >>> salient_order(corner, None, jnp.ones((1, 4, 4, 1)), grid=2).tolist()
      [[0, 2, 3, 1]]
    """
    rows, columns = patches.membership(images.shape, grid)
    objective = objective or objectives.margin(task)

    def total(x):
        logits = apply(variables, x)
        return jnp.sum(objective(logits, outcomes.decisions(logits, task) if labels is None else labels))

    pixels = jnp.sum(jnp.abs(jax.grad(total)(images)), axis=-1)
    one_hot = (jax.nn.one_hot(index, grid, dtype=pixels.dtype) for index in (rows, columns))
    saliency = jnp.einsum("bhw,hr,wk->brk", pixels, *one_hot, precision=jax.lax.Precision.HIGHEST)
    order = jnp.argsort(-saliency.reshape(images.shape[0], grid * grid), axis=-1)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def reversed_order(ranks: jax.Array) -> jax.Array:
    """The same patches dropped in the opposite order: non-salient from salient. ranks: [b, g * g]."""
    return ranks.shape[-1] - 1 - ranks


def scan_order(batch_size: int, *, direction: str, grid: int) -> jax.Array:
    """The patches in the order in which a scan of the image meets them, the same for every image.

    What is dropped first is what the scan of that direction meets first, and the scan of the opposite direction last.
    The order is of patches as wholes: a model's tokens are mostly smaller, and its scan passes a row of patches in
    several rows of tokens.

    Args:
      batch_size: b, images in the batch.
      direction: one of `SCAN_DIRECTIONS`: "rows" from the top row to the bottom one, each from left to right;
        "columns" from the left column to the right one, each from top to bottom; "rows_reversed" and
        "columns_reversed" the same backwards, from the bottom right patch to the top left one.
      grid: g, patches along each side.

    Returns:
      ranks [b, g * g] int32, as `random_order`.

    Raises:
      ValueError: if the direction is unknown or the grid is below 1.

    Example:
      >>> scan_order(1, direction="columns", grid=2).tolist()
      [[0, 2, 1, 3]]
    """
    if direction not in SCAN_DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(SCAN_DIRECTIONS)}, got {direction!r}")
    if grid < 1:
        raise ValueError(f"grid must be at least 1 patch, got {grid}")
    ranks = np.arange(grid * grid, dtype=np.int32).reshape(grid, grid)
    if direction.startswith("columns"):
        ranks = ranks.T
    ranks = jnp.broadcast_to(jnp.asarray(ranks.reshape(1, -1)), (batch_size, grid * grid))
    return reversed_order(ranks) if direction.endswith("_reversed") else ranks
