"""Published strengths of each corruption at severities 1 to 5, per benchmark, and the benchmark for an image's side.

A corruption's presets map a benchmark's name to five tuples of parameters, mildest first. `imagenet-c` was
made for 224 pixels, `tiny-c` for 64 and `cifar-c` for 32; the same number of pixels hides more of a smaller
image.

Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019: the constants of the code published with ImageNet-C, Tiny ImageNet-C and CIFAR-10-C.
"""

from collections.abc import Mapping
from typing import Literal

Preset = Literal["cifar-c", "tiny-c", "imagenet-c"]
Levels = Mapping[str, tuple[tuple[float, ...], ...]]

SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)

# (sigma,)
GAUSSIAN_NOISE: Levels = {
    "cifar-c": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "tiny-c": ((0.04,), (0.08,), (0.12,), (0.15,), (0.18,)),
    "imagenet-c": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
}

# (radius, alias_blur)
DEFOCUS_BLUR: Levels = {
    "cifar-c": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "tiny-c": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "imagenet-c": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
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
