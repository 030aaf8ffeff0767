"""What every corruption asks of its images: float pixels [*batch, h, w, c], taken to float32."""

import jax
import jax.numpy as jnp


def as_float32(images: jax.Array) -> jax.Array:
    """`images` in float32, or a refusal of what is no image in [0, 1].

    Args:
      images: [*batch, h, w, c] of any floating dtype in [0, 1]; c is 1 (grayscale) or 3 (RGB).

    Raises:
      ValueError: fewer than three axes, another number of channels, or an integer dtype.
    """
    images = jnp.asarray(images)
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be [*batch, h, w, c] with c = 1 or 3, got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floats in [0, 1], got {images.dtype}: divide 8-bit pixels by 255")
    return images.astype(jnp.float32)
