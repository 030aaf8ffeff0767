"""Projected gradient descent that finds its own step size: Auto-PGD.

    z       = P( x_k + step * s(grad_x f(x_k)) )                       f: the objective; s, P: see `norms`
    x_{k+1} = P( x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1}) )         a = 0.75, and 1 in the first step

The step starts at 2 epsilon. At the checkpoints w_1 < w_2 < ... it is halved, and x goes back to the best point so far,

    (1) if fewer than rho = 3/4 of the steps since the last checkpoint raised f, or
    (2) if the best f is that of the last checkpoint and the step was not halved there.

The checkpoints are ceil(p_j n) of n steps, with p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03,
0.06). Each image has its own step and its own checks. Croce and Hein, "Reliable Evaluation of Adversarial Robustness
with an Ensemble of Diverse Parameter-free Attacks", 2020, algorithm 1 and section 3. The l2 form is that of the
authors' code. That code also looks at a checkpoint one step earlier than algorithm 1, rounds the checkpoints down and
starts on the ball's surface; here a start is uniform in the ball.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import convolutions, draws, outcomes
from threats.adversarial import candidates, norms, objectives
from threats.adversarial.candidates import AttackResult

MOMENTUM, RISES = 0.75, 0.75  # alpha and rho in the paper


def apgd(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array | None,
    epsilon: float | jax.Array,
    steps: int = 100,
    norm: str = "linf",
    random_start: bool = True,
    restarts: int = 1,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    objective: objectives.Objective | None = None,
    targets: int | jax.Array | None = None,
    towards: objectives.TargetedObjective | None = None,
) -> AttackResult:
    """Auto-PGD: `steps` steps from each of `restarts` starts in the ball, with targets for each target.

    Costs `steps` gradients and one forward pass per start, and one forward pass of the clean images; keeps the
    gradient at each image's best point besides. To be jitted by the caller; epsilon and labels may change without
    recompiling. A NaN in an image's gradient counts as zero.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, ...] float32 in [0, 1], e.g. [b, h, w, c].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: consumed; start r and image i draw from it by these two numbers. None will do without a random start.
      epsilon: radius in the images' unit, e.g. 8/255 in linf; scalar or [b].
      steps: gradient steps from each start, at least 1. Below about 10 the step hardly has time to shrink.
      norm: a name in `norms.NORMS`.
      random_start: start from a uniform draw from the ball, not from the clean image.
      restarts: independent starts, at least 1; more than one needs random_start.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`; not with targets.
      objective: `(logits, labels) -> [b]`, maximised (targeted: minimised). None: `objectives.cross_entropy(task)`.
      targets: wrong answers to climb towards, one after the other, though any wrong answer is a success: [t, b] int32,
        or how many of `objectives.likely_targets` of the clean images, at least 1. `objective` then only says which
        image is the best, and how good it is.
      towards: `(logits, labels, target [b]) -> [b]`, climbed for each target. None: `objectives.targeted_dlr(task)`.

    Returns:
      AttackResult.

    Raises:
      ValueError: if an option is out of its range, or, where their values are known (outside jit), if epsilon is
        negative or an image leaves [0, 1].

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> images, labels = jnp.array([[0.75, 0.5]]), jnp.array([0])
      >>> apgd(linear, jnp.eye(2), images, labels, key=jax.random.key(0), epsilon=0.25, steps=5).images.tolist()
      [[0.5, 0.75]]
    """
    candidates.check_images(images)
    candidates.check_sizes(epsilon=epsilon)
    candidates.check_runs(steps, restarts, random_start, key)
    if targeted and targets is not None:
        raise ValueError("targets must be None with targeted=True, where labels are the targets")
    ball = norms.get_norm(norm)
    judge = functools.partial(candidates.judge, objective or objectives.cross_entropy(task), task, targeted)
    towards = towards or objectives.targeted_dlr(task)

    def climb(best, run):
        index, target = run

        def standing(x):
            logits = apply(variables, x)
            score = judge(logits, labels)
            value = score.value
            if target is not None:
                value = candidates.check_value("towards", towards(logits, labels, target), labels)
            return jnp.sum(value), (value, score)

        start = ball.random_point(draws.fold(key, index), images, epsilon) if random_start else images
        return _climb(standing, best, start, images, epsilon, ball, steps), None

    logits = apply(variables, images)
    best = candidates.better(candidates.nothing(images), images, judge(logits, labels))
    if isinstance(targets, int):
        targets = objectives.likely_targets(logits, labels, task, count=targets)
    runs = restarts
    if targets is not None:
        targets = jnp.repeat(_checked(targets, images), restarts, axis=0)
        runs = len(targets)
    best, _ = jax.lax.scan(climb, best, (jnp.arange(runs), targets))
    return candidates.result(best, targeted)


def checkpoints(steps: int) -> list[int]:
    """w_0 = 0, w_1, ... below `steps`.

    Example:
      >>> checkpoints(100)
      [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares, period = [0, 22], 22  # In percent: exact.
    while shares[-1] < 100:
        period = max(period - 3, 6)
        shares.append(shares[-1] + period)
    points = {-(-share * steps // 100) for share in shares}
    return sorted(point for point in points if point < steps)


class _Point(NamedTuple):
    """x: [b, ...]; gradient: of the objective at x, [b, ...]; value: the objective at x, [b]."""

    x: jax.Array
    gradient: jax.Array
    value: jax.Array


class _Climb(NamedTuple):
    """Where each image stands before x_k is looked at.

    x: x_k, [b, ...].
    previous: x_{k-1}, [b, ...]; x_0 at first.
    value: f(x_{k-1}), [b]; infinite at first, so that x_0 is no rise.
    step: [b].
    peak: the highest point so far, by value alone.
    rises: steps since the last checkpoint that raised the value, [b].
    checked: the peak's value at the last checkpoint, [b].
    halved: whether the step was halved there, [b].
    best: the best candidate, which a success makes before any value.
    """

    x: jax.Array
    previous: jax.Array
    value: jax.Array
    step: jax.Array
    peak: _Point
    rises: jax.Array
    checked: jax.Array
    halved: jax.Array
    best: candidates.Best


def _climb(
    standing: Callable,
    best: candidates.Best,
    start: jax.Array,
    images: jax.Array,
    epsilon,
    ball: norms.Norm,
    steps: int,
) -> candidates.Best:
    """One start. standing: `x -> (sum of values, (value [b], score))`."""

    slope = convolutions.in_loops(jax.value_and_grad(standing, has_aux=True))

    def advance(state, now):
        (_, (value, score)), gradient = slope(state.x)
        state = state._replace(best=candidates.better(state.best, state.x, score))
        state, point = _look(state, _Point(state.x, gradient, value), now)
        step = norms.per_image(state.step, images)
        moved = ball.project(point.x + step * ball.steepest(point.gradient), images, epsilon)
        moved = point.x + now.share * (moved - point.x) + (1 - now.share) * (point.x - state.previous)
        return state._replace(x=ball.project(moved, images, epsilon), previous=point.x), None

    lowest = jnp.full(len(images), -jnp.inf, jnp.float32)
    state = _Climb(
        x=start, previous=start, value=-lowest, step=2 * norms.per_image(epsilon, images).ravel(),
        peak=_Point(start, jnp.zeros_like(start), lowest), rises=jnp.zeros(len(images), jnp.int32),
        checked=lowest, halved=jnp.ones(len(images), bool), best=best,
    )  # fmt: skip
    state, _ = jax.lax.scan(advance, state, _schedule(steps, images.dtype))
    return candidates.better(state.best, state.x, standing(state.x)[1][1])


class _Now(NamedTuple):
    """What is known of step k beforehand. [steps] before the scan, scalars in it.

    share: a, how much of the step is the gradient's.
    check: k - 1 is a checkpoint.
    enough: how many rises since the checkpoint before keep the step.
    """

    share: np.ndarray
    check: np.ndarray
    enough: np.ndarray


def _schedule(steps: int, dtype: np.dtype) -> _Now:
    check, enough = np.zeros(steps, bool), np.zeros(steps, np.int32)
    points = [point for point in checkpoints(steps) if point + 1 < steps]
    for last, point in zip([0, *points], points, strict=False):
        check[point + 1], enough[point + 1] = True, math.ceil(RISES * (point - last))
    return _Now(np.where(np.arange(steps) == 0, 1.0, MOMENTUM).astype(dtype), check, enough)


def _look(state: _Climb, point: _Point, now: _Now) -> tuple[_Climb, _Point]:
    """The state and x_k after both conditions; point: x_k, which is replaced by the peak where the step is halved."""
    stuck = ~state.halved & (state.peak.value == state.checked)
    halve = now.check & ((state.rises < now.enough) | stuck)
    state = state._replace(
        step=jnp.where(halve, state.step / 2, state.step),
        rises=jnp.where(now.check, 0, state.rises),
        checked=jnp.where(now.check, state.peak.value, state.checked),
        halved=jnp.where(now.check, halve, state.halved),
    )
    peak = candidates.choose(point.value > state.peak.value, point, state.peak)
    point = candidates.choose(halve, peak, point)
    rises = state.rises + (point.value > state.value).astype(jnp.int32)
    return state._replace(peak=peak, rises=rises, value=point.value), point


def _checked(targets: jax.Array, images: jax.Array) -> jax.Array:
    targets = jnp.asarray(targets)
    if targets.ndim != 2 or targets.shape[1] != len(images):
        raise ValueError(f"targets must be a number or of shape (targets, {len(images)}), got {targets.shape}")
    return targets
