"""What every model does to an image first: one channel becomes three, and [0, 1] becomes what the network was made for.

It lives inside the model, so that an attacker's epsilon is in pixels of the image and a grey image stays grey.
"""

import jax
import jax.numpy as jnp

Normalize = tuple[float, float] | None


def preprocess(images: jax.Array, normalize: Normalize) -> jax.Array:
    """(images - mean) / std, on three channels.

    Args:
      images: [b, h, w, c] in [0, 1], c = 1 or 3. Integer images are refused: divide by 255 first.
      normalize: (mean, std) of every channel, or None to leave the values as they are.

    Returns:
      [b, h, w, 3].

    Raises:
      ValueError: another number of axes or channels, or integer images.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be [b, h, w, 1 or 3], got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating point in [0, 1], got {images.dtype}: divide by 255 first")
    if images.shape[-1] == 1:
        images = jnp.repeat(images, 3, axis=-1)
    if normalize is None:
        return images
    mean, std = normalize
    return (images - mean) / std
