"""Edges of a layer of 8-bit values, and the distance to them, as OpenCV computes both.

References: Canny, "A Computational Approach to Edge Detection", PAMI 1986; Borgefors, "Distance Transformations in
Digital Images", CVGIP 1986, table 5 (5 x 5 mask: 1, 1.4, 2.1969).
"""

import jax
import jax.numpy as jnp

# tan(22.5 degrees), in the 15 binary digits that OpenCV gives it.
_TANGENT = round(0.4142135623730950488 * 2**15) / 2**15
# Row and column offset of half the mask's neighbours, and their distance; the other half lies opposite.
_MASK = (
    (0, 1, 1.0), (1, 0, 1.0), (1, 1, 1.4), (1, -1, 1.4),
    (1, 2, 2.1969), (2, 1, 2.1969), (1, -2, 2.1969), (2, -1, 2.1969),
)  # fmt: skip


def canny(layer: jax.Array, *, low: float, high: float) -> jax.Array:
    """[h, w] bool: the ridges of the gradient above `low` that are connected to one above `high`.

    The gradient is Sobel's 3 x 3, its size |dx| + |dy|; edge pixels are repeated outside.

    Args:
      layer: [h, w] float32 whole numbers in 0..255.
      low: threshold of the gradient's size.
      high: the same for where an edge starts.
    """
    right, down = _sobel(layer)
    size = jnp.abs(right) + jnp.abs(down)
    around = jnp.pad(size, 1)

    def neighbour(row: int, column: int) -> jax.Array:
        return around[1 + row : 1 + row + size.shape[0], 1 + column : 1 + column + size.shape[1]]

    across, along = jnp.abs(right), jnp.abs(down)
    flat = along < across * _TANGENT
    steep = along > across * (_TANGENT + 2)
    falling = (right < 0) != (down < 0)
    diagonal = jnp.where(
        falling,
        (size > neighbour(-1, 1)) & (size > neighbour(1, -1)),
        (size > neighbour(-1, -1)) & (size > neighbour(1, 1)),
    )
    level = (size > neighbour(0, -1)) & (size >= neighbour(0, 1))
    upright = (size > neighbour(-1, 0)) & (size >= neighbour(1, 0))
    ridge = (size > low) & jnp.where(flat, level, jnp.where(steep, upright, diagonal))
    return _connected(ridge & (size > high), ridge)


def distance(marked: jax.Array, *, farthest: int) -> jax.Array:
    """[h, w] float32: the shortest way to a marked pixel by the steps of the 5 x 5 mask, at most `farthest`."""
    height, width = marked.shape

    def relax(_: int, found: jax.Array) -> jax.Array:
        padded = jnp.pad(found, 2, constant_values=farthest)
        for down, right, length in _MASK:
            for sign in (1, -1):
                row, column = 2 + sign * down, 2 + sign * right
                found = jnp.minimum(found, length + padded[row : row + height, column : column + width])
        return found

    return jax.lax.fori_loop(0, farthest, relax, jnp.where(marked, 0.0, float(farthest)))


def _sobel(layer: jax.Array) -> tuple[jax.Array, jax.Array]:
    padded = jnp.pad(layer, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]


def _connected(seeds: jax.Array, allowed: jax.Array) -> jax.Array:
    """The seeds and all of `allowed` that touches them, by a side or a corner, directly or through others."""

    def spread(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        found, _ = state
        wider = jax.lax.reduce_window(found, False, jax.lax.bitwise_or, (3, 3), (1, 1), "SAME") & allowed
        return wider, jnp.any(wider != found)

    return jax.lax.while_loop(lambda state: state[1], spread, (seeds, jnp.bool_(True)))[0]
