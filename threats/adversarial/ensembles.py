"""AutoAttack: four attacks that need no tuning, one after the other, each on the images that are still right.

    1. APGD up the cross-entropy                            100 steps
    2. APGD towards each of the nine likeliest classes      100 steps each
    3. FAB towards the same                                 100 steps each
    4. Square Attack                                        5,000 queries

Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
2020, the version named "standard" in the authors' code. With fewer than four classes the second attack climbs the
margin, since the ratio of logits has no meaning there; with a target (not in the paper) it is left out.

The images that are left are gathered into groups of one size, so that nothing is compiled anew however many they are.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from threats import draws, outcomes
from threats.adversarial import candidates, fab, norms, objectives
from threats.adversarial.autopgd import apgd
from threats.adversarial.square import square_attack

_TARGETS = 9
# Groups are a quarter of the batch, but not so small that what each costs beside its images would show.
_GROUPS, _SMALLEST_GROUP = 4, 8


def autoattack(
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    epsilon: float | jax.Array,
    norm: str = "linf",
    steps: int = 100,
    queries: int = 5000,
    images_at_once: int | None = None,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
) -> candidates.AttackResult:
    """The standard ensemble, per image the worst case of its attacks.

    Costs, for images that nothing breaks and k classes, about steps * (1 + t) gradients, steps * t times two forward
    passes and a backward pass more for FAB, t = min(9, k - 1), and `queries` forward passes; an image that the first
    attack breaks costs `steps` gradients. To be jitted by the caller; epsilon and labels may change without
    recompiling.

    Args:
      apply: `(variables, images) -> logits`; row i may depend on image i only. Normalisation belongs inside.
      variables: the model's parameters, any pytree.
      images: [b, h, w, c] float32 in [0, 1].
      labels: [b] int32, [b, k] 0/1 in multi-label, or the task's own: what the model should say, or, targeted,
        should be made to say.
      key: consumed; each attack and image draws its own.
      epsilon: radius in the images' unit, e.g. 8/255 in linf; scalar or [b].
      norm: a name in `norms.NORMS`.
      steps: of each run of APGD and FAB, at least 1.
      queries: of Square Attack, at least 2.
      images_at_once: size of the groups that are attacked together. None: a quarter of the batch, at least 8.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      targeted: make the model say `labels`.

    Returns:
      AttackResult; of an image that nothing breaks, the candidate with the largest cross-entropy.

    Raises:
      ValueError: if an option is out of its range, or, where their values are known (outside jit), if epsilon is
        negative or an image leaves [0, 1].

    Example:
      >>> bright = lambda variables, x: jnp.stack([0.5 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.5], -1)
      >>> attack = jax.jit(functools.partial(autoattack, bright, None, steps=5, queries=10))
      >>> images, labels = jnp.stack([jnp.full((8, 8, 3), 0.48), jnp.full((8, 8, 3), 0.2)]), jnp.array([0, 0])
      >>> attack(images, labels, key=jax.random.key(0), epsilon=0.1).success.tolist()
      [True, False]
    """
    members = standard(norm, steps=steps, queries=queries, targeted=targeted)
    return ensemble(
        members, apply, variables, images, labels,
        key=key, epsilon=epsilon, images_at_once=images_at_once, task=task, targeted=targeted,
    )  # fmt: skip


def standard(
    norm: str, *, steps: int = 100, queries: int = 5000, targeted: bool = False
) -> list[Callable[..., candidates.AttackResult]]:
    """The attacks of `autoattack` in their order, each called as the entries of `ATTACKS` are."""
    norms.get_norm(norm)
    climb = functools.partial(apgd, norm=norm, steps=steps)
    boundary = functools.partial(fab.bounded, norm=norm, steps=steps, targets=None if targeted else _TARGETS)
    likely = [] if targeted else [functools.partial(climb, targets=_TARGETS)]
    return [climb, *likely, boundary, functools.partial(square_attack, norm=norm, queries=queries)]


def ensemble(
    members: Sequence[Callable[..., candidates.AttackResult]],
    apply: candidates.Apply,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    epsilon: float | jax.Array,
    images_at_once: int | None = None,
    task: outcomes.Task = "multi-class",
    targeted: bool = False,
) -> candidates.AttackResult:
    """Attacks of your own one after the other, each on the images that the ones before left right.

    Args:
      members: called as the entries of `ATTACKS` are, e.g. `functools.partial(ATTACKS["pgd"].fn, steps=40)`; those that
        draw take [b] keys, one for each image, as all of this library do.
      apply, variables, images, labels, key, epsilon, images_at_once, task, targeted: as in `autoattack`.

    Returns, Raises:
      as `autoattack`.
    """
    candidates.check_images(images)
    candidates.check_sizes(epsilon=epsilon)
    count = images.shape[0]
    if not count:
        raise ValueError(f"images must be at least one, got shape {images.shape}")
    if images_at_once is not None and images_at_once < 1:
        raise ValueError(f"images_at_once must be at least 1 or None, got {images_at_once}")
    size = min(images_at_once or max(-(-count // _GROUPS), _SMALLEST_GROUP), count)
    radius = norms.per_image(epsilon, images).ravel()
    judge = functools.partial(candidates.judge, objectives.cross_entropy(task), task, targeted)

    def attack(best: candidates.Best, member, keys: jax.Array) -> candidates.Best:
        left = best.score.level <= 0
        order = jnp.pad(jnp.argsort(~left, stable=True), (0, -count % size))

        def of_group(carry):
            first, best = carry
            rows = jax.lax.dynamic_slice(order, (first,), (size,))
            x, y, own = images[rows], labels[rows], keys[rows]
            found = member(apply, variables, x, y, key=own, epsilon=radius[rows], task=task, targeted=targeted).images
            tried = candidates.better(_rows(best, rows), found, judge(apply(variables, found), y))
            where = jnp.where(first + jnp.arange(size) < jnp.sum(left), rows, count)  # `count` is no row: dropped
            return first + size, jax.tree.map(lambda all_, new: all_.at[where].set(new, mode="drop"), best, tried)

        return jax.lax.while_loop(lambda carry: carry[0] < jnp.sum(left), of_group, (jnp.int32(0), best))[1]

    best = candidates.better(candidates.nothing(images), images, judge(apply(variables, images), labels))
    for number, member in enumerate(members):
        best = attack(best, member, draws.of_rows(draws.fold(key, number), images.shape[0]))
    return candidates.result(best, targeted)


def _rows(best: candidates.Best, rows: jax.Array) -> candidates.Best:
    return jax.tree.map(lambda leaf: leaf[rows], best)
