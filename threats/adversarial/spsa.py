"""SPSA: climbs a gradient that is guessed from the model's outputs at random points around the image.

    g = 1/n sum_i (J(x + delta v_i) - J(x - delta v_i)) / (2 delta) v_i        v_i: random signs
    x_{t+1} = P( x_t + step * u(g) )                                           u: Adam's direction, or sign(g)

P projects onto the linf ball and [0, 1]. The guess is unbiased where J is linear between the two points; its error
falls with 1/sqrt(n). It sees past gradients that vanish or are masked, as it looks delta far.

Uesato, O'Donoghue, van den Oord and Kohli, "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks",
2018, Algorithm 1; Spall, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient
Approximation", 1992. The points x +- delta v may lie outside of [0, 1] and of the ball, as there; no result does.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from threats import draws, outcomes
from threats.adversarial import candidates, norms, objectives

UPDATES = ("adam", "sign")


def spsa_attack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    epsilon: float | jax.Array,
    steps: int = 100,
    samples: int = 128,
    samples_at_once: int = 8,
    delta: float | jax.Array = 0.01,
    step_size: float | jax.Array | None = None,
    update: Literal["adam", "sign"] = "adam",
    restarts: int = 1,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    objective: objectives.Objective | None = None,
) -> candidates.AttackResult:
    """Projected ascent in linf along estimated gradients; takes nothing but the model's outputs.

    Costs at most, per image, 1 + restarts * (steps * (2 * samples + 1) + 1) outputs, in forward passes of
    2 * samples_at_once images for each one of the batch, which is what bounds the memory. An image that succeeds is
    left as it is from there on, and the search ends when all have. To be jitted by the caller; epsilon, delta,
    step_size and labels may change without recompiling.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, ...] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: consumed; image i draws from it by its number.
      epsilon: linf radius in the images' unit, e.g. 8/255; scalar or [b].
      steps: of each restart, at least 1.
      samples: random directions of each gradient, two outputs each.
      samples_at_once: directions evaluated together; changes memory and speed only.
      delta: how far the outputs are taken from the image, in its unit; scalar or [b]. 0.01 in the paper.
      step_size: of a sign step or Adam's learning rate, in the same unit; scalar or [b]. None: 2.5 * epsilon / steps.
      update: "adam" (the paper; moments of 0.9 and 0.999) or "sign" of the gradient.
      restarts: independent starts, each drawn from the ball, at least 1.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`.
      objective: `(logits, labels) -> [b]`, maximised (targeted: minimised). None: `objectives.margin(task)`, the
        paper's.

    Returns:
      candidates.AttackResult; the best of the clean image and all iterates.

    Raises:
      ValueError: if an option is out of its range, or, where their values are known (outside jit), if epsilon, delta
        or step_size is negative or an image leaves [0, 1].

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> attack = jax.jit(functools.partial(spsa_attack, linear, steps=5, samples=16))
      >>> images, labels = jnp.array([[0.6, 0.5], [0.9, 0.1]]), jnp.array([0, 0])
      >>> attack(jnp.eye(2), images, labels, key=jax.random.key(0), epsilon=0.1).success.tolist()
      [True, False]
    """
    _check(images, epsilon, delta, step_size, steps, restarts, samples, samples_at_once, update, key)
    step = 2.5 * norms.per_image(epsilon, images) / steps
    if step_size is not None:
        step = norms.per_image(step_size, images, name="step_size")
    judge = functools.partial(candidates.judge, objective or objectives.margin(task), task, targeted)
    ball = norms.get_norm("linf")
    start_key, sample_key = draws.fold(key, 0), draws.fold(key, 1)

    def value(x):
        copies = x.shape[0] // images.shape[0]
        return judge(apply(variables, x), jnp.tile(labels, (copies,) + (1,) * (labels.ndim - 1))).value

    def ascend(number, x, moments):
        gradient = estimate_gradient(
            value, draws.fold(sample_key, number), x,
            delta=delta, samples=samples, samples_at_once=samples_at_once,
        )  # fmt: skip
        direction, moments = _adam(gradient, moments) if update == "adam" else (jnp.sign(gradient), moments)
        return ball.project(x + step * direction, images, epsilon), moments

    def start(restart):
        x = ball.random_point(draws.fold(start_key, restart), images, epsilon)
        return x, _no_moments(x)

    def running(carry):
        number, _, _, best = carry
        return (number < restarts * (steps + 1)) & jnp.any(best.score.level <= 0)

    def step_once(carry):
        """Judges an iterate and moves on from it, unless it is the last of its restart."""
        number, x, moments, best = carry
        restart, done = jnp.divmod(number, steps + 1)
        x, moments = jax.lax.cond(done == 0, lambda: start(restart), lambda: (x, moments))
        score = judge(apply(variables, x), labels)
        score = score._replace(level=jnp.where(best.score.level > 0, -1, score.level))
        best = candidates.better(best, x, score)
        x, moments = jax.lax.cond(done < steps, lambda: ascend(number, x, moments), lambda: (x, moments))
        return number + 1, x, moments, best

    best = candidates.better(candidates.nothing(images), images, judge(apply(variables, images), labels))
    *_, best = jax.lax.while_loop(running, step_once, (jnp.int32(0), images, _no_moments(images), best))
    return candidates.result(best, targeted)


def estimate_gradient(
    function: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    *,
    delta: float | jax.Array,
    samples: int,
    samples_at_once: int = 8,
) -> jax.Array:
    """The gradient of a function of each row, from 2 * samples values of it; unbiased where the function is linear.

    A difference that is not finite counts as zero.

    Args:
      function: [n * b, ...] -> [n * b]; row i * b + j is a neighbour of x[j].
      key: consumed; row j draws from it by its number, each sample anew.
      x: [b, ...] float.
      delta: distance of the neighbours from x, entry by entry; scalar or [b].
      samples: random directions, at least 1.
      samples_at_once: directions evaluated together.

    Returns:
      [b, ...].

    Example:
      >>> total = lambda x: 3.0 * x.sum(axis=1)
      >>> estimate_gradient(total, jax.random.key(0), jnp.zeros((1, 1)), delta=0.5, samples=4).tolist()
      [[3.0]]
    """
    count, at_once = x.shape[0], min(samples_at_once, samples)
    delta = norms.per_image(delta, x, name="delta")
    keys = draws.of_rows(key, x.shape[0])

    def group(total, first):
        numbers = first + jnp.arange(at_once)
        v = jax.vmap(lambda sample: draws.signs(draws.fold(keys, sample), x))(numbers)
        values = function(
            jnp.concatenate([x[None] + delta[None] * v, x[None] - delta[None] * v]).reshape(-1, *x.shape[1:])
        )
        plus, minus = values.astype(x.dtype).reshape(2, at_once, count)
        slope = (plus - minus) / (2.0 * delta.reshape(1, count))
        slope = jnp.where((numbers < samples)[:, None] & jnp.isfinite(slope), slope, 0.0)
        return total + jnp.sum(slope.reshape(slope.shape + (1,) * (x.ndim - 1)) * v, axis=0), None

    total, _ = jax.lax.scan(group, jnp.zeros_like(x), jnp.arange(0, samples, at_once))
    return total / samples


class _Moments(NamedTuple):
    """Adam's running means of the gradient and of its square, [b, ...], after `count` steps."""

    count: jax.Array
    first: jax.Array
    second: jax.Array


def _no_moments(x: jax.Array) -> _Moments:
    return _Moments(jnp.zeros((), x.dtype), jnp.zeros_like(x), jnp.zeros_like(x))


def _adam(gradient: jax.Array, moments: _Moments) -> tuple[jax.Array, _Moments]:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, Algorithm 1: direction and new moments."""
    count = moments.count + 1
    first = 0.9 * moments.first + 0.1 * gradient
    second = 0.999 * moments.second + 0.001 * jnp.square(gradient)
    scale = jnp.sqrt(second / (1 - 0.999**count)) + 1e-8
    return first / (1 - 0.9**count) / scale, _Moments(count, first, second)


def _check(images, epsilon, delta, step_size, steps, restarts, samples, samples_at_once, update, key) -> None:
    candidates.check_images(images)
    candidates.check_sizes(epsilon=epsilon, delta=delta, step_size=0.0 if step_size is None else step_size)
    candidates.check_runs(steps, restarts, True, key)
    for name, value in (("samples", samples), ("samples_at_once", samples_at_once)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if update not in UPDATES:
        raise ValueError(f"update must be one of {UPDATES}, got {update!r}")
