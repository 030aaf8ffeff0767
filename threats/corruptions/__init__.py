"""Corruptions: what poor light, optics, weather, sensors, codecs and slides do to images, at five published severities.

`corrupt(key, images, name="gaussian_noise", severity=3)` reaches every entry of the table `CORRUPTIONS`; the
functions behind it take their parameters directly. `metrics` turns errors on them into the benchmarks' scores.
"""

from threats.corruptions.blur import defocus_blur
from threats.corruptions.clouds import fog
from threats.corruptions.colour import brightness, contrast, exposure, gamma_correction, gray_contrast, saturate
from threats.corruptions.crystals import frost
from threats.corruptions.digital import elastic_transform, pixelate
from threats.corruptions.drops import spatter
from threats.corruptions.flakes import snow
from threats.corruptions.glass import glass_blur
from threats.corruptions.jpeg import jpeg_compression
from threats.corruptions.letters import characters
from threats.corruptions.marks import black_corner, bubble, stain_deposit
from threats.corruptions.metrics import balanced_error, mean_corruption_error
from threats.corruptions.motion import motion_blur
from threats.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from threats.corruptions.presets import SEVERITIES, preset_for
from threats.corruptions.smoothing import gaussian_blur, zoom_blur
from threats.corruptions.table import CORRUPTIONS, KINDS, Corruption, corrupt

__all__ = [
    "CORRUPTIONS",
    "KINDS",
    "SEVERITIES",
    "Corruption",
    "balanced_error",
    "black_corner",
    "brightness",
    "bubble",
    "characters",
    "contrast",
    "corrupt",
    "defocus_blur",
    "elastic_transform",
    "exposure",
    "fog",
    "frost",
    "gamma_correction",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "gray_contrast",
    "impulse_noise",
    "jpeg_compression",
    "mean_corruption_error",
    "motion_blur",
    "pixelate",
    "preset_for",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "stain_deposit",
    "zoom_blur",
]
