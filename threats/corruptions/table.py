"""The table of corruptions by name, and the one call that reaches them all.

A new corruption is a function in a room of its kind (`noise.py`, `blur.py`), its numbers in `presets.py` and
an entry here; the contract tests walk the table.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from threats.corruptions import blur, noise, pixels, presets


class Corruption(NamedTuple):
    """A corruption with its published strengths.

    Attributes:
      function: `(key, images, **parameters)` where `random`, else `(images, **parameters)`; images [*batch,
        h, w, c] in [0, 1] to float32 of the same shape and range.
      random: whether it needs a key.
      parameters: the names of its parameters, in the order of the presets' tuples.
      presets: benchmark name -> five tuples of parameters, mildest first.
      traceable: whether the parameters, and so the severity, may be traced.
    """

    function: Callable[..., jax.Array]
    random: bool
    parameters: tuple[str, ...]
    presets: presets.Levels
    traceable: bool

    def apply(self, key: jax.Array | None, images: jax.Array, **parameters: float | jax.Array) -> jax.Array:
        """Calls `function` with the given parameters, and with the key if it wants one."""
        arguments = (key, images) if self.random else (images,)
        return self.function(*arguments, **parameters)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        noise.gaussian_noise,
        random=True,
        parameters=("sigma",),
        presets=presets.GAUSSIAN_NOISE,
        traceable=True,
    ),
    "defocus_blur": Corruption(
        blur.defocus_blur,
        random=False,
        parameters=("radius", "alias_blur"),
        presets=presets.DEFOCUS_BLUR,
        traceable=False,
    ),
}


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
        images' shorter side, see `preset_for`.

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
    preset = presets.preset_for(min(images.shape[-3:-1])) if preset is None else preset
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
