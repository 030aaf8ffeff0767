"""Letters burnt into an image: names and dates that a device or a doctor has left on it.

MedMNIST-C writes with a font of OpenCV. Here the letters are a bitmap of our own, 5 rows by 3 columns, of the same
advance width; images equal that benchmark's in number, size and colour of the words, not in pixels.

Reference: Di Salvo, Doerrich and Ledig, "MedMNIST-C: Comprehensive benchmark and improved classifier robustness by
simulating realistic image corruptions", 2024, "characters".
"""

import jax
import jax.numpy as jnp
import numpy as np

from threats.corruptions import pixels

_SHORTEST, _SMALLEST, _MARGIN = 3, 0.14, 10
# Pixels of a 224-pixel image that a cell of the bitmap measures at scale 1: letters of OpenCV's font advance by 19.
_CELL = 19 / 4
# No smaller cell is drawn, or letters on small images would vanish.
_LEAST_CELL = 0.5
_SAMPLES = 3
# a to z, rows from above, three bits each.
_LETTERS = (
    "25755 65656 34443 65556 74647 74644 34553 55755 72227 11152 55655 44447 57755 "
    "65555 25552 65644 25563 65655 34216 72222 55557 55552 55775 55255 55222 71247"
)


def _bitmap() -> np.ndarray:
    rows = [[[int(digit) >> shift & 1 for shift in (2, 1, 0)] for digit in letter] for letter in _LETTERS.split()]
    return np.pad(np.array(rows, np.float32), ((0, 0), (0, 0), (0, 1)))


# [26, 5, 4]; the last column is the gap to the next letter.
FONT = _bitmap()


def characters(key: jax.Array, images: jax.Array, *, words: int, letters: int, scale: float) -> jax.Array:
    """1 to `words` words of 3 to `letters` random letters, each word of a random place, size and colour.

    Args:
      key: a random key; it is consumed.
      images: [*batch, h, w, c] float in [0, 1], c = 1 or 3.
      words: largest number of words, >= 1, static.
      letters: largest number of letters, >= 3, static.
      scale: largest size, >= 0.14, static: at 224 pixels letters are 24 `scale` pixels high. They scale with the
        shorter side, but not below 2.5 pixels.

    Returns:
      [*batch, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: if `images` are no float images or a parameter is out of range.

    Reference: Di Salvo, Doerrich and Ledig, 2024, "characters", with letters of our own.
    """
    pixels.require("words", words, 1)
    pixels.require("letters", letters, _SHORTEST)
    pixels.require("scale", scale, _SMALLEST)

    def written(own_key: jax.Array, image: jax.Array) -> jax.Array:
        number_key, word_key = jax.random.split(own_key)
        number = 1 + jnp.floor(words * jax.random.uniform(number_key))

        def write(place: jax.Array, image: jax.Array) -> jax.Array:
            cover_key, colour_key = jax.random.split(jax.random.fold_in(word_key, place))
            ink = _word(cover_key, image, int(letters), scale)[..., None] * jnp.where(place < number, 1.0, 0.0)
            return image + ink * (jax.random.uniform(colour_key, (1, 1, image.shape[-1])) - image)

        return jnp.clip(jax.lax.fori_loop(0, int(words), write, image), 0.0, 1.0)

    return pixels.each_image(written, key, images)


def _word(key: jax.Array, image: jax.Array, letters: int, scale: float) -> jax.Array:
    """[h, w] in [0, 1]: how much of each pixel one word covers."""
    length_key, size_key, place_key, letter_key = jax.random.split(key, 4)
    length = _SHORTEST + jnp.floor((letters - _SHORTEST + 1) * jax.random.uniform(length_key))
    size = jax.random.uniform(size_key, minval=_SMALLEST, maxval=max(scale, _SMALLEST + 1e-6))
    cell = jnp.maximum(_CELL * size * pixels.unit(image), _LEAST_CELL)
    margin = _MARGIN * pixels.unit(image)
    room = jnp.stack([image.shape[0] - 2 * margin - 5 * cell, image.shape[1] - 2 * margin - 4 * cell * length])
    corner = margin + jnp.maximum(room, 0.0) * jax.random.uniform(place_key, (2,))
    chosen = jax.random.randint(letter_key, (letters,), 0, len(FONT))
    rows, columns = pixels.places(image)
    font = jnp.asarray(FONT)

    def ink(offset: jax.Array) -> jax.Array:
        down, right = offset
        row = jnp.floor((rows + down - corner[0]) / cell).astype(jnp.int32)
        column = jnp.floor((columns + right - corner[1]) / cell).astype(jnp.int32)
        letter = chosen[jnp.clip(column // 4, 0, letters - 1)]
        inside = (row >= 0) & (row < 5) & (column >= 0) & (column < 4 * length.astype(jnp.int32))
        return jnp.where(inside, font[letter, jnp.clip(row, 0, 4), column % 4], 0.0)

    steps = (np.arange(_SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES
    offsets = jnp.asarray(np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2))
    return jnp.mean(jax.vmap(ink)(offsets), axis=0)
