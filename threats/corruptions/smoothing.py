"""Blurs that are weighted sums along rows, then along columns: Gaussian, zoom.

Each is a matrix per side, made with NumPy and SciPy before tracing, so that its parameters are static and the borders
are those of the published code: for sigma = 0.5 on a side of 3 pixels with repeated edges

    y = W x W^T,   W = [[0.89, 0.11, 0.00], [0.11, 0.78, 0.11], [0.00, 0.11, 0.89]] (rounded)

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, and the code published with it.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from threats.corruptions import pixels


def gaussian_blur(images: jax.Array, *, sigma: float, reach: int) -> jax.Array:
    """A Gaussian of standard deviation `sigma`, cut off after `reach` pixels; the edge pixel is repeated outside.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      sigma: in pixels, >= 0, static; 0 changes nothing.
      reach: pixels to either side that count, >= 0, static. The published code of ImageNet-C takes 4 sigma.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "Gaussian blur" (held-out corruption).
    """
    images = pixels.as_float32(images)
    pixels.require("sigma", sigma, 0.0)
    pixels.require("reach", reach, 0)
    height, width = images.shape[-3:-1]
    sides = (gaussian_weights(side, sigma, reach=int(reach), border="nearest") for side in (height, width))
    return jnp.clip(pixels.along_sides(images, *sides), 0.0, 1.0)


def zoom_blur(images: jax.Array, *, last: float, step: float) -> jax.Array:
    """Motion towards the object: the mean of the image and of enlargements 1, 1 + step, ..., `last`.

    The image counts twice, once as it is and once as its enlargement by 1, as in the published code.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3. The enlargements are of the centre, by linear
        interpolation, each side by itself.
      last: largest enlargement, >= 1, static.
      step: between enlargements, > 0, static.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Hendrycks and Dietterich, ICLR 2019, "zoom blur".
    """
    images = pixels.as_float32(images)
    pixels.require("last", last, 1.0)
    pixels.require("step", step, 1e-3)
    height, width = images.shape[-3:-1]
    factors = [1 + number * step for number in range(math.floor((last - 1) / step + 1e-6) + 1)]
    total = images
    for factor in factors:
        total = total + pixels.along_sides(images, zoom_weights(height, factor), zoom_weights(width, factor))
    return jnp.clip(total / (len(factors) + 1), 0.0, 1.0)


@functools.cache
def gaussian_weights(side: int, sigma: float, *, reach: int, border: str) -> np.ndarray:
    """[side, side] weights of a Gaussian filter as `scipy.ndimage.gaussian_filter1d` has it.

    Args:
      side: number of pixels.
      sigma: standard deviation in pixels, >= 0.
      reach: pixels to either side after which the Gaussian is cut off.
      border: mode of `scipy.ndimage`, such as "nearest".
    """
    if sigma <= 0 or reach < 1:
        return np.eye(side)
    return ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode=border, radius=reach)


@functools.cache
def zoom_weights(side: int, factor: float) -> np.ndarray:
    """[side, side] weights that enlarge the central ceil(side / factor) pixels by linear interpolation.

    The enlargement maps first pixel to first and last to last, and is then cut to its central `side` pixels, as
    `scipy.ndimage.zoom` with order 1 and a cut do in the published code.
    """
    kept = math.ceil(side / factor)
    first = (side - kept) // 2
    enlarged = ndimage.zoom(np.eye(side)[first : first + kept], (factor, 1), order=1)
    cut = (len(enlarged) - side) // 2
    return enlarged[cut : cut + side]
