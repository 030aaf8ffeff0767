"""What lies on a slide, a lens or an image and hides a part of it: stain deposits, bubbles, black corners.

Lengths are given for images of 224 pixels and scale with the shorter side. Under one key, marks at a higher severity
include those of a lower one, or lie at the same places.

Reference: Di Salvo, Doerrich and Ledig, "MedMNIST-C: Comprehensive benchmark and improved classifier robustness by
simulating realistic image corruptions", 2024, and the code published with it.
"""

import jax
import jax.numpy as jnp

from threats.corruptions import pixels

# Of a deposit: pixels from the edge, smallest and largest mean radius; harmonics of the outline.
_MARGIN, _SMALLEST, _LARGEST, _HARMONICS = 10, 8, 20, 5
# Of bubbles: smallest number and radius, width of the rim in pixels, opacity inside and on the rim.
_FEWEST, _LEAST, _RIM, _INSIDE, _ON_RIM = 7, 3, 2, 100 / 255, 130 / 255


def stain_deposit(key: jax.Array, images: jax.Array, *, most: int) -> jax.Array:
    """Dark blots of stain, 1 to `most` of them, at random places.

    MedMNIST-C places drawn ink marks that come with its code. They are not used here: each blot has a random outline of
    its own, so images equal that benchmark's in number and kind of marks, not in pixels.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      most: largest number of blots, >= 1, static; the number is uniform.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `most` is below 1.

    Reference: Di Salvo, Doerrich and Ledig, 2024, "stain deposit", with blots of our own.
    """
    pixels.require("most", most, 1)

    def stained(own_key: jax.Array, image: jax.Array) -> jax.Array:
        number_key, blot_key = jax.random.split(own_key)
        number = 1 + jnp.floor(most * jax.random.uniform(number_key))
        places = jnp.arange(int(most))
        ink = jax.vmap(lambda place: _blot(jax.random.fold_in(blot_key, place), image))(places)
        clear = jnp.where((places.astype(jnp.float32) < number)[:, None, None], 1 - ink, 1.0)
        return jnp.clip(image * jnp.prod(clear, axis=0)[..., None], 0.0, 1.0)

    return pixels.each_image(stained, key, images)


def bubble(key: jax.Array, images: jax.Array, *, largest: float, most: int) -> jax.Array:
    """Air under the cover glass: 7 to `most` white disks with a brighter rim, half transparent; later ones lie on top.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      largest: radius in pixels of a 224-pixel image, >= 3, static; radii are uniform from 3.
      most: largest number of bubbles, >= 7, static; the number is uniform.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Di Salvo, Doerrich and Ledig, 2024, "bubble". Edges are smooth here, so that small images show them.
    """
    pixels.require("largest", largest, _LEAST)
    pixels.require("most", most, _FEWEST)

    def bubbled(own_key: jax.Array, image: jax.Array) -> jax.Array:
        number_key, bubble_key = jax.random.split(own_key)
        number = _FEWEST + jnp.floor((most - _FEWEST + 1) * jax.random.uniform(number_key))
        rows, columns = pixels.places(image)
        height, width = image.shape[:2]
        scale = pixels.unit(image)

        def blow(opacity: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
            draws = jax.random.uniform(jax.random.fold_in(bubble_key, place.astype(jnp.int32)), (3,))
            radius = scale * (_LEAST + (largest - _LEAST) * draws[0])
            row, column = (
                radius + (side - 1 - 2 * radius) * draw for side, draw in ((height, draws[1]), (width, draws[2]))
            )
            away = jnp.sqrt((rows - row) ** 2 + (columns - column) ** 2)
            wider = opacity
            for reach, share in ((radius + scale * _RIM, _ON_RIM), (radius, _INSIDE)):
                covered = jnp.clip(reach - away + 0.5, 0.0, 1.0)
                wider = wider + covered * (share - wider)
            return jnp.where(place < number, wider, opacity), None

        opacity = jax.lax.scan(blow, jnp.zeros((height, width)), jnp.arange(most, dtype=jnp.float32))[0][..., None]
        return jnp.clip(image + opacity * (1 - image), 0.0, 1.0)

    return pixels.each_image(bubbled, key, images)


def black_corner(images: jax.Array, *, reach: float | jax.Array) -> jax.Array:
    """The tube of a dermatoscope: black outside a disk in the middle.

    Args:
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      reach: radius of the disk in halves of the shorter side, >= 0, a scalar; it may be traced.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or `reach` is negative.

    Reference: Di Salvo, Doerrich and Ledig, 2024, "black corner".
    """
    images = pixels.as_float32(images)
    pixels.require("reach", reach, 0.0)
    height, width = images.shape[-3:-1]
    rows, columns = pixels.places(images)
    radius = jnp.floor(min(height // 2, width // 2) * jnp.asarray(reach, jnp.float32) + 1e-4)
    inside = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2
    shown = jnp.where(inside[..., None], 1.0, 0.0) + 0 * radius
    return jnp.clip(images * shown.reshape((1,) * (images.ndim - 3) + shown.shape), 0.0, 1.0)


def _blot(key: jax.Array, image: jax.Array) -> jax.Array:
    """[h, w] in [0, 1]: opacity of one blot, whose outline is a circle with random waves."""
    place_key, size_key, wave_key = jax.random.split(key, 3)
    rows, columns = pixels.places(image)
    scale = pixels.unit(image)
    margin = scale * (_MARGIN + _LARGEST)
    row, column = (
        margin + (side - 2 * margin) * draw
        for side, draw in zip(image.shape[:2], jax.random.uniform(place_key, (2,)), strict=True)
    )
    radius = scale * jax.random.uniform(size_key, minval=_SMALLEST, maxval=_LARGEST)
    down, right = rows - row, columns - column
    # A gap of one pixel would have no direction.
    angle = jnp.arctan2(down, jnp.where((down == 0) & (right == 0), 1.0, right))
    outline = jnp.ones_like(angle)
    for number, (size, phase) in enumerate(jax.random.uniform(wave_key, (_HARMONICS, 2)), start=2):
        outline = outline + 0.5 / number * size * jnp.cos(number * angle + 2 * jnp.pi * phase)
    return 0.9 * jnp.clip(radius * outline - jnp.sqrt(down**2 + right**2) + 0.5, 0.0, 1.0)
