"""Square Attack: a random search that needs the model's outputs only, and no gradient of any kind.

    x_1     = P(x + vertical stripes of +-epsilon)  in linf,  P(x + a 5 x 5 grid of bumps)  in l2
    x_{i+1} = the better of x_i and P(x_i with a new square of side s_i at a random place)

P projects onto the ball and [0, 1]. In linf the square is x +- epsilon, one sign per channel. In l2 a bump of two
opposite halves is added there, and paid for by erasing a second square, so that the length stays epsilon. The side is
s_i = round(sqrt(p_i h w)), where p_i starts at `p_init` and is halved along a schedule.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search", 2020, Algorithms 1 to 3. Squares are placed as there, uniformly over all places where they fit; the published
code never reaches the last row and column. Each image draws its own.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import draws, outcomes
from threats.adversarial import candidates, norms, objectives

# The iterations, of 10,000, after which p is halved (section 4.1 and the published code).
_HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000])


class Schedule(NamedTuple):
    """The side of the square at iteration i, from 0, is sides[number of `changes` that are at most i].

    changes: [9] int32; the iterations from which p is half of what it was.
    sides: [10] int32, in pixels.
    """

    changes: np.ndarray
    sides: np.ndarray


def schedule(queries: int, height: int, width: int, *, norm: str = "linf", p_init: float = 0.8) -> Schedule:
    """The published schedule of 10,000 iterations, rescaled to `queries`, as sides of squares.

    A side is at least 1 pixel and fits the image; in l2 it is odd and at least 3, unless the image is smaller.

    Example:
      >>> schedule(5000, 28, 28).sides.tolist()
      [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
    """
    changes = -(-(_HALVINGS + 1) * queries // 10_000)
    sides = np.rint(np.sqrt(p_init / 2.0 ** np.arange(10) * height * width)).astype(np.int32)
    largest = min(height, width)
    if norm == "l2":
        sides, largest = np.maximum(sides, 3) // 2 * 2 + 1, largest - 1 + largest % 2
    return Schedule(changes.astype(np.int32), np.clip(sides, 1, max(largest, 1)).astype(np.int32))


def square_attack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    epsilon: float | jax.Array,
    queries: int = 5000,
    norm: str = "linf",
    p_init: float = 0.8,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    objective: objectives.Objective | None = None,
) -> candidates.AttackResult:
    """Random search with square patches; takes nothing but the model's outputs.

    Costs at most `queries` forward passes and not one more: of the clean images, of the initial pattern, and of
    queries - 2 squares. (AutoAttack's 5,000 are squares alone.) An image that succeeds is left as it is from there on,
    and the search ends when all have. To be jitted by the caller; epsilon and labels may change without recompiling.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, h, w, c] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: consumed; image i draws from it by its number, at each query anew.
      epsilon: radius in the images' unit, e.g. 8/255 in linf; scalar or [b].
      queries: forward passes at most, at least 2. 5,000 as in AutoAttack's standard.
      norm: a name in `norms.NORMS`.
      p_init: share of the image that the first squares cover, in (0, 1].
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`.
      objective: `(logits, labels) -> [b]`, maximised (targeted: minimised). None: `objectives.margin(task)`.

    Returns:
      candidates.AttackResult; the best of all images tried, the clean one included.

    Raises:
      ValueError: if an option is out of its range, or, where their values are known (outside jit), if epsilon is
        negative or an image leaves [0, 1].

    Example:
      >>> bright = lambda variables, x: jnp.stack([0.5 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.5], -1)
      >>> attack = jax.jit(functools.partial(square_attack, bright, None, queries=20))
      >>> images, labels = jnp.stack([jnp.full((8, 8, 3), 0.48), jnp.full((8, 8, 3), 0.2)]), jnp.array([0, 0])
      >>> attack(images, labels, key=jax.random.key(0), epsilon=0.1).success.tolist()
      [True, False]
    """
    _check(images, epsilon, queries, p_init, key)
    ball = norms.get_norm(norm)
    start, propose = {"linf": (_stripes, _square), "l2": (_bumps, _move_mass)}[norm]
    plan = schedule(queries, *images.shape[1:3], norm=norm, p_init=p_init)
    judge = functools.partial(candidates.judge, objective or objectives.margin(task), task, targeted)
    keys = draws.of_rows(key, images.shape[0])
    radius = norms.per_image(epsilon, images)

    def tried(query, current):
        """Query 0 is the clean image, 1 the initial pattern, the others are squares."""
        own = draws.fold(keys, query)
        side = jnp.asarray(plan.sides)[jnp.sum(query - 2 >= plan.changes)]
        x = jax.lax.switch(
            jnp.minimum(query, 2),
            (
                lambda: images,
                lambda: jax.vmap(start)(own, images, radius),
                lambda: jax.vmap(propose, (0, 0, 0, 0, None))(own, images, current, radius, side),
            ),
        )
        return ball.project(x, images, epsilon)

    def searching(carry):
        query, _, best = carry
        return (query < queries) & jnp.any(best.score.level <= 0)

    def step(carry):
        query, current, best = carry
        x = tried(query, current.images)
        score = judge(apply(variables, x), labels)
        score = score._replace(level=jnp.where(best.score.level > 0, -1, score.level))
        # The search goes on from the initial pattern, be it worse than the clean image.
        current = jax.tree.map(functools.partial(jnp.where, query < 2), candidates.nothing(images), current)
        return query + 1, candidates.better(current, x, score), candidates.better(best, x, score)

    nothing = candidates.nothing(images)
    _, _, best = jax.lax.while_loop(searching, step, (jnp.int32(0), nothing, nothing))
    return candidates.result(best, targeted)


# Of one image each: x, current [h, w, c] the clean image and the best so far; epsilon [1, 1, 1]; side an int32.


def _stripes(key: jax.Array, x: jax.Array, epsilon: jax.Array) -> jax.Array:
    return x + epsilon * jax.random.rademacher(key, (1, *x.shape[1:]), x.dtype)


def _square(key: jax.Array, x: jax.Array, current: jax.Array, epsilon: jax.Array, side: jax.Array) -> jax.Array:
    place, signs = jax.random.split(key)
    inside = _inside(x, _corner(place, x, side), side)
    return jnp.where(inside, x + epsilon * jax.random.rademacher(signs, (1, 1, *x.shape[2:]), x.dtype), current)


def _bumps(key: jax.Array, x: jax.Array, epsilon: jax.Array) -> jax.Array:
    """A bump in each tile of a 5 x 5 grid, and in further whole tiles of that side where the image has room."""
    height, width, channels = x.shape
    side = max(min(height, width) // 5, 1)
    top, left = (max((length - 5 * side) // 2, 0) for length in (height, width))
    rows, columns = (height - top) // side, (width - left) // side
    turns, signs = jax.random.split(key)
    tile = jnp.asarray(_bump(side, side), x.dtype)
    turned = jax.random.bernoulli(turns, shape=(rows, columns, 1, 1))
    tiles = jnp.where(turned, tile.T, tile)[..., None]
    tiles = tiles * jax.random.rademacher(signs, (rows, columns, 1, 1, channels), x.dtype)
    grid = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, channels)
    offset = jnp.zeros_like(x).at[top : top + rows * side, left : left + columns * side].set(grid)
    return x + epsilon * _unit(offset, (0, 1, 2))


def _move_mass(key: jax.Array, x: jax.Array, current: jax.Array, epsilon: jax.Array, side: jax.Array) -> jax.Array:
    """Algorithm 3: a bump is added in one square, and what a second one held is spent there, channel by channel."""
    here, there, turn, signs = jax.random.split(key, 4)
    corner = _corner(here, x, side)
    here, there = _inside(x, corner, side), _inside(x, _corner(there, x, side), side)
    smaller = min(x.shape[:2])
    bump = _bump(side, smaller).astype(x.dtype)
    bump = jnp.where(jax.random.bernoulli(turn), bump.T, bump)
    bump = jnp.zeros(x.shape[:2], x.dtype).at[:smaller, :smaller].set(bump)
    bump = jnp.roll(bump, corner, (0, 1))[..., None] * jax.random.rademacher(signs, (1, 1, *x.shape[2:]), x.dtype)

    offset = current - x
    unused = jnp.maximum(jnp.square(epsilon) - jnp.sum(jnp.square(offset)), 0.0) / x.shape[2]
    held = jnp.sum(jnp.square(jnp.where(here | there, offset, 0.0)), (0, 1), keepdims=True)
    direction = _unit(bump + _unit(jnp.where(here, offset, 0.0), (0, 1)), (0, 1))
    offset = jnp.where(here, jnp.sqrt(held + unused) * direction, jnp.where(there, 0.0, offset))
    return x + epsilon * _unit(offset, (0, 1, 2))


def _bump(side: int | jax.Array, size: int) -> jax.Array:
    """Equation 2: [size, size] of length 1, a positive peak over a negative one in the first side x side entries.

    A half of n x side pixels is sum_{m=d+1}^{M} 1/m^2 at a distance of d from its centre, M = side // 2 + 1.
    """
    sums = jnp.asarray(np.cumsum([0.0, *(1.0 / np.arange(1, size // 2 + 2) ** 2)]), jnp.float32)
    rows, columns = jnp.arange(size)[:, None], jnp.arange(size)[None]
    half = side // 2
    lower = rows >= half
    middle = jnp.where(lower, half + (side - half) // 2, half // 2)
    distance = jnp.maximum(jnp.abs(rows - middle), jnp.abs(columns - half))
    peak = sums[half + 1] - sums[jnp.minimum(distance, half + 1)]
    peak = jnp.where((rows < side) & (columns < side), peak, 0.0)
    upper_half, lower_half = (_unit(jnp.where(part, peak, 0.0), (0, 1)) for part in (~lower, lower))
    return _unit(upper_half - lower_half, (0, 1))


def _corner(key: jax.Array, x: jax.Array, side: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The upper left pixel of a square, uniform over all places where it fits."""
    return tuple(
        jax.random.randint(one, (), 0, length - side + 1)
        for one, length in zip(jax.random.split(key), x.shape[:2], strict=True)
    )


def _inside(x: jax.Array, corner: tuple[jax.Array, jax.Array], side: jax.Array) -> jax.Array:
    """[h, w, 1] bool. The side is traced, so this is a comparison of indices, not a slice."""
    rows, columns = (
        (jnp.arange(length) >= first) & (jnp.arange(length) < first + side)
        for length, first in zip(x.shape[:2], corner, strict=True)
    )
    return (rows[:, None] & columns[None])[..., None]


def _unit(offset: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return offset / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(offset), axes, keepdims=True)), 1e-12)


def _check(images, epsilon, queries, p_init, key) -> None:
    candidates.check_images(images)
    candidates.check_sizes(epsilon=epsilon)
    if images.ndim != 4:
        raise ValueError(f"images must be [b, h, w, c], as squares have a height and a width, got {images.shape}")
    if queries < 2:
        raise ValueError(f"queries must be at least 2, the clean image and the initial pattern, got {queries}")
    if not 0.0 < p_init <= 1.0:
        raise ValueError(f"p_init must be in (0, 1], got {p_init}")
    if key is None:
        raise ValueError("key must be a jax.random.key, got None")
