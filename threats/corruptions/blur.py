"""Corruptions that replace each pixel by a weighted mean of its surroundings.

    y[i, j] = sum_{m, n} kernel[m, n] x[i + m, j + n],   |m|, |n| <= r

with reflect-101 borders (the edge pixel is not repeated: ... x2 x1 | x0 x1 x2 ...). The kernel is made with
NumPy before tracing, so its parameters are static; the sum is taken in Fourier space in float32, whose cost
does not grow with the kernel (on a CPU a disk of radius 10 is some 15 times faster than by direct
convolution).

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, section 3 and the code published with it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from threats.corruptions import pixels

# Weights below this change no pixel by as much as float32 resolves, and would only widen the border.
_NEGLIGIBLE = 1e-10


def defocus_blur(images: jax.Array, *, radius: float, alias_blur: float) -> jax.Array:
    """The image of a lens out of focus: each point becomes a disk (`defocus_kernel`).

    A non-finite pixel makes its whole channel of that image NaN.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      radius: of the disk in pixels, >= 0, static.
      alias_blur: sigma in pixels of the Gaussian that softens the disk's edge, > 0, static.

    Returns:
      [*batch, h, w, c] float32, clipped to [0, 1].

    Raises:
      ValueError: if `images` are no float images or smaller than the kernel's reach, or a parameter is out of
        range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "defocus blur".
    """
    images = pixels.as_float32(images)
    # Without its zero margins (a radius of 0.3 leaves 3 x 3 of 17 x 17) the kernel fits small images.
    kernel = _support(defocus_kernel(radius, alias_blur))
    reach = kernel.shape[0] // 2
    if min(images.shape[-3:-1]) <= reach:
        raise ValueError(
            f"images must be at least {reach + 1} x {reach + 1} for a blur of radius {radius}, got "
            f"{images.shape[-3]} x {images.shape[-2]}: take a smaller radius or a preset for smaller images"
        )
    return jnp.clip(_filter(images, kernel), 0.0, 1.0)


def defocus_kernel(radius: float, alias_blur: float) -> np.ndarray:
    """The weights of `defocus_blur`: a disk of sum 1, then blurred by a small Gaussian.

    The disk is the indicator of X^2 + Y^2 <= radius^2 on a 17 x 17 grid (radius <= 8), blurred over 3 x 3
    points, or on a (2 radius + 1)^2 grid, blurred over 5 x 5. Where the disk touches the grid's edge, the
    blur's reflected border adds weight: the sum is 1.013 for (8, 0.5) and 1.011 for (10, 0.5), as in the
    published benchmark, and stays so.

    Args:
      radius: in pixels, >= 0.
      alias_blur: sigma of the Gaussian in pixels, > 0.

    Returns:
      [k, k] float64, k odd.

    Raises:
      ValueError: if `radius` is negative or `alias_blur` is not positive.
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be a finite number of pixels >= 0, got {radius}")
    if not 0 < alias_blur < math.inf:
        raise ValueError(f"alias_blur must be a finite number of pixels > 0, got {alias_blur}")
    half, blur_half = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    offsets = np.arange(-half, half + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    taps = np.exp(-0.5 * (np.arange(-blur_half, blur_half + 1) / alias_blur) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, taps, axis=axis, mode="mirror")
    return disk


def _support(kernel: np.ndarray) -> np.ndarray:
    """`kernel` without its margins of negligible weights, still square and centred."""
    centre = kernel.shape[0] // 2
    reach = np.abs(np.argwhere(kernel > _NEGLIGIBLE) - centre).max()
    return kernel[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1]


def _filter(images: jax.Array, kernel: np.ndarray) -> jax.Array:
    """Convolves [*batch, h, w, c] with a point-symmetric [2r + 1, 2r + 1] kernel, reflect-101 borders."""
    width = kernel.shape[0] - 1
    margins = ((0, 0),) * (images.ndim - 3) + ((width // 2, width // 2),) * 2 + ((0, 0),)
    padded = jnp.pad(images, margins, mode="reflect")
    sides = padded.shape[-3:-1]
    transfer = np.fft.rfft2(kernel, sides).astype(np.complex64)
    transfer = transfer.reshape((1,) * (images.ndim - 3) + (*transfer.shape, 1))
    filtered = jnp.fft.irfft2(jnp.fft.rfft2(padded, axes=(-3, -2)) * transfer, sides, axes=(-3, -2))
    # The circular sum wraps around only in the first 2r rows and columns.
    return filtered[..., width:, width:, :]
