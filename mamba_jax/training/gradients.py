"""The gradient of a batch's mean loss, at once or in micro-batches that need less memory.

    d/dp mean_i loss_i = (1 / a) sum over micro-batches m of  d/dp mean over i in m of loss_i

for a micro-batches of equal size. Batch norms see one micro-batch at a time: they normalise with its statistics and
update their running ones once for each, so with them a batch in four parts is not the batch in one. Everything else is
the same to rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mamba_jax import types


class Gradients(NamedTuple):
    """Of one batch.

    params: gradients, shaped like the parameters. batch_stats: running statistics after the batch. figures: means over
    the batch, by name.
    """

    params: types.Variables
    batch_stats: types.Variables
    figures: dict[str, jax.Array]


def of_batch(
    objective: Callable[..., Any],
    params: types.Variables,
    batch_stats: types.Variables,
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    *,
    accumulate: int,
) -> Gradients:
    """The gradient of `objective` over the batch.

    Args:
      objective: `(params, batch_stats, images, targets, key) -> (mean loss, (batch_stats, figures))`.
      params, batch_stats: of the model.
      images: [b, h, w, c].
      targets: [b] or [b, k].
      key: consumed; each micro-batch gets its own.
      accumulate: number of micro-batches, a divisor of b. Micro-batch i has the rows i, i + a, i + 2 a, ..., so that
        devices which hold neighbouring rows have equal shares of it.
    """
    gradient = jax.grad(objective, has_aux=True)
    if accumulate == 1:
        found, (batch_stats, figures) = gradient(params, batch_stats, images, targets, key)
        return Gradients(found, batch_stats, figures)

    def micro(carry, part):
        batch_stats, total = carry
        found, (batch_stats, figures) = gradient(params, batch_stats, *part)
        return (batch_stats, jax.tree.map(jnp.add, total, (found, figures))), None

    parts = (_in_parts(images, accumulate), _in_parts(targets, accumulate), jax.random.split(key, accumulate))
    first = jax.tree.map(lambda x: x[0], parts)
    found, (_, figures) = jax.eval_shape(gradient, params, batch_stats, *first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (found, figures))
    (batch_stats, total), _ = jax.lax.scan(micro, (batch_stats, zeros), parts)
    found, figures = jax.tree.map(lambda x: x / accumulate, total)
    return Gradients(found, batch_stats, figures)


def _in_parts(x: jax.Array, count: int) -> jax.Array:
    """[b, ...] -> [count, b / count, ...], part i with the rows i, i + count, ..."""
    return jnp.swapaxes(x.reshape((x.shape[0] // count, count, *x.shape[1:])), 0, 1)
