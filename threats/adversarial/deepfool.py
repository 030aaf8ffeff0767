"""DeepFool: step to the nearest linearised decision boundary until the decision changes.

    k = argmin_k |g_k(x)| / ||w_k||*,    r += (|g_k| / ||w_k||* + 1e-4) s(w_k),    x = clip(x_0 + (1 + overshoot) r)

with the gaps g_k and planes w_k of `minimal`, and s(w) = w / ||w|| in l2, sign(w) in linf. Moosavi-Dezfooli, Fawzi and
Frossard, "DeepFool: a simple and accurate method to fool deep neural networks", 2016, algorithm 2 and equations 10 and
11; the 1e-4, which carries a step over the plane, and the clipping are those of their code and of Foolbox.
"""

from typing import Any

import jax
import jax.numpy as jnp

from threats import outcomes
from threats.adversarial import candidates, minimal, norms
from threats.adversarial.candidates import choose

_OVER_THE_PLANE = 1e-4


def attack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array | None = None,
    norm: str = "l2",
    steps: int = 50,
    candidates: int | None = 9,
    overshoot: float = 0.02,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
) -> minimal.MinimalResult:
    """A small perturbation that changes the decision, found in a few steps.

    At most `steps` times one forward pass and a backward pass per candidate, and two forward passes; it stops when all
    images are done. To be jitted by the caller; labels may change without recompiling.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, ...] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: ignored; nothing is drawn.
      norm: a name in `norms.NORMS`.
      steps: at most so many, at least 1.
      candidates: how many of the likeliest wrong classes are looked at (multi-label: of the least certain labels);
        None for all.
      overshoot: how far beyond the boundary, as a share of the perturbation, to end.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`; this steps to the boundary of that one class (not in the paper).

    Returns:
      MinimalResult; distances in `norm`.

    Raises:
      ValueError: if a count is below 1, a name is unknown, or, where its value is known, an image leaves [0, 1].

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> found = attack(linear, jnp.eye(2), jnp.array([[0.75, 0.25]]), jnp.array([0]), norm="linf")
      >>> bool(found.success[0]), round(float(found.distance[0]), 3)  # 0.25, the overshoot, and 1e-4
      (True, 0.255)
    """
    del key
    minimal.check(images, steps=steps)
    ball, options = norms.get_norm(norm), {"task": task, "targeted": targeted}
    logits = apply(variables, images)
    chosen = minimal.candidate_classes(logits, labels, candidates, **options)

    def searching(carry):
        step, _, _, done = carry
        return (step < steps) & ~jnp.all(done)

    def advance(carry):
        step, x, offset, _ = carry
        plane, done = minimal.nearest_plane(apply, variables, x, labels, chosen, norm=norm, **options)
        moves = plane.length > 0
        distance = jnp.abs(plane.gap) / jnp.where(moves, plane.length, 1.0) + _OVER_THE_PLANE
        direction = ball.steepest(plane.normal).reshape(x.shape)
        offset = offset + norms.per_image(distance, x) * direction
        farther = jnp.clip(images + (1.0 + overshoot) * offset, 0.0, 1.0)
        return step + 1, choose(done, x, farther), offset, done

    wrong = minimal.fooled(logits, labels, **options)
    start = (0, images, jnp.zeros_like(images), wrong)
    _, x, _, _ = jax.lax.while_loop(searching, advance, start)
    done = minimal.fooled(apply(variables, x), labels, **options)
    return minimal.closer(minimal.clean(images, wrong), x, done, ball.length(x - images))
