"""Attacks that climb the gradient of the loss with respect to the image: projected gradient descent and its kin.

    x_0 = x, or a random start in the ball B(x, epsilon)
    g_t = grad_x objective(f(x_t), y)
    x_{t+1} = P( x_t + step * s(g_t) )

P projects onto the ball and [0, 1]; s is sign(.) in linf and ./||.|| in l2 (see `norms`). Targeted attacks descend
instead. PGD: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018, section 2.1. The
others are PGD with some options fixed:

    FGSM: one step of size epsilon from x. Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015,
      section 4.
    R+FGSM: one step of size epsilon / 2 from x + epsilon / 2 * (random signs). Tramer et al., "Ensemble Adversarial
      Training: Attacks and Defenses", 2018, section 4.
    MI-FGSM: climbs m_t = decay * m_{t-1} + g_t / ||g_t||_1 instead of g_t. Dong et al., "Boosting Adversarial Attacks
      with Momentum", 2018, algorithm 1, and its l2 form.

All return, per image, the best candidate seen (clean image, starts, iterates, restarts): see `candidates`.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from threats import convolutions, draws, outcomes
from threats.adversarial import candidates, norms, objectives
from threats.adversarial.candidates import AttackResult

KEEPS = ("best", "last")


def pgd(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array | None,
    epsilon: float | jax.Array,
    steps: int = 20,
    step_size: float | jax.Array | None = None,
    norm: str = "linf",
    random_start: bool | norms.Draw = True,
    restarts: int = 1,
    decay: float | jax.Array | None = None,
    keep: Literal["best", "last"] = "best",
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    objective: objectives.Objective | None = None,
) -> AttackResult:
    """Projected gradient descent: `steps` steps of steepest ascent from each of `restarts` starts in the ball.

    Costs `steps` gradients and one forward pass per restart, and one forward pass of the clean images if the start is
    random. To be jitted by the caller; epsilon, step_size and labels may change without recompiling. A NaN in an
    image's gradient counts as zero, so that image does not move by it.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, ...] float32 in [0, 1], e.g. [b, h, w, c].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: consumed; restart r and image i draw from it by these two numbers. None will do without a random start.
      epsilon: radius in the images' unit, e.g. 8/255 in linf; scalar or [b].
      steps: gradient steps of each restart, at least 1.
      step_size: in the same unit; scalar or [b]. None: 2.5 * epsilon / steps.
      norm: a name in `norms.NORMS`.
      random_start: start from a uniform draw from the ball, not from the clean image; or `(key, images, epsilon) ->
        images`, another draw, which is projected onto the ball.
      restarts: independent starts, at least 1; more than one needs random_start.
      decay: of the momentum, as in `mi_fgsm`; None climbs without.
      keep: "best" candidate of each image, or its "last" iterate (the best of the last ones of several restarts).
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`.
      objective: `(logits, labels) -> [b]`, maximised (targeted: minimised). None: `objectives.cross_entropy(task)`.

    Returns:
      AttackResult.

    Raises:
      ValueError: if an option is out of its range, or, where their values are known (outside jit), if epsilon,
        step_size or decay is negative or an image leaves [0, 1].

    Example:
      >>> weights = {"kernel": jnp.array([[1.0, -1.0], [-1.0, 1.0]])}
      >>> linear = lambda variables, images: images @ variables["kernel"]
      >>> attack = jax.jit(functools.partial(pgd, linear, steps=5))
      >>> images, labels = jnp.array([[0.6, 0.5], [0.9, 0.1]]), jnp.array([0, 0])
      >>> attack(weights, images, labels, key=jax.random.key(0), epsilon=0.1).success.tolist()
      [True, False]
    """
    candidates.check_images(images)
    candidates.check_sizes(epsilon=epsilon, step_size=step_size, decay=decay)
    candidates.check_runs(steps, restarts, random_start, key)
    if keep not in KEEPS:
        raise ValueError(f"keep must be one of {KEEPS}, got {keep!r}")
    ball = norms.get_norm(norm)
    draw = _projected(random_start, ball) if callable(random_start) else ball.random_point
    if step_size is None:
        step = 2.5 * norms.per_image(epsilon, images) / steps
    else:
        step = norms.per_image(step_size, images, name="step_size")
    judge = functools.partial(candidates.judge, objective or objectives.cross_entropy(task), task, targeted)

    def standing(x):
        score = judge(apply(variables, x), labels)
        return jnp.sum(score.value), score

    slope = convolutions.in_loops(jax.value_and_grad(standing, has_aux=True))

    def ascend(carry, _):
        x, momentum, best = carry
        (_, score), gradient = slope(x)
        if keep == "best":
            best = candidates.better(best, x, score)
        if decay is not None:
            gradient = momentum = decay * momentum + norms.mean_scaled(gradient)
        return (ball.project(x + step * ball.steepest(gradient), images, epsilon), momentum, best), None

    def restart(best, index):
        start = draw(draws.fold(key, index), images, epsilon) if random_start else images
        momentum = None if decay is None else jnp.zeros_like(images)
        (x, _, best), _ = jax.lax.scan(ascend, (start, momentum, best), length=steps)
        return candidates.better(best, x, standing(x)[1]), None

    best = candidates.nothing(images)
    if random_start and keep == "best":
        best = candidates.better(best, images, standing(images)[1])
    best, _ = jax.lax.scan(restart, best, jnp.arange(restarts))
    return candidates.result(best, targeted)


def fgsm(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float | jax.Array,
    norm: str = "linf",
    keep: Literal["best", "last"] = "best",
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    objective: objectives.Objective | None = None,
) -> AttackResult:
    """Fast gradient sign method: x + epsilon * s(grad), clipped to [0, 1].

    One gradient and one forward pass. With keep="best" an image that the step would help stays as it was; "last" is
    the method as published. Arguments, result and errors otherwise as in `pgd`.

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> images, labels = jnp.array([[0.75, 0.5]]), jnp.array([0])
      >>> fgsm(linear, jnp.eye(2), images, labels, epsilon=0.25).images.tolist()
      [[0.5, 0.75]]
    """
    return pgd(
        apply, variables, images, labels,
        key=None, epsilon=epsilon, steps=1, step_size=epsilon, random_start=False,
        norm=norm, keep=keep, task=task, targeted=targeted, objective=objective,
    )  # fmt: skip


def r_fgsm(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    epsilon: float | jax.Array,
    keep: Literal["best", "last"] = "best",
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    objective: objectives.Objective | None = None,
) -> AttackResult:
    """FGSM from a random corner, in linf: x' = x + epsilon / 2 * (random signs), then a step of epsilon / 2 from there.

    The gradient is taken away from the clean image, where it may say little. One gradient and two forward passes.
    Arguments, result and errors as in `pgd`.

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> images, labels = jnp.array([[0.75, 0.5]]), jnp.array([0])
      >>> r_fgsm(linear, jnp.eye(2), images, labels, key=jax.random.key(1), epsilon=0.25, keep="last").images.tolist()
      [[0.75, 0.75]]
    """

    def corner(key, images, epsilon):
        return images + norms.per_image(epsilon, images) / 2 * draws.signs(key, images)

    return pgd(
        apply, variables, images, labels,
        key=key, epsilon=epsilon, steps=1, step_size=epsilon / 2, random_start=corner,
        keep=keep, task=task, targeted=targeted, objective=objective,
    )  # fmt: skip


def mi_fgsm(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float | jax.Array,
    steps: int = 10,
    step_size: float | jax.Array | None = None,
    decay: float | jax.Array = 1.0,
    norm: str = "linf",
    keep: Literal["best", "last"] = "best",
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
    objective: objectives.Objective | None = None,
) -> AttackResult:
    """Momentum iterative FGSM: steps along the decaying sum of past gradients, each divided by its mean |entry|.

    Costs `steps` gradients and one forward pass. Arguments, result and errors otherwise as in `pgd`.

    Args:
      step_size: in the unit of epsilon; scalar or [b]. None: epsilon / steps.
      decay: mu in the paper, 0 or more; 0 is PGD from the clean image.

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> images, labels = jnp.array([[0.75, 0.5]]), jnp.array([0])
      >>> mi_fgsm(linear, jnp.eye(2), images, labels, epsilon=0.25, steps=2).images.tolist()
      [[0.5, 0.75]]
    """
    return pgd(
        apply, variables, images, labels,
        key=None, epsilon=epsilon, steps=steps, step_size=epsilon / steps if step_size is None else step_size,
        random_start=False, decay=decay, norm=norm, keep=keep, task=task, targeted=targeted, objective=objective,
    )  # fmt: skip


def _projected(draw: norms.Draw, ball: norms.Norm) -> norms.Draw:
    return lambda key, images, epsilon: ball.project(draw(key, images, epsilon), images, epsilon)
