"""Random views of training images: flips, quarter turns and small shifts; one draw per image.

A policy says which of them leave the label true, which is a medical question (see `policy_for`).
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

Flips = Literal["none", "horizontal", "both", "dihedral"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be done to an image. Hashable, so it can be a static argument of a jitted step.

    Attributes:
      flips: "horizontal" mirrors left and right, "both" also top and bottom, "dihedral" adds quarter turns: the eight
        symmetries of the square, each as likely.
      shift: largest shift along each axis, as a share of the side (2/28: two pixels of 28); uniform over whole pixels.
    """

    flips: Flips = "none"
    shift: float = 0.0

    def __post_init__(self):
        if self.flips not in get_args(Flips):
            raise ValueError(f"flips must be one of {get_args(Flips)}, got {self.flips!r}")
        if not 0.0 <= self.shift <= 0.5:
            raise ValueError(f"shift must be in [0, 0.5], got {self.shift}")


POLICIES: dict[str, Policy] = {
    "none": Policy(),
    "shift": Policy(shift=2 / 28),
    "flip": Policy(flips="horizontal", shift=2 / 28),
    "flips": Policy(flips="both", shift=2 / 28),
    "dihedral": Policy(flips="dihedral", shift=2 / 28),
}

_SUITED: dict[str, str] = {
    # Tissue, skin and cells under a microscope or dermatoscope have no up, down, left or right.
    **dict.fromkeys(("pathmnist", "dermamnist", "bloodmnist", "tissuemnist", "synthetic_blood"), "dihedral"),
    # The other eye is the mirror image; the grade of a retinopathy counts lesions wherever they lie.
    "retinamnist": "flips",
    # Depth runs downwards (skin and shadows in ultrasound, retinal layers in OCT); sideways is symmetric.
    **dict.fromkeys(("breastmnist", "octmnist"), "flip"),
    # No finding is bound to a side, though a mirrored heart is rare: as in Rajpurkar et al., "CheXNet", 2017.
    **dict.fromkeys(("chestmnist", "pneumoniamnist"), "flip"),
    # Left and right kidney, lung and femur are different classes.
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), "shift"),
}


def policy_for(dataset_name: str, *, policy: str = "auto") -> Policy:
    """The policy of a data set: suited to what an official or drawn set shows; "none" for a set not known here.

    Args:
      dataset_name: name of the data set.
      policy: "auto", or a name in `POLICIES` that is taken instead.

    Raises:
      ValueError: there is no such policy.
    """
    if policy == "auto":
        return POLICIES[_SUITED.get(dataset_name, "none")]
    if policy not in POLICIES:
        raise ValueError(f"augmentation policy must be one of {('auto', *POLICIES)}, got {policy!r}")
    return POLICIES[policy]


def augment(key: jax.Array, images: jax.Array, *, policy: Policy) -> jax.Array:
    """A random view of every image, each from its own draw.

    Args:
      key: consumed.
      images: [b, h, w, c] float32 in [0, 1]; h = w for quarter turns.
      policy: static under `jit`.

    Returns:
      [b, h, w, c] float32 in [0, 1].
    """
    flip_key, shift_key = jax.random.split(key)
    images = _flip(flip_key, images, policy.flips)
    margin = round(policy.shift * images.shape[1])
    return _shift(shift_key, images, margin) if margin else images


def _flip(key: jax.Array, images: jax.Array, flips: Flips) -> jax.Array:
    if flips == "none":
        return images
    sideways, upwards, over = jax.random.bernoulli(key, shape=(3, images.shape[0], 1, 1, 1))
    images = jnp.where(sideways, images[:, :, ::-1], images)
    if flips in ("both", "dihedral"):
        images = jnp.where(upwards, images[:, ::-1], images)
    if flips == "dihedral":
        images = jnp.where(over, jnp.swapaxes(images, 1, 2), images)
    return images


def _shift(key: jax.Array, images: jax.Array, margin: int) -> jax.Array:
    b, h, w, c = images.shape
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    corners = jax.random.randint(key, (b, 2), 0, 2 * margin + 1)
    crop = lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (h, w, c))  # noqa: E731
    return jax.vmap(crop)(padded, corners)
