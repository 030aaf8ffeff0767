"""The nearest decision boundary: what attacks that look for the smallest perturbation share.

Such an attack takes no radius: it returns the closest image it found that the model gets wrong. What the model says of
x is written as gaps g_k(x), one for each way of being wrong, positive where the model is wrong in that way:

    multi-class, binary, ordinal    g_k = z_k - z_y, k != y      targeted: one gap, z_t - max_{i != t} z_i
    multi-label                     g_l = -s_l z_l, s_l = +-1    targeted: one gap, min_l s_l z_l
    rules of your own               `tasks.Rules.gaps`           targeted: one gap, minus the largest of them

so that an untargeted attack on a multi-label model looks for the nearest flip of any one label. Around an image x_0 a
gap is a plane, g(x_0) + w . (x - x_0), and in linear models |g| / ||w||* is the distance to it, with ||.||* the dual
norm (l1 for linf, l2 for l2).

`within` makes of such an attack one with a radius, called as every entry of `ATTACKS`: what it found if that lies
within epsilon, the clean image otherwise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from threats import convolutions, outcomes, tasks
from threats.adversarial import candidates, norms, objectives

_FARTHEST = 1e6  # A plane so far away is outside any box; what is larger could overflow.


class MinimalResult(NamedTuple):
    """The smallest perturbations found.

    images: [b, ...] in [0, 1]; the clean image where none was found, or where the clean one is wrong already.
    success: [b] bool; the decision is not the label (targeted: it is the target), or a logit is not finite.
    distance: [b] float32, the perturbation's length in the attack's norm; 0 where the clean image is wrong already,
      inf where no success was found.
    """

    images: jax.Array
    success: jax.Array
    distance: jax.Array


class Plane(NamedTuple):
    """One linearised gap of each image, gap + normal . (x - x_0) = 0, scaled so that the normal's largest entry is 1.

    gap: [b]; normal: [b, n] over the image's n values, zero where the gap does not depend on the image; length: [b],
    the normal's dual norm.
    """

    gap: jax.Array
    normal: jax.Array
    length: jax.Array


def clean(images: jax.Array, wrong: jax.Array) -> MinimalResult:
    """What is known before any step: the images that are wrong as they are, at distance 0."""
    return MinimalResult(images, wrong, jnp.where(wrong, 0.0, jnp.inf).astype(jnp.float32))


def closer(best: MinimalResult, x: jax.Array, wrong: jax.Array, distance: jax.Array) -> MinimalResult:
    """Per image, x if the model gets it wrong and it is closer than the best so far."""
    wins = wrong & (distance < best.distance)
    nearer = jnp.where(wins, distance.astype(jnp.float32), best.distance)
    return MinimalResult(candidates.choose(wins, x, best.images), best.success | wins, nearer)


def fooled(logits: jax.Array, labels: jax.Array, *, task: outcomes.Task, targeted: bool) -> jax.Array:
    """[b] bool: the attacker has what it wants, or a logit is not finite."""
    right = outcomes.correct(logits, labels, task)
    return (right if targeted else ~right) | ~outcomes.finite(logits)


def gaps(logits: jax.Array, labels: jax.Array, *, task: outcomes.Task, targeted: bool) -> jax.Array:
    """[b, m] float32: all gaps, as above; that of the class itself is -inf."""
    if targeted:
        return -objectives.margin(task)(logits, labels)[:, None]
    return tasks.rules(task).gaps(logits, labels)


def candidate_classes(
    logits: jax.Array, labels: jax.Array, count: int | None, *, task: outcomes.Task, targeted: bool
) -> jax.Array:
    """[b, m] int32: which gaps to look at, the largest first; at most `count` of them (None: all).

    Raises:
      ValueError: if there is no class beside the label's own, or count is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"candidates must be at least 1 or None for all, got {count}")
    every = gaps(logits, labels, task=task, targeted=targeted)
    possible = every.shape[1] - (not targeted and tasks.rules(task).exclusive)
    if not possible:
        raise ValueError(f"apply must return at least two logits per image, got shape {logits.shape}")
    return jax.lax.top_k(every, min(possible, count or possible))[1]


def nearest_plane(
    apply: candidates.Apply,
    variables: Any,
    x: jax.Array,
    labels: jax.Array,
    chosen: jax.Array,
    *,
    norm: str,
    task: outcomes.Task,
    targeted: bool,
) -> tuple[Plane, jax.Array]:
    """The plane nearest to each x among the chosen gaps, and whether the model gets x wrong as it is, [b] bool.

    One forward pass, and one backward pass for each candidate, mapped by vmap: memory grows with the candidates. What
    is not finite counts as zero, so that no image ever moves by NaN.

    Args:
      apply, variables, labels, task, targeted: as in `gradient.pgd`.
      x: [b, ...].
      chosen: [b, m] from `candidate_classes`.
      norm: a name in `norms.NORMS`; the distance to a plane is measured in it.
    """

    def forward(x):
        logits = apply(variables, x)
        every = gaps(logits, labels, task=task, targeted=targeted)
        return jnp.take_along_axis(every, chosen, axis=1), fooled(logits, labels, task=task, targeted=targeted)

    def slopes(x):
        values, pullback, wrong = jax.vjp(forward, x, has_aux=True)
        count, m = values.shape
        cotangents = jnp.broadcast_to(jnp.eye(m, dtype=values.dtype)[:, None], (m, count, m))
        return values, jax.vmap(lambda cotangent: pullback(cotangent)[0])(cotangents), wrong

    values, normals, wrong = convolutions.in_loops(slopes)(x)
    count, m = values.shape
    normals = normals.reshape(m, count, -1)
    normals = jnp.where(jnp.isfinite(normals), normals, 0.0)
    values = jnp.where(jnp.isfinite(values), values, 0.0).T
    # To a largest entry of 1, so that the squares of a confident model's gradients (1e-25 and less) do not vanish.
    largest = jnp.max(jnp.abs(normals), axis=-1)
    slopes = largest >= jnp.finfo(normals.dtype).tiny
    scale = jnp.where(slopes, largest, 1.0)
    normals = jnp.where(slopes[..., None], normals / scale[..., None], 0.0)
    values = jnp.clip(values / scale, -_FARTHEST, _FARTHEST)
    lengths = _dual_length(normals, norm)
    best = jnp.argmin(jnp.where(slopes, jnp.abs(values) / jnp.where(slopes, lengths, 1.0), jnp.inf), axis=0)
    rows = jnp.arange(count)
    return Plane(values[best, rows], normals[best, rows], lengths[best, rows]), wrong


def within(attack: Callable[..., MinimalResult]) -> Callable[..., candidates.AttackResult]:
    """That attack with a radius: `(apply, variables, images, labels, *, epsilon, ...) -> AttackResult`.

    The result is the found image where its distance is at most epsilon, the clean image otherwise: nothing is moved
    into the ball. Epsilon (scalar or [b], in the images' unit) only decides which of the two, after one search. Costs
    one forward pass more than the attack, for the loss.
    """

    def run(apply, variables, images, labels, *, epsilon, task="multi-class", targeted=False, **options):
        radius = norms.per_image(epsilon, images)
        found = attack(apply, variables, images, labels, task=task, targeted=targeted, **options)
        inside = found.success & (found.distance <= radius.reshape(-1))
        returned = candidates.choose(inside, found.images, images)
        logits = apply(variables, returned)
        success = fooled(logits, labels, task=task, targeted=targeted)
        return candidates.AttackResult(returned, success, outcomes.loss(logits, labels, task))

    return run


def check(images: jax.Array, **at_least_one: int) -> None:
    """Raises ValueError if a value of the images is known to leave [0, 1], or one of the named counts is below 1."""
    candidates.check_images(images)
    for name, value in at_least_one.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _dual_length(normals: jax.Array, norm: str) -> jax.Array:
    """[..., n] -> [...]."""
    if norm == "linf":
        return jnp.sum(jnp.abs(normals), axis=-1)
    return jnp.sqrt(jnp.sum(jnp.square(normals), axis=-1))
