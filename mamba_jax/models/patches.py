"""Patch embeddings for another patch size, so that trained weights can be trained further on finer or coarser tokens.

A patch embedding is a product <x, w> of a patch x of p x p pixels with a kernel w. For patches of another size, resized
by a linear map R, the kernel that keeps the products nearest is the least-squares one, w' = pinv(R^T) w: for larger
patches <R x, w'> = <x, w> exactly, for one pixel w' is the sum of w. Reference: Beyer et al., "FlexiViT: One Model for
All Patch Sizes", 2023, section 3.4 (pseudo-inverse resizing).
"""

import jax
import jax.numpy as jnp
import numpy as np


def resize_kernel(kernel: jax.Array, patch_size: int) -> np.ndarray:
    """The kernel of a patch embedding for patches of another side.

    Args:
      kernel: [p, p, c, d].
      patch_size: the new side q, at least 1.

    Returns:
      [q, q, c, d] float32.
    """
    p, q = kernel.shape[0], patch_size
    pixels = jnp.eye(p * p).reshape((p * p, p, p))
    resized = jax.image.resize(pixels, (p * p, q, q), "bilinear", antialias=True)
    inverse = np.linalg.pinv(np.asarray(resized, np.float64).reshape((p * p, q * q)))  # of R^T; float64 for its rank
    flat = np.asarray(kernel, np.float64).reshape((p * p, -1))
    return (inverse @ flat).astype(np.float32).reshape((q, q, *kernel.shape[2:]))
