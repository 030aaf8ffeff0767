"""AutoAttack: the worst case of its members, each on what is left, and none of it dependent on the grouping."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial, draws, outcomes
from threats.adversarial import ensembles, norms

EPSILON = {"linf": 0.01, "l2": 0.12}
BUDGET = {"steps": 6, "queries": 60}


@functools.cache
def compiled(apply, **options):
    return jax.jit(functools.partial(ensembles.autoattack, apply, **options))


def subset(p, count=24):
    return p._replace(images=p.images[:count], labels=p.labels[:count])


@pytest.mark.parametrize("norm", norms.NORMS)
def test_an_image_is_robust_if_no_member_alone_breaks_it(trained, norm):
    """Members draw by image, so that each finds alone, on all images, what it finds in the ensemble."""
    p, key = subset(trained()), jax.random.key(3)
    found = compiled(p.apply, norm=norm, **BUDGET)(p.variables, p.images, p.labels, key=key, epsilon=EPSILON[norm])
    alone = [~np.asarray(outcomes.correct(p.apply(p.variables, p.images), p.labels, "multi-class"))]
    for number, member in enumerate(ensembles.standard(norm, **BUDGET)):
        keys = draws.of_rows(draws.fold(key, number), p.images.shape[0])
        attack = jax.jit(functools.partial(member, p.apply))
        alone.append(attack(p.variables, p.images, p.labels, key=keys, epsilon=EPSILON[norm]).success)
    np.testing.assert_array_equal(found.success, np.any(alone, axis=0))
    assert 0 < int(found.success.sum()) < len(p.images), "some must break and some must not"
    lengths = norms.NORMS[norm].length(found.images - p.images)
    assert float(lengths.max()) <= EPSILON[norm] + 1e-6
    right = outcomes.correct(p.apply(p.variables, found.images), p.labels, "multi-class")
    np.testing.assert_array_equal(found.success, ~right)


@pytest.mark.parametrize("size", [5, 100])
def test_groups_change_nothing(trained, size):
    p, key = subset(trained()), jax.random.key(0)
    arguments = (p.variables, p.images, p.labels)
    one = compiled(p.apply, images_at_once=8, **BUDGET)(*arguments, key=key, epsilon=0.01)
    other = compiled(p.apply, images_at_once=size, **BUDGET)(*arguments, key=key, epsilon=0.01)
    np.testing.assert_array_equal(one.success, other.success)
    np.testing.assert_allclose(one.images, other.images, atol=1e-6)


def test_what_is_broken_is_not_attacked_again_and_nothing_compiles_anew():
    """Members that break given labels, and write down which images they were shown."""
    seen = {}

    def member(breaks, apply, variables, images, labels, *, key, epsilon, **options):
        jax.debug.callback(lambda y: seen.setdefault(breaks, []).extend(y.tolist()), labels)
        moved = jnp.where((labels % breaks == 0)[:, None], images + 0.25, images)
        return adversarial.AttackResult(moved, labels % breaks == 0, jnp.zeros(len(labels)))

    labels = np.arange(1, 13, dtype=np.int32)
    hot = np.eye(14, dtype=np.float32)

    def own(variables, images):
        """Right by its label, which the image carries, unless it was moved."""
        number = jnp.round(images[:, 1] * 100).astype(jnp.int32)
        return jnp.where((images[:, 0] > 0.6)[:, None], jnp.asarray(hot)[13], jnp.asarray(hot)[number])

    images = np.stack([np.full(12, 0.5), labels / 100], axis=1).astype(np.float32)
    members = [functools.partial(member, 2), functools.partial(member, 3), functools.partial(member, 1)]
    run = jax.jit(functools.partial(ensembles.ensemble, members, own, None, images_at_once=3))
    found = run(images, labels, key=jax.random.key(0), epsilon=0.25)
    jax.effects_barrier()
    assert bool(found.success.all())
    assert sorted(seen[2]) == list(labels)
    assert sorted(seen[3]) == [1, 3, 5, 7, 9, 11]
    assert set(seen[1]) >= {1, 5, 7, 11}
    assert len(seen[1]) == 6, "two groups of three, the last filled up with any"
    run(images, labels[::-1], key=jax.random.key(1), epsilon=0.1)
    assert run._cache_size() == 1


@pytest.mark.parametrize("task", outcomes.TASKS)
def test_every_task(problem, task):
    p = problem(task)
    found = compiled(p.apply, task=task, **BUDGET)(p.variables, p.images, p.labels, key=jax.random.key(0), epsilon=0.2)
    assert bool(found.success.all())


def test_a_target(problem):
    p = problem()
    attack = compiled(p.apply, targeted=True, steps=10, queries=20)
    found = attack(p.variables, p.images, p.targets, key=jax.random.key(0), epsilon=0.6)
    decided = outcomes.decisions(p.apply(p.variables, found.images), "multi-class")
    np.testing.assert_array_equal(decided, p.targets)


def test_several_keys_must_be_one_for_each_image(problem):
    p = problem()
    keys = jax.random.split(jax.random.key(0), 4)
    with pytest.raises(ValueError, match=r"key must be one key or of shape \(6,\), one for each image, got \(4,\)"):
        adversarial.pgd(p.apply, p.variables, p.images, p.labels, key=keys, epsilon=0.1)


def test_bad_options_are_named(problem):
    p = problem()
    with pytest.raises(ValueError, match="images_at_once must be at least 1 or None, got 0"):
        adversarial.autoattack(
            p.apply, p.variables, p.images, p.labels, key=jax.random.key(0), epsilon=0.1, images_at_once=0
        )
