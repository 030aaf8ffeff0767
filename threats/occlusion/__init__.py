"""Occlusion: part of an image is hidden, patch by patch, in an order and behind a fill of one's choice.

`random_order`, `salient_order`, `reversed_order` and `scan_order` rank the patches of every image; `FILLS` and
`make_fill` say what takes their place; `patch_drop` puts both together.

Example, the half of an image that a scan by columns meets first, behind its own mean:
  >>> import jax.numpy as jnp
  >>> images = jnp.arange(16.0).reshape(1, 4, 4, 1) / 16
  >>> ranks = scan_order(1, direction="columns", grid=4)
  >>> fill = make_fill(None, images, name="mean")
  >>> patch_drop(images, ranks, information_loss=0.5, grid=4, fill=fill)[0, 0, :, 0].tolist()
  [0.46875, 0.46875, 0.125, 0.1875]
"""

from threats.occlusion.fills import FILLS, Fill, blur_fill, make_fill, mean_fill, noise_fill
from threats.occlusion.orders import SCAN_DIRECTIONS, random_order, reversed_order, salient_order, scan_order
from threats.occlusion.patches import default_grid, patch_drop

__all__ = [
    "FILLS",
    "SCAN_DIRECTIONS",
    "Fill",
    "blur_fill",
    "default_grid",
    "make_fill",
    "mean_fill",
    "noise_fill",
    "patch_drop",
    "random_order",
    "reversed_order",
    "salient_order",
    "scan_order",
]
