"""Carlini and Wagner's L2 attack: the smallest perturbation as an unconstrained problem in the tanh of the pixels.

    minimise over v   ||x(v) - x||^2 + c max(kappa - g(x(v)), 0),    x(v) = (tanh(v) + 1) / 2

g > 0 is the margin of being wrong: max_{i != y} z_i - z_y; targeted z_t - max_{i != t} z_i; multi-label the nearest
flip, max_l -s_l z_l (see `objectives.margin`). Adam takes `steps` steps from the clean image for each c, which is
multiplied by ten until a success is found, then bisected. Carlini and Wagner, "Towards Evaluating the Robustness of
Neural Networks", 2017, section V, objective f_6; up to a constant their max(-g, -kappa) is the one above.

Their code gives up a search that has stopped improving; this one takes all its steps, since when to give up would have
to be decided image by image and saves nothing before the last image of the batch is done.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from threats import convolutions, outcomes
from threats.adversarial import candidates, minimal, norms, objectives

# tanh reaches the ends of the box at infinity only: pixels of 0 and 1 are moved in by half of this.
_INWARD = 1e-6


def attack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array | None = None,
    confidence: float = 0.0,
    steps: int = 1000,
    searches: int = 9,
    learning_rate: float = 0.01,
    initial_c: float = 1e-3,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
) -> minimal.MinimalResult:
    """The closest success, in l2, of all iterates of all searches.

    Costs `searches` times `steps` gradients and a forward pass. To be jitted by the caller; labels, confidence,
    learning_rate and initial_c may change without recompiling.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, ...] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: ignored; nothing is drawn.
      confidence: kappa >= 0, in logits: a success counts only if its margin is at least this; of images that are wrong
        as they are, too. A non-finite output counts at any.
      steps: of Adam, for each c; at least 1. The paper takes 10,000.
      searches: how many values of c are tried, at least 1.
      learning_rate: of Adam, in units of v.
      initial_c: the first c.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`.

    Returns:
      MinimalResult; distances in l2.

    Raises:
      ValueError: if a count is below 1, a name is unknown, or, where its value is known, an image leaves [0, 1].

    Example:
      >>> linear = lambda variables, images: images @ variables
      >>> found = attack(linear, jnp.eye(2), jnp.array([[0.75, 0.25]]), jnp.array([0]), steps=100, learning_rate=0.05)
      >>> bool(found.success[0]), round(float(found.distance[0]), 2)  # sqrt(1/8)
      (True, 0.35)
    """
    del key
    minimal.check(images, steps=steps, searches=searches)
    margin = objectives.margin(task)
    anchor = jnp.arctanh((2.0 * images - 1.0) * (1.0 - _INWARD))
    origin, adam = _pixels(anchor), optax.adam(learning_rate)
    length = norms.get_norm("l2").length

    def judge(x):
        logits = apply(variables, x)
        gap = margin(logits, labels) * (-1.0 if targeted else 1.0)
        wrong = minimal.fooled(logits, labels, task=task, targeted=targeted)
        return gap, wrong & ((gap >= confidence) | ~outcomes.finite(logits))

    def cost(offset, c):
        x = _pixels(anchor + offset)
        gap, wrong = judge(x)
        squares = jnp.sum(jnp.square(x - origin).reshape(x.shape[0], -1), axis=1)
        return jnp.sum(squares + c * jnp.maximum(confidence - gap, 0.0)), (x, wrong)

    slope_of = convolutions.in_loops(jax.grad(cost, has_aux=True))

    def descend(c, carry, _):
        offset, state, found, best = carry
        slope, (x, wrong) = slope_of(offset, c)
        best = minimal.closer(best, x, wrong, length(x - images))
        with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to an integer count.
            update, state = adam.update(jnp.where(jnp.isfinite(slope), slope, 0.0), state)
        return (optax.apply_updates(offset, update), state, found | wrong, best), None

    def search(carry, _):
        c, low, high, best = carry
        start = jnp.zeros_like(images)
        start = (start, adam.init(start), jnp.zeros(c.shape, bool), best)
        (_, _, found, best), _ = jax.lax.scan(lambda *carry: descend(c, *carry), start, length=steps)
        low, high = jnp.where(found, low, c), jnp.where(found, c, high)
        return (jnp.where(jnp.isinf(high), 10.0 * c, (low + high) / 2), low, high, best), None

    c = jnp.full(images.shape[0], initial_c, jnp.float32)
    start = (c, jnp.zeros_like(c), jnp.full_like(c, jnp.inf), minimal.clean(images, judge(images)[1]))
    return jax.lax.scan(search, start, length=searches)[0][-1]


def _pixels(v: jax.Array) -> jax.Array:
    return 0.5 * jnp.tanh(v) + 0.5
