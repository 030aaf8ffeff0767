"""Published strengths of each corruption at severities 1 to 5, per benchmark, and the benchmark for an image's side.

A corruption's presets map a benchmark's name to five tuples of parameters, mildest first. `imagenet-c` was
made for 224 pixels, `tiny-c` for 64 and `cifar-c` for 32; the same number of pixels hides more of a smaller
image. None of these numbers was scaled or chosen here. Published severities are not always a scale, see
`docs/corruptions.md`. Those of MedMNIST-C are in `medmnist_presets`.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019: the constants of the code published with ImageNet-C, Tiny ImageNet-C and CIFAR-10-C.
"""

from collections.abc import Mapping
from typing import Literal

Preset = Literal["cifar-c", "tiny-c", "imagenet-c"]
Levels = Mapping[str, tuple[tuple[float, ...], ...]]

SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)


def _each(*values: float) -> tuple[tuple[float], ...]:
    """Levels of a corruption with a single parameter."""
    return tuple((value,) for value in values)


def _gaussian(*sigmas: float) -> tuple[tuple[float, int], ...]:
    """(sigma, reach), the Gaussian cut off after 4 sigma as scikit-image does."""
    return tuple((sigma, int(4 * sigma + 0.5)) for sigma in sigmas)


# (sigma,)
GAUSSIAN_NOISE: Levels = {
    "cifar-c": _each(0.04, 0.06, 0.08, 0.09, 0.10),
    "tiny-c": _each(0.04, 0.08, 0.12, 0.15, 0.18),
    "imagenet-c": _each(0.08, 0.12, 0.18, 0.26, 0.38),
}

# (rate,)
SHOT_NOISE: Levels = {
    "cifar-c": _each(500, 250, 100, 75, 50),
    "tiny-c": _each(250, 100, 50, 30, 15),
    "imagenet-c": _each(60, 25, 12, 5, 3),
}

# (amount,)
IMPULSE_NOISE: Levels = {
    "cifar-c": _each(0.01, 0.02, 0.03, 0.05, 0.07),
    "tiny-c": _each(0.01, 0.02, 0.05, 0.08, 0.14),
    "imagenet-c": _each(0.03, 0.06, 0.09, 0.17, 0.27),
}

# (sigma,)
SPECKLE_NOISE: Levels = {
    "cifar-c": _each(0.06, 0.1, 0.12, 0.16, 0.2),
    "tiny-c": _each(0.15, 0.2, 0.25, 0.3, 0.35),
    "imagenet-c": _each(0.15, 0.2, 0.35, 0.45, 0.6),
}

# (sigma, reach)
GAUSSIAN_BLUR: Levels = {
    "cifar-c": _gaussian(0.4, 0.6, 0.7, 0.8, 1),
    "tiny-c": _gaussian(0.5, 0.75, 1, 1.25, 1.5),
    "imagenet-c": _gaussian(1, 2, 3, 4, 6),
}

# (radius, alias_blur)
DEFOCUS_BLUR: Levels = {
    "cifar-c": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "tiny-c": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "imagenet-c": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}

# (sigma, distance, rounds)
GLASS_BLUR: Levels = {
    "cifar-c": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "tiny-c": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "imagenet-c": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}

# (radius, sigma)
MOTION_BLUR: Levels = {
    "cifar-c": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "tiny-c": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "imagenet-c": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}

# (last, step), of numpy.arange(1, stop, step) as published; where rounding adds an enlargement, it is here.
_ZOOM_SMALL = ((1.06, 0.01), (1.11, 0.01), (1.15, 0.01), (1.2, 0.01), (1.25, 0.01))
ZOOM_BLUR: Levels = {
    "cifar-c": _ZOOM_SMALL,
    "tiny-c": _ZOOM_SMALL,
    "imagenet-c": ((1.11, 0.01), (1.15, 0.01), (1.2, 0.02), (1.24, 0.02), (1.3, 0.03)),
}

# (mean, spread, zoom, threshold, radius, sigma, kept)
SNOW: Levels = {
    "cifar-c": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "tiny-c": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    "imagenet-c": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}

# (kept, strength)
FROST: Levels = {
    "cifar-c": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "tiny-c": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    "imagenet-c": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
}

# (thickness, decay)
FOG: Levels = {
    "cifar-c": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "tiny-c": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    "imagenet-c": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}

# (mean, spread, sigma, threshold, strength, mud)
SPATTER: Levels = {
    "cifar-c": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "tiny-c": (
        (0.62, 0.1, 0.7, 0.7, 0.6, 0),
        (0.65, 0.1, 0.8, 0.7, 0.6, 0),
        (0.65, 0.3, 1, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1),
        (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    ),
    "imagenet-c": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
}

# (factor,)
CONTRAST: Levels = {
    "cifar-c": _each(0.75, 0.5, 0.4, 0.3, 0.15),
    "tiny-c": _each(0.4, 0.3, 0.2, 0.1, 0.05),
    "imagenet-c": _each(0.4, 0.3, 0.2, 0.1, 0.05),
}

# (shift,)
BRIGHTNESS: Levels = {
    "cifar-c": _each(0.05, 0.1, 0.15, 0.2, 0.3),
    "tiny-c": _each(0.1, 0.2, 0.3, 0.4, 0.5),
    "imagenet-c": _each(0.1, 0.2, 0.3, 0.4, 0.5),
}

# (factor, shift)
SATURATE: Levels = {
    "cifar-c": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "tiny-c": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    "imagenet-c": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}

# (quality,)
JPEG_COMPRESSION: Levels = {
    "cifar-c": _each(80, 65, 58, 50, 40),
    "tiny-c": _each(65, 58, 50, 40, 25),
    "imagenet-c": _each(25, 18, 15, 10, 7),
}

# (factor,)
PIXELATE: Levels = {
    "cifar-c": _each(0.95, 0.9, 0.85, 0.75, 0.65),
    "tiny-c": _each(0.9, 0.8, 0.7, 0.6, 0.5),
    "imagenet-c": _each(0.6, 0.5, 0.4, 0.3, 0.25),
}


def _elastic(side: int, *shares: tuple[float, float, float]) -> tuple[tuple[float, ...], ...]:
    """(shift, sigma, jitter) in pixels; published as shares of the side, for ImageNet-C of 244 (sic)."""
    return tuple(tuple(side * share for share in level) for level in shares)


ELASTIC_TRANSFORM: Levels = {
    "cifar-c": _elastic(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "tiny-c": _elastic(64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    "imagenet-c": _elastic(
        244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
    ),
}


def preset_for(side: int) -> Preset:
    """The benchmark whose image side is nearest to `side` on a logarithmic scale.

    Up to 45 pixels `cifar-c` (28 and 32), from 46 to 90 `tiny-c` (64), from 91 `imagenet-c` (128 and 224).
    The limits are the geometric means of 32 and 64 and of 64 and 128.

    Args:
      side: of the images in pixels, the shorter one where they are not square.

    Raises:
      ValueError: if `side` is not positive.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel, got {side}")
    if side <= 45:
        return "cifar-c"
    return "tiny-c" if side <= 90 else "imagenet-c"
