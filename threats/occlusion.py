"""Occlusion by PatchDrop: part of an image is set to 0, patch by patch, in a random or a salient order.

An image is cut into g x g patches, and a share of them, the information loss, is dropped:

    dropped = patches of rank < round(information_loss * g^2),    x'_p = fill if p is dropped else x_p

Naseer et al., "Intriguing Properties of Vision Transformers", 2021, section 3.1: random, salient (most important
first) and non-salient (least important first) drops. Here every image has its own order, and the orders are ranks, so
the patches dropped at one information loss are among those dropped at any larger one.

Row i of the pixels belongs to row floor(i g / h) of patches, columns alike: a side that g does not divide gives
patches that differ by one pixel. Patch p = row * g + column.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from threats import outcomes
from threats.adversarial import objectives


def default_grid(side: int) -> int:
    """Patches along a side of that many pixels: 7 at 28, 8 at 64 and 128, 14 at 224 and above."""
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel, got {side}")
    if side >= 224:
        return 14
    return 8 if side >= 32 else min(side, 7)


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
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch_size))
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
      labels: [b] int32, or [b, k] 0/1 in multi-label. None: the model's own decisions on the clean images.
      grid: g, patches along each side.
      task: one of `outcomes.TASKS`.
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
    rows, columns = _membership(images.shape, grid)
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


def patch_drop(
    images: jax.Array,
    ranks: jax.Array,
    *,
    information_loss: float | jax.Array,
    grid: int,
    fill: float | jax.Array = 0.0,
) -> jax.Array:
    """Sets the first-ranked patches of every image to `fill`.

    Args:
      images: [b, h, w, c] float32 in [0, 1].
      ranks: [b, g * g] int32, from `random_order` or `salient_order`.
      information_loss: share of patches to drop, in [0, 1]; scalar or [b]; may be traced. The count is
        round(information_loss * g^2), halves to even.
      grid: g, patches along each side.
      fill: value of a dropped pixel, before any normalisation; scalar or [c].

    Returns:
      [b, h, w, c], of the images' dtype.

    Raises:
      ValueError: if the grid does not fit the images or the ranks, or a known information_loss is outside [0, 1].

    Example:
      >>> ranks = random_order(jax.random.key(0), 1, grid=2)
      >>> float(patch_drop(jnp.ones((1, 4, 4, 1)), ranks, information_loss=0.25, grid=2).sum())
      12.0
    """
    count = images.shape[0]
    rows, columns = _membership(images.shape, grid)
    if ranks.shape != (count, grid * grid):
        raise ValueError(f"ranks must have shape {(count, grid * grid)}, one per patch, got {ranks.shape}")
    if not isinstance(information_loss, jax.core.Tracer):
        value = np.asarray(information_loss)
        if not np.all((value >= 0) & (value <= 1)):
            raise ValueError(f"information_loss must be in [0, 1], got {information_loss}")
    share = jnp.broadcast_to(jnp.asarray(information_loss, jnp.float32), (count,))
    dropped = ranks < jnp.round(share * (grid * grid)).astype(jnp.int32)[:, None]
    pixels = dropped.reshape(count, grid, grid)[:, rows][:, :, columns]
    return jnp.where(pixels[..., None], jnp.broadcast_to(jnp.asarray(fill, images.dtype), images.shape), images)


def _membership(shape: tuple[int, ...], grid: int) -> tuple[np.ndarray, np.ndarray]:
    """The row of patches of every pixel row, and the column of patches of every pixel column."""
    if len(shape) != 4:
        raise ValueError(f"images must be [b, h, w, c], got shape {shape}")
    height, width = shape[1:3]
    if not 1 <= grid <= min(height, width):
        raise ValueError(f"grid must be in 1 to {min(height, width)}, the shorter side in pixels, got {grid}")
    return np.arange(height) * grid // height, np.arange(width) * grid // width
