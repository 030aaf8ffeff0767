"""The ball an attacker may move in: projection, uniform draws and steepest directions, per image.

An attack may return any x' with ||x' - x|| <= epsilon and x' in [0, 1], where the norm is taken over one image:

    linf: ||d|| = max |d_i|        steepest ascent: sign(g)        (Goodfellow et al., "Explaining and Harnessing
                                                                    Adversarial Examples", 2015, section 4)
    l2:   ||d|| = sqrt(sum d_i^2)  steepest ascent: g / ||g||      (Madry et al., "Towards Deep Learning Models
                                                                    Resistant to Adversarial Attacks", 2018)

Images have any shape after the leading batch axis. Rows never mix: the norm of a batch is b norms.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from threats import draws

Draw = Callable[[jax.Array, jax.Array, float | jax.Array], jax.Array]


class Norm(NamedTuple):
    """The geometry of one norm. x, centre, gradient: [b, ...]; epsilon: scalar or [b]; box: [0, 1].

    length(d) -> [b]: the norm of each image's perturbation.
    project(x, centre, epsilon) -> [b, ...]: x moved into the ball around centre, then clipped to the box.
    random_point(key, centre, epsilon) -> [b, ...]: uniform in the ball, then clipped to the box; row i depends
      on the key, on i and on its own centre only.
    steepest(gradient) -> [b, ...]: the unit direction of steepest ascent, zero where the gradient is zero.
      A NaN entry of the gradient counts as zero, so no image ever moves by NaN; an infinite one as a very
      large number.
    """

    length: Callable[[jax.Array], jax.Array]
    project: Callable[..., jax.Array]
    random_point: Draw
    steepest: Callable[[jax.Array], jax.Array]


def get_norm(name: str) -> Norm:
    """The geometry of that name; raises ValueError, listing the known ones, if there is none."""
    if name not in NORMS:
        raise ValueError(f"norm must be one of {tuple(NORMS)}, got {name!r}")
    return NORMS[name]


def per_image(value: float | jax.Array, images: jax.Array, *, name: str = "epsilon") -> jax.Array:
    """One number for all images or one for each, shaped to multiply them.

    Args:
      value: scalar or [b].
      images: [b, ...]; gives the shape and dtype.
      name: what to call the value in an error.

    Returns:
      [b, 1, ..., 1].

    Raises:
      ValueError: if value is neither a scalar nor [b].
    """
    value = jnp.asarray(value, images.dtype)
    count = images.shape[0]
    if value.shape not in ((), (count,)):
        raise ValueError(f"{name} must be a scalar or of shape ({count},), one per image, got {value.shape}")
    return jnp.broadcast_to(value, (count,)).reshape((count,) + (1,) * (images.ndim - 1))


def mean_scaled(gradient: jax.Array) -> jax.Array:
    """gradient / mean |gradient| of each image, [b, ...]: zero where it is zero, and a NaN entry counts as zero."""
    scaled = _largest_scaled(_numbers(gradient))
    mean = per_image(jnp.mean(jnp.abs(scaled), axis=_axes(scaled)), scaled)
    return scaled / jnp.where(mean > 0, mean, 1.0)


def _linf_length(d: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(d), axis=_axes(d))


def _linf_project(x: jax.Array, centre: jax.Array, epsilon: float | jax.Array) -> jax.Array:
    epsilon = per_image(epsilon, centre)
    return _box(jnp.clip(x, centre - epsilon, centre + epsilon))


def _linf_random_point(key: jax.Array, centre: jax.Array, epsilon: float | jax.Array) -> jax.Array:
    def draw(row_key, row):
        return jax.random.uniform(row_key, row.shape, row.dtype, minval=-1.0, maxval=1.0)

    offset = jax.vmap(draw)(draws.of_rows(key, centre.shape[0]), centre)
    return _linf_project(centre + per_image(epsilon, centre) * offset, centre, epsilon)


def _linf_steepest(gradient: jax.Array) -> jax.Array:
    return jnp.sign(_numbers(gradient))


def _l2_length(d: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(d), axis=_axes(d)))


def _l2_project(x: jax.Array, centre: jax.Array, epsilon: float | jax.Array) -> jax.Array:
    epsilon = per_image(epsilon, centre)
    offset = x - centre
    length = per_image(_l2_length(offset), offset)
    outside = length > epsilon
    scale = epsilon / jnp.where(outside, length, 1.0)
    return _box(jnp.where(outside, centre + offset * scale, x))


def _l2_random_point(key: jax.Array, centre: jax.Array, epsilon: float | jax.Array) -> jax.Array:
    def draw(row_key, row):
        # The first n coordinates of a uniform point on the sphere in n + 2 dimensions are uniform in the n-ball
        # (Voelker et al., "Efficiently Sampling Vectors and Coordinates from the n-Sphere and n-Ball", 2017).
        point = jax.random.normal(row_key, (row.size + 2,), row.dtype)
        return (point / jnp.sqrt(jnp.sum(jnp.square(point))))[: row.size].reshape(row.shape)

    offset = jax.vmap(draw)(draws.of_rows(key, centre.shape[0]), centre)
    return _l2_project(centre + per_image(epsilon, centre) * offset, centre, epsilon)


def _l2_steepest(gradient: jax.Array) -> jax.Array:
    # Scaled first: the squares of a confident model's gradients (1e-25 and less) vanish, of an exploding one overflow.
    scaled = _largest_scaled(_numbers(gradient))
    length = per_image(_l2_length(scaled), scaled)
    return scaled / jnp.where(length > 0, length, 1.0)


def _largest_scaled(gradient: jax.Array) -> jax.Array:
    """Each image's gradient divided by its largest entry; zero where that is too small to divide by."""
    largest = per_image(_linf_length(gradient), gradient)
    moving = largest >= jnp.finfo(gradient.dtype).tiny
    return jnp.where(moving, gradient / jnp.where(moving, largest, 1.0), 0.0)


def _axes(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _box(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0.0, 1.0)


def _numbers(gradient: jax.Array) -> jax.Array:
    # An eighth of the largest float, whose reciprocal is still a normal number: divisions may be compiled to products.
    largest = float(jnp.finfo(gradient.dtype).max) / 8
    return jnp.clip(jnp.where(jnp.isnan(gradient), 0.0, gradient), -largest, largest)


NORMS: dict[str, Norm] = {
    "linf": Norm(_linf_length, _linf_project, _linf_random_point, _linf_steepest),
    "l2": Norm(_l2_length, _l2_project, _l2_random_point, _l2_steepest),
}
