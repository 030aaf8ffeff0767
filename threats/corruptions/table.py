"""The table of corruptions by name, and the one call that reaches them all.

A new corruption is a function in a module of its kind (`noise.py`, `blur.py`), its numbers in `presets.py` and
an entry here; the contract tests walk the table. The first nineteen are those of ImageNet-C, the others MedMNIST-C's
own.
"""

import inspect
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from threats.corruptions import (
    blur,
    clouds,
    colour,
    crystals,
    digital,
    drops,
    flakes,
    glass,
    jpeg,
    letters,
    marks,
    medmnist_presets,
    motion,
    noise,
    pixels,
    presets,
    smoothing,
)


class Corruption(NamedTuple):
    """A corruption with its published strengths.

    Attributes:
      function: `(key, images, **parameters)` where `random`, else `(images, **parameters)`; images [*batch,
        h, w, c] in [0, 1] to float32 of the same shape and range.
      kind: one of `KINDS`.
      random: whether it needs a key.
      parameters: the names of its parameters, in the order of the presets' tuples.
      presets: benchmark name -> five tuples of parameters, mildest first.
      traceable: whether the parameters, and so the severity, may be traced.
      differentiable: whether a gradient through it says how the result follows the image; where not, it is zero.
    """

    function: Callable[..., jax.Array]
    kind: str
    random: bool
    parameters: tuple[str, ...]
    presets: presets.Levels
    traceable: bool
    differentiable: bool

    def apply(self, key: jax.Array | None, images: jax.Array, **parameters: float | jax.Array) -> jax.Array:
        """Calls `function` with the given parameters, and with the key if it wants one."""
        arguments = (key, images) if self.random else (images,)
        return self.function(*arguments, **parameters)

    def default_preset(self, side: int) -> str:
        """The benchmark for images of that side (`presets.preset_for`), or the first of `presets` if it has none."""
        preset = presets.preset_for(side)
        return preset if preset in self.presets else next(iter(self.presets))


KINDS = ("noise", "blur", "weather", "light", "digital", "mark")


def _entry(
    name: str,
    function: Callable[..., jax.Array],
    kind: str,
    parameters: str,
    published: presets.Levels | None = None,
    *,
    traceable: bool = False,
    differentiable: bool = True,
) -> tuple[str, Corruption]:
    """A line of the table; MedMNIST-C's presets join the published ones."""
    takes_key = next(iter(inspect.signature(function).parameters)) == "key"
    levels = {**(published or {}), **medmnist_presets.of(name)}
    names = tuple(parameters.split())
    return name, Corruption(function, kind, takes_key, names, levels, traceable, differentiable)


CORRUPTIONS: dict[str, Corruption] = dict((
    _entry("gaussian_noise", noise.gaussian_noise, "noise", "sigma", presets.GAUSSIAN_NOISE, traceable=True),
    _entry("shot_noise", noise.shot_noise, "noise", "rate", presets.SHOT_NOISE, traceable=True, differentiable=False),
    _entry("impulse_noise", noise.impulse_noise, "noise", "amount", presets.IMPULSE_NOISE, traceable=True),
    _entry("speckle_noise", noise.speckle_noise, "noise", "sigma", presets.SPECKLE_NOISE, traceable=True),
    _entry("defocus_blur", blur.defocus_blur, "blur", "radius alias_blur", presets.DEFOCUS_BLUR),
    _entry("glass_blur", glass.glass_blur, "blur", "sigma distance rounds", presets.GLASS_BLUR),
    _entry("motion_blur", motion.motion_blur, "blur", "radius sigma", presets.MOTION_BLUR),
    _entry("zoom_blur", smoothing.zoom_blur, "blur", "last step", presets.ZOOM_BLUR),
    _entry("gaussian_blur", smoothing.gaussian_blur, "blur", "sigma reach", presets.GAUSSIAN_BLUR),
    _entry("snow", flakes.snow, "weather", "mean spread zoom threshold radius sigma kept", presets.SNOW),
    _entry("frost", crystals.frost, "weather", "kept strength", presets.FROST, traceable=True),
    _entry("fog", clouds.fog, "weather", "thickness decay", presets.FOG, traceable=True),
    _entry("spatter", drops.spatter, "weather", "mean spread sigma threshold strength mud", presets.SPATTER),
    _entry("brightness", colour.brightness, "light", "shift", presets.BRIGHTNESS, traceable=True),
    _entry("contrast", colour.contrast, "digital", "factor", presets.CONTRAST, traceable=True),
    _entry("saturate", colour.saturate, "digital", "factor shift", presets.SATURATE, traceable=True),
    _entry("elastic_transform", digital.elastic_transform, "digital", "shift sigma jitter", presets.ELASTIC_TRANSFORM),
    _entry("pixelate", digital.pixelate, "digital", "factor", presets.PIXELATE),
    _entry(
        "jpeg_compression", jpeg.jpeg_compression, "digital", "quality", presets.JPEG_COMPRESSION,
        traceable=True, differentiable=False,
    ),
    _entry("brightness_up", colour.exposure, "light", "factor", traceable=True),
    _entry("brightness_down", colour.exposure, "light", "factor", traceable=True),
    _entry("contrast_up", colour.gray_contrast, "digital", "factor", traceable=True),
    _entry("contrast_down", colour.gray_contrast, "digital", "factor", traceable=True),
    _entry("gamma_corr_up", colour.gamma_correction, "light", "gamma", traceable=True),
    _entry("gamma_corr_down", colour.gamma_correction, "light", "gamma", traceable=True),
    _entry("stain_deposit", marks.stain_deposit, "mark", "most"),
    _entry("bubble", marks.bubble, "mark", "largest most"),
    _entry("black_corner", marks.black_corner, "mark", "reach", traceable=True),
    _entry("characters", letters.characters, "mark", "words letters scale"),
))  # fmt: skip


def corrupt(
    key: jax.Array | None,
    images: jax.Array,
    *,
    name: str,
    severity: int | jax.Array,
    preset: str | None = None,
) -> jax.Array:
    """Corrupts each image by the named corruption at a published strength.

    Args:
      key: a random key, consumed; None will do for a corruption that is not random.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3. Every image gets its own random draw.
      name: one of `CORRUPTIONS`.
      severity: 1 (mild) to 5 (severe), static. Where the table says `traceable` it may also be a traced
        integer scalar, so that one compilation serves all five; as a tracer cannot be refused, one outside
        1..5 gives NaN.
      preset: whose five strengths to use, one of the corruption's `presets`; by default the one for the
        images' shorter side, see `Corruption.default_preset`.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: on an unknown name, preset or severity, a missing key, or images that are no float images or
        too small.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"name must be one of {tuple(CORRUPTIONS)}, got {name!r}")
    corruption = CORRUPTIONS[name]
    if corruption.random and key is None:
        raise ValueError(f"key must be a random key for {name!r}, got None")
    images = pixels.as_float32(images)
    preset = corruption.default_preset(min(images.shape[-3:-1])) if preset is None else preset
    if preset not in corruption.presets:
        raise ValueError(f"preset must be one of {tuple(corruption.presets)} for {name!r}, got {preset!r}")
    return corruption.apply(key, images, **_parameters(name, preset, severity))


def _parameters(name: str, preset: str, severity: int | jax.Array) -> dict[str, float | jax.Array]:
    """Parameter name -> its value at the severity; an array where the severity is one."""
    corruption = CORRUPTIONS[name]
    levels = corruption.presets[preset]
    if not isinstance(severity, jax.Array):
        index = _static_index(severity, len(levels))
        return dict(zip(corruption.parameters, levels[index], strict=True))
    if not corruption.traceable:
        raise ValueError(f"severity must be a static Python int for {name!r}, got an array: mark it static under jit")
    if severity.ndim or not jnp.issubdtype(severity.dtype, jnp.integer):
        raise ValueError(f"severity must be an integer scalar, got {severity.dtype} of shape {severity.shape}")
    rows = jnp.asarray(levels, jnp.float32).at[severity - 1]
    row = rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return dict(zip(corruption.parameters, row, strict=True))


def _static_index(severity: int, count: int) -> int:
    try:
        index = operator.index(severity) - 1
    except TypeError:
        index = -1
    if not 0 <= index < count:
        raise ValueError(f"severity must be one of {presets.SEVERITIES}, got {severity!r}")
    return index
