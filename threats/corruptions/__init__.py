"""Corruptions: what poor light, optics and sensors do to images, at five published severities.

`corrupt(key, images, name="gaussian_noise", severity=3)` reaches every entry of the table `CORRUPTIONS`; the
functions behind it take their parameters directly.
"""

from threats.corruptions.blur import defocus_blur
from threats.corruptions.noise import gaussian_noise
from threats.corruptions.presets import SEVERITIES, preset_for
from threats.corruptions.table import CORRUPTIONS, Corruption, corrupt

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Corruption",
    "corrupt",
    "defocus_blur",
    "gaussian_noise",
    "preset_for",
]
