"""FAB: the fast adaptive boundary attack, which walks along the decision boundary towards the clean image.

Each step takes the plane pi of the nearest linearised boundary at x_i and projects both x_i and the clean image x onto
it, within [0, 1] (`to_plane`). It goes a little beyond, biased towards x, and back whenever the decision changed:

    d_i = P_pi(x_i) - x_i,   d = P_pi(x) - x,   alpha = min(||d_i|| / (||d_i|| + ||d||), alpha_max)
    x_{i+1} = clip((1 - alpha) (x_i + eta d_i) + alpha (x + eta d)),   then x + beta (x_{i+1} - x) if x_{i+1} is wrong

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", 2020, algorithm 1. The
paper's line search after the last step is left out, as in AutoAttack; with `targets` each run looks at one class, as
AutoAttack's FAB-T does (Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", 2020).
"""

from typing import Any

import jax
import jax.numpy as jnp

from threats import draws, outcomes
from threats.adversarial import candidates, minimal, norms
from threats.adversarial.candidates import AttackResult, choose


def attack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array | None = None,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    targets: int | None = None,
    candidates: int | None = 9,
    start_radius: float | jax.Array = 0.3,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
) -> minimal.MinimalResult:
    """The closest success of all iterates of all runs.

    A step costs two forward passes and a backward pass per candidate, with `targets` one. To be jitted by the caller;
    labels, start_radius, alpha_max, eta and beta may change without recompiling.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, ...] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: consumed; None will do without restarts.
      norm: a name in `norms.NORMS`.
      steps: of each run, at least 1.
      restarts: runs, at least 1; the first starts from the clean image, the others from a uniform draw from the ball
        around it of half the smallest distance found so far, at most half of start_radius.
      targets: None, every step looks at all candidates; a number, that many runs (times restarts) with one wrong class
        each, the likeliest first, but any success counts. Never more than there are wrong classes.
      candidates: without targets, how many of the likeliest wrong classes are looked at (multi-label: of the least
        certain labels); None for all.
      start_radius: in the images' unit; scalar or [b].
      alpha_max: in [0, 1], the largest bias towards the clean image.
      eta: at least 1, how far beyond the plane to go.
      beta: in (0, 1), where between the clean image and a success to go on.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`. All planes around them have to be passed and a step goes to one, so that in
        multi-label this often finds nothing where the other attacks do.

    Returns:
      MinimalResult; distances in `norm`.

    Raises:
      ValueError: if a count is below 1, a name is unknown, or, where its value is known, an image leaves [0, 1].

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> found = attack(linear, jnp.eye(2), jnp.array([[0.75, 0.25]]), jnp.array([0]))
      >>> bool(found.success[0]), round(float(found.distance[0]), 2)
      (True, 0.25)
    """
    minimal.check(images, steps=steps, restarts=restarts, targets=1 if targets is None else targets)
    if restarts > 1 and key is None:
        raise ValueError("key must be a jax.random.key with restarts above 1, got None")
    ball, options = norms.get_norm(norm), {"task": task, "targeted": targeted}
    logits = apply(variables, images)
    chosen = minimal.candidate_classes(logits, labels, targets or candidates, **options)
    runs = chosen.T[:, :, None] if targets else chosen[None]

    def step(carry, _, looked_at):
        x, best = carry
        plane, _ = minimal.nearest_plane(apply, variables, x, labels, looked_at, norm=norm, **options)
        x = _towards(plane, x, images, norm, alpha_max, eta)
        wrong = minimal.fooled(apply(variables, x), labels, **options)
        best = minimal.closer(best, x, wrong, ball.length(x - images))
        return (choose(wrong, images + beta * (x - images), x), best), None

    def run(best, number):
        which, restart = number // restarts, number % restarts
        start = images
        if restarts > 1:
            radius = jnp.minimum(best.distance, norms.per_image(start_radius, images).reshape(-1)) / 2
            drawn = ball.random_point(draws.fold(key, number), images, radius)
            start = jnp.where(restart > 0, drawn, images)
        (_, best), _ = jax.lax.scan(lambda *carry: step(*carry, runs[which]), (start, best), length=steps)
        return best, None

    known = minimal.clean(images, minimal.fooled(logits, labels, **options))
    return jax.lax.scan(run, known, jnp.arange(len(runs) * restarts))[0]


def bounded(*arguments, epsilon: float | jax.Array, **options: Any) -> AttackResult:
    """`minimal.within` of the attack, with restarts that begin within the radius."""
    return minimal.within(attack)(*arguments, epsilon=epsilon, start_radius=epsilon, **options)


def to_plane(x: jax.Array, normal: jax.Array, rise: jax.Array, *, norm: str) -> jax.Array:
    """The shortest d with normal . d = rise and x + d in [0, 1]; if there is none, the d that comes nearest to it.

    Exact. An entry moves by min(t r_i, room_i) in the direction that helps, with r_i = 1 in linf and |normal_i| in l2,
    and the gain in t is concave and piecewise linear, with a knot where an entry has used up its room: they are sorted,
    and the piece that reaches the rise is solved for t (Croce and Hein 2020, section 2.2 and appendix A).

    Args:
      x: [b, n] in [0, 1].
      normal: [b, n], with entries neither so small nor so large that squares vanish or overflow.
      rise: [b], of either sign.
      norm: "linf" or "l2".

    Returns:
      d, [b, n].
    """
    up = normal * jnp.where(rise < 0, -1.0, 1.0)[:, None]
    rise, weight = jnp.abs(rise), jnp.abs(normal)
    rate = jnp.ones_like(weight) if norm == "linf" else weight
    room = jnp.where(up > 0, 1.0 - x, jnp.where(up < 0, x, 0.0))
    knots = room / jnp.where(rate > 0, rate, 1.0)
    knots, used, slope = jax.lax.sort((knots, weight * room, weight * rate), dimension=1, num_keys=1)
    nothing = jnp.zeros_like(knots[:, :1])
    used = jnp.concatenate([nothing, jnp.cumsum(used, axis=1)], axis=1)  # [b, n + 1]: by the first j entries
    slope = jnp.concatenate([jnp.cumsum(slope[:, ::-1], axis=1)[:, ::-1], nothing], axis=1)  # of all but the first j
    passed = jnp.sum(used[:, 1:] + knots * slope[:, 1:] < rise[:, None], axis=1, keepdims=True)
    used, slope = (jnp.take_along_axis(a, passed, axis=1)[:, 0] for a in (used, slope))
    t = jnp.where(slope > 0, (rise - used) / jnp.where(slope > 0, slope, 1.0), jnp.inf)
    t = jnp.clip(t, 0.0, jnp.finfo(x.dtype).max)
    return jnp.sign(up) * jnp.minimum(t[:, None] * rate, room)


def _towards(plane: minimal.Plane, x, images, norm: str, alpha_max, eta) -> jax.Array:
    """One step before its backward part; x and images [b, ...]."""
    ball = norms.get_norm(norm)
    here, clean = x.reshape(x.shape[0], -1), images.reshape(x.shape[0], -1)
    clean_gap = plane.gap + jnp.sum(plane.normal * (clean - here), axis=1)
    from_here = to_plane(here, plane.normal, -plane.gap, norm=norm)
    from_clean = to_plane(clean, plane.normal, -clean_gap, norm=norm)
    near, far = ball.length(from_here), ball.length(from_clean)
    alpha = jnp.minimum(near / jnp.maximum(near + far, 1e-12), alpha_max)[:, None]
    moved = (1.0 - alpha) * (here + eta * from_here) + alpha * (clean + eta * from_clean)
    return jnp.clip(moved, 0.0, 1.0).reshape(x.shape)
