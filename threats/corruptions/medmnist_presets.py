"""Strengths of MedMNIST-C, five severities per corruption and data set.

They were made for 224 pixels. `medmnist-c/derma` and its like can be given at any size: stain deposits, bubbles, black
corners and characters scale their lengths with the side, the blurs do not. Brightness and contrast of this benchmark
multiply and are table entries of their own (`brightness_up`, ...). Its saturation adds to S. Its Gaussian blur is given
by the kernel's size k, with sigma = 0.3 ((k - 1) / 2 - 1) + 0.8 as torchvision chooses it, and reflects at the borders,
where ours repeats the edge. Severities 4 and 5 of the black corner are published in this order. Lists of more than five
strengths are cut to the five severities that are used.

Reference: Di Salvo, Doerrich and Ledig, "MedMNIST-C: Comprehensive benchmark and improved classifier robustness by
simulating realistic image corruptions", 2024: the constants of the code published with it.
"""

from collections.abc import Mapping

from threats.corruptions import presets

_Levels = tuple[tuple[float, ...], ...]


def _each(*values: float) -> _Levels:
    return tuple((value,) for value in values)


def _kernels(*sizes: int) -> _Levels:
    """(sigma, reach) of torchvision's Gaussian kernels."""
    return tuple((0.3 * ((size - 1) / 2 - 1) + 0.8, (size - 1) // 2) for size in sizes)


def _added(*shifts: float) -> _Levels:
    """(factor, shift) of a saturation that is added to."""
    return tuple((1.0, shift) for shift in shifts)


_DOWN = _each(0.9, 0.8, 0.7, 0.6, 0.5)
_DOWN_FAR = _each(0.9, 0.8, 0.7, 0.6, 0.4)
_UP = _each(1.1, 1.2, 1.3, 1.4, 1.5)
_UP_FAR = _each(1.1, 1.2, 1.3, 1.4, 1.6)
_JPEG = _each(50, 30, 15, 10, 7)
_TENTHS = _each(0.3, 0.25, 0.2, 0.15, 0.1)
_SMEARED = ((10, 5), (15, 5), (15, 8), (15, 12), (20, 15))

_ORGANS: Mapping[str, _Levels] = {
    "pixelate": _each(0.7, 0.6, 0.5, 0.4, 0.35),
    "jpeg_compression": _JPEG,
    "gaussian_noise": _each(0.04, 0.08, 0.12, 0.16, 0.20),
    "speckle_noise": _each(0.05, 0.10, 0.20, 0.30, 0.40),
    "impulse_noise": _each(0.01, 0.02, 0.03, 0.05, 0.08),
    "shot_noise": _each(200, 100, 50, 25, 15),
    "gaussian_blur": _kernels(11, 13, 15, 17, 21),
    "brightness_up": _each(1.2, 1.3, 1.4, 1.5, 1.6),
    "brightness_down": _each(0.8, 0.75, 0.7, 0.65, 0.6),
    "contrast_up": _each(1.3, 1.4, 1.6, 1.7, 1.8),
    "contrast_down": _each(0.8, 0.7, 0.6, 0.55, 0.5),
    "gamma_corr_up": _each(1.3, 1.4, 1.6, 1.8, 2.0),
    "gamma_corr_down": _DOWN_FAR,
}

SETS: Mapping[str, Mapping[str, _Levels]] = {
    "path": {
        "pixelate": _each(0.8, 0.6, 0.4, 0.3, 0.25),
        "jpeg_compression": _JPEG,
        "defocus_blur": ((3, 0.1), (4, 0.1), (5, 0.2), (6, 0.2), (7, 0.3)),
        "motion_blur": ((5, 5), (10, 5), (15, 5), (15, 8), (15, 12)),
        "brightness_up": _each(1.1, 1.15, 1.2, 1.22, 1.25),
        "brightness_down": _each(0.85, 0.8, 0.75, 0.72, 0.7),
        "contrast_up": _UP_FAR,
        "contrast_down": _each(0.8, 0.7, 0.6, 0.55, 0.5),
        "saturate": _added(0.05, 0.1, 0.15, 0.2, 0.25),
        "stain_deposit": _each(1, 2, 3, 4, 5),
        "bubble": ((7, 15), (10, 15), (12, 15), (15, 20), (17, 25)),
    },
    "blood": {
        "pixelate": _each(0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": _JPEG,
        "defocus_blur": ((2, 0.01), (3, 0.1), (4, 0.1), (5, 0.1), (6, 0.1)),
        "motion_blur": ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9)),
        "brightness_up": _each(1.1, 1.2, 1.3, 1.35, 1.4),
        "brightness_down": _DOWN,
        "contrast_up": _each(1.1, 1.15, 1.2, 1.25, 1.3),
        "contrast_down": _DOWN,
        "saturate": _added(0.05, 0.1, 0.15, 0.17, 0.2),
        "stain_deposit": _each(1, 2, 3, 3, 3),
        "bubble": ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12)),
    },
    "derma": {
        "pixelate": _each(0.7, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": _each(30, 20, 15, 10, 7),
        "gaussian_noise": _each(0.04, 0.08, 0.12, 0.18, 0.26),
        "speckle_noise": _each(0.05, 0.15, 0.2, 0.35, 0.45),
        "impulse_noise": _each(0.01, 0.03, 0.06, 0.09, 0.17),
        "shot_noise": _each(60, 25, 18, 10, 5),
        "defocus_blur": ((4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4), (8, 0.5)),
        "motion_blur": _SMEARED,
        "zoom_blur": presets.ZOOM_BLUR["imagenet-c"],
        "brightness_up": _UP,
        "brightness_down": _DOWN,
        "contrast_up": _UP_FAR,
        "contrast_down": _each(0.8, 0.7, 0.6, 0.5, 0.4),
        "black_corner": _each(1.10, 1.05, 1.00, 0.90, 0.95),
        "characters": ((1, 6, 0.14), (2, 7, 0.15), (3, 8, 0.16), (4, 9, 0.17), (6, 10, 0.18)),
    },
    "retina": {
        "pixelate": _each(0.8, 0.6, 0.5, 0.4, 0.35),
        "jpeg_compression": _each(30, 25, 20, 10, 5),
        "gaussian_noise": _each(0.04, 0.08, 0.12, 0.16, 0.20),
        "speckle_noise": _each(0.10, 0.15, 0.20, 0.25, 0.30),
        "defocus_blur": ((4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4), (8, 0.5)),
        "motion_blur": ((8, 5), (15, 5), (15, 8), (15, 12), (20, 15)),
        "brightness_down": _DOWN,
        "contrast_down": _DOWN_FAR,
    },
    "tissue": {
        "pixelate": _each(0.4, 0.3, 0.2, 0.15, 0.1),
        "jpeg_compression": _each(25, 20, 15, 10, 7),
        "impulse_noise": _each(0.01, 0.015, 0.02, 0.025, 0.03),
        "gaussian_blur": _kernels(13, 15, 17, 21, 25),
        "brightness_up": _each(1.3, 1.4, 1.5, 1.6, 1.7),
        "brightness_down": _each(0.8, 0.7, 0.6, 0.5, 0.4),
        "contrast_up": _UP_FAR,
        "contrast_down": _DOWN_FAR,
    },
    "oct": {
        "pixelate": _TENTHS,
        "jpeg_compression": _each(30, 15, 10, 7, 5),
        "speckle_noise": _each(0.15, 0.30, 0.40, 0.50, 0.60),
        "defocus_blur": ((0.5, 0.6), (1, 0.5), (1.5, 0.1), (2.0, 0.5), (2.5, 0.1)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "contrast_down": _each(0.6, 0.4, 0.3, 0.2, 0.15),
    },
    "breast": {
        "pixelate": _TENTHS,
        "jpeg_compression": _JPEG,
        "speckle_noise": _each(0.10, 0.15, 0.20, 0.25, 0.30),
        "motion_blur": ((5, 5), (9, 7), (9, 10), (13, 10), (17, 12)),
        "brightness_up": _each(1.4, 1.5, 1.6, 1.8, 2.0),
        "brightness_down": _each(0.55, 0.5, 0.45, 0.4, 0.3),
        "contrast_down": _DOWN_FAR,
    },
    "chest": {
        "pixelate": _TENTHS,
        "jpeg_compression": _JPEG,
        "gaussian_noise": _each(0.04, 0.08, 0.12, 0.18, 0.26),
        "speckle_noise": _each(0.05, 0.15, 0.2, 0.35, 0.45),
        "impulse_noise": _each(0.01, 0.03, 0.06, 0.09, 0.17),
        "shot_noise": _each(60, 25, 18, 10, 5),
        "gaussian_blur": _kernels(3, 5, 7, 9, 11),
        "brightness_up": _UP,
        "brightness_down": _DOWN,
        "contrast_up": _UP_FAR,
        "contrast_down": _DOWN_FAR,
        "gamma_corr_up": _UP_FAR,
        "gamma_corr_down": _DOWN_FAR,
    },
    "pneumonia": {
        "pixelate": _each(0.8, 0.7, 0.6, 0.5, 0.4),
        "jpeg_compression": _JPEG,
        "gaussian_noise": _each(0.04, 0.05, 0.06, 0.07, 0.08),
        "speckle_noise": _each(0.05, 0.07, 0.10, 0.15, 0.20),
        "impulse_noise": _each(0.005, 0.01, 0.013, 0.017, 0.02),
        "shot_noise": _each(300, 200, 150, 100, 80),
        "gaussian_blur": _kernels(3, 5, 7, 9, 11),
        "brightness_up": _UP,
        "brightness_down": _DOWN,
        "contrast_up": _UP_FAR,
        "contrast_down": _DOWN_FAR,
        "gamma_corr_up": _UP_FAR,
        "gamma_corr_down": _DOWN_FAR,
    },
    "organa": _ORGANS,
    "organc": _ORGANS,
    "organs": _ORGANS,
}


def of(name: str) -> presets.Levels:
    """The presets `medmnist-c/...` of a corruption, of every set that the benchmark corrupts so."""
    return {f"medmnist-c/{subject}": levels[name] for subject, levels in SETS.items() if name in levels}
