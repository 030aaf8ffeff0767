"""A whole set through a function of one batch, in batches of one shape, so that it compiles once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm

from mamba_jax import data


def map_batches(
    function: Callable[..., Any], split: data.Split, *, batch_size: int, key: jax.Array, bar: tqdm.tqdm | None = None
) -> Any:
    """What `function` says of every image, in the split's order.

    Args:
      function: `(key, images, labels) -> pytree` of arrays with a leading batch axis; images [b, h, w, c] float32 in
        [0, 1]. Row i may depend on image i only, since the last batch is padded.
      split: n images and labels.
      batch_size: b, also where the split is smaller.
      key: folded by the number of the batch.
      bar: moved forward by the images done.

    Returns:
      The pytree, with NumPy arrays [n, ...].
    """
    outputs = []
    for number, batch in enumerate(data.batches(split, batch_size)):
        output = function(jax.random.fold_in(key, number), data.to_float(batch.images), batch.labels)
        outputs.append(jax.tree.map(lambda leaf, valid=batch.valid: np.asarray(leaf)[:valid], output))
        if bar is not None:
            bar.update(batch.valid)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *outputs)
