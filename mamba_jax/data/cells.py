"""What a drawn blood cell is made of: eight kinds, and the random scenes in which they appear.

A haematologist tells the kinds apart by size, number and form of the lobes of the nucleus, share of cytoplasm, its
colour and its granules; so does this table. Sizes, colours and lobe counts overlap between kinds, and stain, focus,
position and neighbours vary, so that the kinds can be learnt but not without error. The colours are those of
May-Gruenwald-Giemsa stained smears, as in Acevedo et al., "A dataset of microscopic peripheral blood cell images for
development of automatic recognition systems", Data in Brief, 2020.
"""

from typing import NamedTuple

import numpy as np

MAX_LOBES = 4

_NEIGHBOURS = 6
_DEBRIS = 2


class Kind(NamedTuple):
    """How one kind looks; lengths in half image sides, or in cell radii where said; colours in [0, 1].

    radius, radius_sd: of the cell. lobes: odds of a nucleus of 1, 2, 3, 4 lobes. lobe: radius of a lobe, and reach:
    its distance from the cell's centre, both in cell radii. spread: angle between neighbouring lobes, in radians.
    wobble: how far from round the outline is. granularity: share of the cytoplasm under granules; over: the same of
    the nucleus.
    """

    radius: float
    radius_sd: float
    lobes: tuple[float, float, float, float]
    lobe: float
    reach: float
    spread: float
    wobble: float
    cytoplasm: tuple[float, float, float]
    nucleus: tuple[float, float, float]
    granules: tuple[float, float, float]
    granularity: float
    over: float


# One row per kind: geometry of the cell and its lobes, then the three colours, then the granules.
KINDS: dict[str, Kind] = {
    "basophil": Kind(
        *(0.56, 0.07, (0.2, 0.4, 0.4, 0.0), 0.55, 0.30, 1.9, 0.04),
        *((0.62, 0.45, 0.64), (0.38, 0.22, 0.52), (0.26, 0.10, 0.40), 0.75, 0.55),
    ),
    "eosinophil": Kind(
        *(0.60, 0.06, (0.05, 0.75, 0.2, 0.0), 0.40, 0.46, 1.9, 0.03),
        *((0.80, 0.52, 0.54), (0.36, 0.20, 0.48), (0.76, 0.38, 0.42), 0.6, 0.05),
    ),
    "erythroblast": Kind(
        *(0.44, 0.09, (1.0, 0.0, 0.0, 0.0), 0.66, 0.12, 1.0, 0.03),
        *((0.66, 0.55, 0.66), (0.24, 0.12, 0.36), (0.60, 0.48, 0.62), 0.2, 0.0),
    ),
    "immature granulocyte": Kind(
        *(0.66, 0.08, (0.4, 0.4, 0.2, 0.0), 0.55, 0.30, 1.1, 0.05),
        *((0.70, 0.56, 0.70), (0.40, 0.22, 0.52), (0.54, 0.32, 0.56), 0.45, 0.15),
    ),
    "lymphocyte": Kind(
        *(0.47, 0.08, (0.9, 0.1, 0.0, 0.0), 0.84, 0.08, 0.6, 0.05),
        *((0.60, 0.52, 0.72), (0.31, 0.16, 0.44), (0.50, 0.40, 0.64), 0.1, 0.05),
    ),
    "monocyte": Kind(
        *(0.74, 0.09, (0.15, 0.35, 0.5, 0.0), 0.48, 0.36, 0.9, 0.10),
        *((0.62, 0.55, 0.70), (0.40, 0.24, 0.54), (0.56, 0.46, 0.66), 0.25, 0.10),
    ),
    "neutrophil": Kind(
        *(0.59, 0.06, (0.0, 0.15, 0.5, 0.35), 0.33, 0.48, 0.9, 0.04),
        *((0.84, 0.70, 0.72), (0.33, 0.18, 0.46), (0.74, 0.52, 0.60), 0.3, 0.0),
    ),
    "platelet": Kind(
        *(0.22, 0.06, (1.0, 0.0, 0.0, 0.0), 0.55, 0.15, 1.0, 0.09),
        *((0.68, 0.54, 0.68), (0.52, 0.34, 0.58), (0.42, 0.24, 0.54), 0.6, 0.5),
    ),
}


class Scenes(NamedTuple):
    """Everything that is drawn, for n images; float32; discs are (x, y, radius) with a radius of 0 for an absent one.

    cell: [n, 3] disc. wobble: [n, 2] amplitudes of the second and third harmonic of its outline, and axis: [n, 2]
    the unit vector that they start from. lobes: [n, 4, 3] discs. cytoplasm, nucleus, granules: [n, 3] colours.
    granularity, over: [n]. neighbours: [n, 6, 3] red cells; debris: [n, 2, 3] stray platelets. pallor: [n] of the red
    cells' centres. background, stain: [n, 3] colour of the empty field, and gain of all that lies on it. focus: [n]
    width of edges.
    """

    cell: np.ndarray
    wobble: np.ndarray
    axis: np.ndarray
    lobes: np.ndarray
    cytoplasm: np.ndarray
    nucleus: np.ndarray
    granules: np.ndarray
    granularity: np.ndarray
    over: np.ndarray
    neighbours: np.ndarray
    debris: np.ndarray
    pallor: np.ndarray
    background: np.ndarray
    stain: np.ndarray
    focus: np.ndarray


def sample(rng: np.random.Generator, labels: np.ndarray) -> Scenes:
    """Draws one scene per label.

    Args:
      rng: its state moves on.
      labels: [n] indices into `KINDS`.
    """
    n = len(labels)
    kind = Kind(*(np.array(column)[labels] for column in zip(*KINDS.values(), strict=True)))
    radius = np.clip(kind.radius + kind.radius_sd * rng.standard_normal(n), 0.12, 0.95)
    centre = np.clip(0.08 * rng.standard_normal((n, 2)), -0.25, 0.25)
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    tint = 0.02 * rng.standard_normal((n, 3))  # one draw for the whole cell: stain is taken up by all of it
    scenes = Scenes(
        cell=np.column_stack([centre, radius]),
        wobble=kind.wobble[:, None] * rng.standard_normal((n, 2)),
        axis=np.column_stack([np.cos(angle), np.sin(angle)]),
        lobes=_lobes(rng, kind, centre, radius),
        cytoplasm=kind.cytoplasm + tint + 0.02 * rng.standard_normal((n, 3)),
        nucleus=kind.nucleus + tint + 0.02 * rng.standard_normal((n, 3)),
        granules=kind.granules + tint + 0.02 * rng.standard_normal((n, 3)),
        granularity=np.clip(kind.granularity + 0.15 * rng.standard_normal(n), 0.0, 1.0),
        over=np.clip(kind.over + 0.1 * rng.standard_normal(n), 0.0, 1.0),
        neighbours=_ring(rng, n, count=_NEIGHBOURS, inner=radius + 0.12, radius=(0.26, 0.36), odds=0.6),
        debris=_ring(rng, n, count=_DEBRIS, inner=radius + 0.02, radius=(0.05, 0.11), odds=0.3),
        pallor=rng.uniform(0.1, 0.7, n),
        background=_background(rng, n),
        stain=1.0 + 0.07 * rng.standard_normal((n, 1)) + 0.02 * rng.standard_normal((n, 3)),
        focus=rng.uniform(0.03, 0.12, n),
    )
    return Scenes(*(field.astype(np.float32) for field in scenes))


def _lobes(rng: np.random.Generator, kind: Kind, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    n, lobe = len(radius), np.arange(MAX_LOBES)
    count = 1 + np.sum(rng.random((n, 1)) > np.cumsum(kind.lobes, axis=1)[:, :-1], axis=1)
    turns = lobe - (count[:, None] - 1) / 2 + 0.12 * rng.standard_normal((n, MAX_LOBES))
    angle = rng.uniform(0.0, 2.0 * np.pi, (n, 1)) + kind.spread[:, None] * turns
    reach = (kind.reach * radius)[:, None] * np.clip(1.0 + 0.15 * rng.standard_normal((n, MAX_LOBES)), 0.5, 1.5)
    size = (kind.lobe * radius)[:, None] * np.clip(1.0 + 0.10 * rng.standard_normal((n, MAX_LOBES)), 0.6, 1.4)
    x = centre[:, :1] + reach * np.cos(angle)
    y = centre[:, 1:] + reach * np.sin(angle)
    return np.stack([x, y, np.where(lobe < count[:, None], size, 0.0)], axis=-1)


def _ring(
    rng: np.random.Generator, n: int, *, count: int, inner: np.ndarray, radius: tuple[float, float], odds: float
) -> np.ndarray:
    size = rng.uniform(*radius, (n, count))
    distance = inner[:, None] + size + rng.exponential(0.25, (n, count))
    angle = 2.0 * np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, (n, count))) / count + rng.uniform(0, 6, (n, 1))
    present = rng.random((n, count)) < odds
    return np.stack([distance * np.cos(angle), distance * np.sin(angle), np.where(present, size, 0.0)], axis=-1)


def _background(rng: np.random.Generator, n: int) -> np.ndarray:
    warm, cold = np.array([0.995, 0.90, 0.80]), np.array([0.84, 0.82, 0.92])
    share = np.where(rng.random((n, 1)) < 0.1, rng.uniform(0.5, 1.0, (n, 1)), rng.uniform(0.0, 0.15, (n, 1)))
    return warm + share * (cold - warm) + 0.015 * rng.standard_normal((n, 3))
