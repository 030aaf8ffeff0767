"""Scenes of blood cells to pixels: discs and outlines with soft edges, painted one over the other.

Every coverage is clip(1/2 - d / w, 0, 1), with d the distance from the outline (positive outside) and w the width of an
edge. Pixels see only +, -, *, / and square roots, which are exactly rounded everywhere: the same scene gives the same
image on every machine, and the same cell at every size.
"""

import numpy as np

from mamba_jax.data import cells

_RED_CELL = np.array([0.80, 0.66, 0.61], np.float32)
_DEBRIS = np.array([0.40, 0.24, 0.50], np.float32)
_GRAIN = 14
_NOISE = 0.022


def draw(rng: np.random.Generator, scenes: cells.Scenes, *, size: int) -> np.ndarray:
    """Paints n scenes.

    Args:
      rng: of the grain of the granules and the noise of the camera.
      scenes: what is to be seen.
      size: side in pixels.

    Returns:
      [n, size, size, 3] uint8.
    """
    n = len(scenes.cell)
    axis = (2.0 * np.arange(size, dtype=np.float32) + 1.0) / size - 1.0
    x, y = axis[None, None, :], axis[None, :, None]
    width = _each(np.maximum(scenes.focus, np.float32(2.0 / size)))
    image = np.broadcast_to(_colour(scenes.background), (n, size, size, 3)).copy()
    for disc in np.moveaxis(scenes.neighbours, 1, 0):
        image = _paint(image, _red_cell(x, y, disc, width, scenes.pallor), _colour(_RED_CELL * scenes.stain))
    for disc in np.moveaxis(scenes.debris, 1, 0):
        image = _paint(image, _disc(x, y, disc, width), _colour(_DEBRIS * scenes.stain))
    body = _outline(x, y, scenes, width)
    nucleus = np.minimum(_nucleus(x, y, scenes, width), body)
    grain = _grain(rng, n, size)
    in_cytoplasm = np.clip(3.0 * (grain - 1.0 + _each(scenes.granularity)), 0.0, 1.0)
    in_nucleus = np.clip(3.0 * (grain - 1.0 + _each(scenes.over)), 0.0, 1.0)
    image = _paint(image, body, _colour(scenes.cytoplasm * scenes.stain))
    image = _paint(image, np.float32(0.8) * body * in_cytoplasm, _colour(scenes.granules * scenes.stain))
    shade = _colour(scenes.nucleus * scenes.stain) * (0.88 + 0.24 * grain[..., None])
    image = _paint(image, nucleus, shade)
    image = _paint(image, np.float32(0.8) * nucleus * in_nucleus, _colour(scenes.granules * scenes.stain))
    image += np.float32(_NOISE) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)


def _paint(image: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return image + cover[..., None] * (colour - image)


def _cover(distance: np.ndarray, width: np.ndarray) -> np.ndarray:
    return np.clip(np.float32(0.5) - distance / width, 0.0, 1.0)


def _disc(x: np.ndarray, y: np.ndarray, disc: np.ndarray, width: np.ndarray) -> np.ndarray:
    radius = _each(disc[:, 2])
    distance = np.sqrt((x - _each(disc[:, 0])) ** 2 + (y - _each(disc[:, 1])) ** 2) - radius
    return np.where(radius > 0.0, _cover(distance, width), np.float32(0.0))


def _red_cell(x: np.ndarray, y: np.ndarray, disc: np.ndarray, width: np.ndarray, pallor: np.ndarray) -> np.ndarray:
    centre = disc * np.array([1.0, 1.0, 0.45], np.float32)
    return _disc(x, y, disc, width) * (1.0 - _each(pallor) * _disc(x, y, centre, 2.0 * width))


def _outline(x: np.ndarray, y: np.ndarray, scenes: cells.Scenes, width: np.ndarray) -> np.ndarray:
    """r = R (1 + a cos 2t + b cos 3t) about the axis; the multiple angles are polynomials of (cos t, sin t)."""
    dx, dy = x - _each(scenes.cell[:, 0]), y - _each(scenes.cell[:, 1])
    r = np.sqrt(dx**2 + dy**2) + np.float32(1e-6)
    cos = (dx * _each(scenes.axis[:, 0]) + dy * _each(scenes.axis[:, 1])) / r
    second = 2.0 * cos**2 - 1.0
    third = cos * (4.0 * cos**2 - 3.0)
    wave = 1.0 + _each(scenes.wobble[:, 0]) * second + _each(scenes.wobble[:, 1]) * third
    return _cover(r - _each(scenes.cell[:, 2]) * wave, width)


def _nucleus(x: np.ndarray, y: np.ndarray, scenes: cells.Scenes, width: np.ndarray) -> np.ndarray:
    nucleus = np.zeros((len(scenes.cell), y.shape[1], x.shape[2]), np.float32)
    for lobe in np.moveaxis(scenes.lobes, 1, 0):
        nucleus = np.maximum(nucleus, _disc(x, y, lobe, width))
    return nucleus


def _grain(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """[n, size, size] in [0, 1]: uniform values on a coarse grid, linear between its points."""
    values = rng.random((n, _GRAIN + 1, _GRAIN + 1), dtype=np.float32)
    position = (np.arange(size, dtype=np.float32) + 0.5) * (_GRAIN / size)
    low = position.astype(np.int32)
    share = position - low
    rows = values[:, low] + share[:, None] * (values[:, low + 1] - values[:, low])
    return rows[:, :, low] + share * (rows[:, :, low + 1] - rows[:, :, low])


def _each(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _colour(values: np.ndarray) -> np.ndarray:
    return values[:, None, None, :]
