"""HopSkipJump: walks along the decision boundary towards the image, and sees nothing but decisions.

    phi(x) = 1 where the attacker has what it wants, -1 elsewhere
    1. from x_t walk back towards the image by bisection, to the last point with phi = 1
    2. v = 1/B sum_i (phi(x + delta u_i) - mean phi) u_i     u_i: random directions of length 1
    3. x_{t+1} = x + xi s(v), with xi = d(x) / sqrt(t + 1) halved until phi = 1

s(v) is v / ||v|| in l2 and sign(v) in linf; d(x) is the distance to the image. B = B_0 sqrt(t + 1), and delta is 0.1 at
first and d(x) / n then, for images of n values. Bisection ends at n^{-3/2} (l2) or n^{-2} (linf) of the way.

Chen, Jordan and Wainwright, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack", 2020, Algorithm 2. Three
things differ. The closest point of all iterations is returned, not the last. Bisection stops after 24 halvings, and
delta is at least 2^-22 sqrt(n): beyond that float32 images no longer tell two points apart (224 px come near it).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import draws, outcomes
from threats.adversarial import candidates, minimal, norms

_BISECTIONS, _STEP_HALVINGS = 24, 40


class _Point(NamedTuple):
    """An image of each row, [b, ...], and whether the attacker has what it wants there, [b] bool."""

    images: jax.Array
    fooled: jax.Array


def attack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    steps: int = 50,
    norm: str = "l2",
    samples: int = 100,
    max_samples: int = 10_000,
    samples_at_once: int = 16,
    tries: int = 100,
    starts: jax.Array | None = None,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
) -> minimal.MinimalResult:
    """The closest image the model gets wrong, from decisions alone.

    Starts at the first success among the clean image, `starts` and `tries` images of uniform noise. A row without any
    (a class that noise is taken for, most targets) stays as it is: give it `starts`.

    Costs, per image, 1 clean, at most 1 + tries starting points, 24 or fewer decisions for each of steps + 1
    bisections, at most 40 for each step's length, and sum_t samples * sqrt(t) for the directions: 24,000 of these by
    default. They run in groups of samples_at_once for each image of the batch, which bounds the memory; a last group
    is evaluated in full, though only the published number counts. To be jitted by the caller; labels may change without
    recompiling.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, ...] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: consumed; image i draws from it by its number, each sample anew.
      steps: estimated directions, each from the boundary, at least 1.
      norm: a name in `norms.NORMS`; what is made small.
      samples: decisions for the first direction; the t-th takes sqrt(t) times as many.
      max_samples: and at most these.
      samples_at_once: evaluated together; changes memory and speed only.
      tries: noise images until one is wrong, 0 or more.
      starts: [b, ...] in [0, 1]; where the model already gets them wrong, the search starts there.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`.

    Returns:
      MinimalResult; distances in `norm`.

    Raises:
      ValueError: if an option is out of its range, or, where its value is known (outside jit), an image leaves [0, 1].

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> nearest = jax.jit(functools.partial(attack, linear, steps=5))
      >>> images, labels = jnp.array([[0.6, 0.4], [0.9, 0.1]]), jnp.array([0, 0])
      >>> nearest(jnp.eye(2), images, labels, key=jax.random.key(0)).success.tolist()
      [True, True]
    """
    _check(images, steps, samples, max_samples, samples_at_once, tries, starts, key)
    ball = norms.get_norm(norm)
    start_key, sample_key = draws.fold(key, 0), draws.fold(key, 1)

    def look(x):
        copies = x.shape[0] // images.shape[0]
        repeated = jnp.tile(labels, (copies,) + (1,) * (labels.ndim - 1))
        return _Point(x, minimal.fooled(apply(variables, x), repeated, task=task, targeted=targeted))

    counts = np.minimum(samples * np.sqrt(np.arange(1, steps + 1)), max_samples).astype(np.int32)
    walk = functools.partial(_direction, look, at_once=samples_at_once, norm=norm)
    point = _start(look, start_key, images, starts, tries)

    def hop(t, point):
        distance = ball.length(point.images - images)
        size = images[0].size
        delta = jnp.maximum(jnp.where(t == 0, 0.1, distance / size), 2.0**-22 * math.sqrt(size))
        gradient = walk(draws.fold(sample_key, t), point.images, delta, jnp.asarray(counts)[t])
        return _jump(look, point, ball.steepest(gradient), distance / jnp.sqrt(t + 1.0).astype(images.dtype))

    def step(t, carry):
        point, best = carry
        point = _bisect(look, point, images, norm)
        best = minimal.closer(best, *point, ball.length(point.images - images))
        return jax.lax.cond(t < steps, lambda: hop(t, point), lambda: point), best

    # Wrong from the start are those that the clean image, the first candidate, is wrong in.
    known = minimal.clean(images, point.fooled & jnp.all(point.images == images, axis=tuple(range(1, images.ndim))))
    return jax.lax.fori_loop(0, steps + 1, step, (point, known))[1]


def _start(look, key, images, starts, tries) -> _Point:
    """The first success of the clean image, the given start and noise; the clean image where there is none."""
    given = 1 if starts is None else 2
    keys = draws.of_rows(key, images.shape[0])

    def candidate(number):
        own = draws.fold(keys, number)
        x = jax.vmap(lambda one: jax.random.uniform(one, images.shape[1:], images.dtype))(own)
        x = x if starts is None else jnp.where(number == 1, starts, x)
        return jnp.where(number == 0, images, x)

    def searching(carry):
        number, point = carry
        return (number < given + tries) & ~jnp.all(point.fooled)

    def attempt(carry):
        number, point = carry
        new = look(candidate(number))
        return number + 1, candidates.choose(new.fooled & ~point.fooled, new, point)

    nothing = _Point(images, jnp.zeros(images.shape[0], bool))
    return jax.lax.while_loop(searching, attempt, (jnp.int32(0), nothing))[1]


def _bisect(look, point: _Point, images: jax.Array, norm: str) -> _Point:
    """The success closest to the image on the way from the point to it (linf: of its projections on smaller balls)."""
    size = images[0].size
    halvings = min(math.ceil({"l2": 1.5, "linf": 2.0}[norm] * math.log2(max(size, 2))), _BISECTIONS)
    offset = point.images - images
    length = norms.per_image(norms.NORMS["linf"].length(offset), images)

    def halve(_, carry):
        low, high, nearest = carry
        middle = (low + high) / 2
        share = norms.per_image(middle, images)
        step = share * offset if norm == "l2" else jnp.clip(offset, -share * length, share * length)
        new = look(jnp.clip(images + step, 0.0, 1.0))
        hit = new.fooled
        return jnp.where(hit, low, middle), jnp.where(hit, middle, high), candidates.choose(hit, new, nearest)

    zeros = jnp.zeros(images.shape[0], images.dtype)
    return jax.lax.fori_loop(0, halvings, halve, (zeros, zeros + 1.0, point))[2]


def _direction(look, key, x: jax.Array, delta: jax.Array, count: jax.Array, *, at_once: int, norm: str) -> jax.Array:
    """Equation 16: which way the share of successes grows, [b, ...], from `count` decisions around each x."""
    keys = draws.of_rows(key, x.shape[0])
    draw = jax.random.normal if norm == "l2" else functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    size = norms.per_image(delta, x)[None]

    def unit(sample):
        drawn = draws.fold(keys, sample)
        noise = jax.vmap(lambda one: draw(one, x.shape[1:], x.dtype))(drawn)
        return noise / norms.per_image(norms.NORMS["l2"].length(noise), noise)

    def group(carry):
        first, weighted, plain, decided = carry
        numbers = first + jnp.arange(at_once)
        tried = jnp.clip(x[None] + size * jax.vmap(unit)(numbers), 0.0, 1.0)
        # The direction after clipping, as in the published code.
        u = (tried - x[None]) / size
        phi = jnp.where(look(tried.reshape(-1, *x.shape[1:])).fooled, 1.0, -1.0).reshape(at_once, -1)
        counted = jnp.broadcast_to((numbers < count)[:, None], phi.shape).astype(x.dtype)
        phi = phi.astype(x.dtype) * counted

        def total(weights):
            return jnp.sum(weights.reshape(weights.shape + (1,) * (x.ndim - 1)) * u, axis=0)

        return first + at_once, weighted + total(phi), plain + total(counted), decided + jnp.sum(phi, axis=0)

    start = (jnp.int32(0), jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros(x.shape[0], x.dtype))
    _, weighted, plain, decided = jax.lax.while_loop(lambda carry: carry[0] < count, group, start)
    mean = decided / count.astype(x.dtype)
    # Where all decisions agree there is no contrast, and their common sign is all that is known (section III-C).
    baseline = norms.per_image(jnp.where(jnp.abs(mean) == 1.0, 0.0, mean), x)
    return weighted - baseline * plain


def _jump(look, point: _Point, direction: jax.Array, length: jax.Array) -> _Point:
    """The point moved by the first of length, length / 2, length / 4, ... that is a success; as it was if none is."""

    def searching(carry):
        number, _, _, open_ = carry
        return (number < _STEP_HALVINGS) & jnp.any(open_)

    def attempt(carry):
        number, length, found, open_ = carry
        new = look(jnp.clip(point.images + norms.per_image(length, direction) * direction, 0.0, 1.0))
        hit = open_ & new.fooled
        return number + 1, length / 2, candidates.choose(hit, new, found), open_ & ~hit

    start = (jnp.int32(0), length, point, point.fooled)
    return jax.lax.while_loop(searching, attempt, start)[2]


def _check(images, steps, samples, max_samples, samples_at_once, tries, starts, key) -> None:
    candidates.check_images(images)
    least = {"steps": (steps, 1), "samples": (samples, 1), "max_samples": (max_samples, 1)}
    for name, (value, low) in (least | {"samples_at_once": (samples_at_once, 1), "tries": (tries, 0)}).items():
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    if starts is not None:
        candidates.check_images(starts)
        if starts.shape != images.shape:
            raise ValueError(f"starts must be of the images' shape {images.shape}, got {starts.shape}")
    if key is None:
        raise ValueError("key must be a jax.random.key, got None")
