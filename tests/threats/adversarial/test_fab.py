"""FAB: its projection against SciPy, and what targets and restarts add."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from threats.adversarial import fab

PIXELS, PLANES = 7, 12


def planes():
    """Images, normals and rises; some normals have zeros, some pixels no room, the first rise is out of reach."""
    draws = np.random.default_rng(1)
    x, normals = draws.uniform(size=(PLANES, PIXELS)), draws.normal(size=(PLANES, PIXELS))
    rises = 1.5 * draws.uniform(-1, 1, PLANES)
    normals[:4, 2], x[3, 4], x[4, 1], rises[0] = 0.0, 0.0, 1.0, 20.0
    return tuple(np.float32(a) for a in (x, normals, rises))


def shortest(x, normal, rise, norm):
    """The length that SciPy finds, or None if the plane does not meet the box."""
    box = [(-a, 1 - a) for a in x.astype(float)]
    if norm == "linf":
        bounds = np.block([[sign * np.eye(PIXELS), -np.ones((PIXELS, 1))] for sign in (1.0, -1.0)])
        found = optimize.linprog(
            np.r_[np.zeros(PIXELS), 1], A_ub=bounds, b_ub=np.zeros(2 * PIXELS),
            A_eq=np.r_[normal, 0][None], b_eq=[rise], bounds=[*box, (0, None)],
        )  # fmt: skip
        return found.fun
    plane = {"type": "eq", "fun": lambda d: normal @ d - rise, "jac": lambda d: normal}
    found = optimize.minimize(
        lambda d: d @ d, np.zeros(PIXELS), jac=lambda d: 2 * d, bounds=box, constraints=plane, method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )  # fmt: skip
    return np.sqrt(found.fun) if found.success else None


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_the_shortest_way_to_the_plane_within_the_box(norm):
    x, normals, rises = planes()
    d = np.asarray(jax.jit(functools.partial(fab.to_plane, norm=norm))(x, normals, rises))
    assert np.all((x + d >= 0) & (x + d <= 1 + 1e-6))
    lengths = np.abs(d).max(axis=1) if norm == "linf" else np.sqrt((d**2).sum(axis=1))
    wanted = [shortest(*row, norm) for row in zip(x, normals, rises, strict=True)]
    reachable = np.array([length is not None for length in wanted])
    assert reachable.sum() >= 10
    assert not reachable[0]
    np.testing.assert_allclose(lengths[reachable], [length for length in wanted if length is not None], atol=1e-5)
    np.testing.assert_allclose((normals * d).sum(axis=1)[reachable], rises[reachable], atol=1e-5)
    farthest = np.where(normals > 0, 1 - x, np.where(normals < 0, -x, 0.0))
    np.testing.assert_allclose(d[0], farthest[0], atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_onto_a_plane_without_slope_stays(norm):
    x, normals, rises = planes()
    np.testing.assert_array_equal(fab.to_plane(x, 0 * normals, rises, norm=norm), 0 * x)


def wavy(weights, images):
    """A model with boundaries in many places."""
    return jnp.sin(20.0 * images) @ weights


def test_targets_and_restarts_find_nothing_farther():
    draws = np.random.default_rng(0)
    weights, images = draws.normal(size=(5, 3)).astype(np.float32), draws.uniform(size=(8, 5)).astype(np.float32)
    labels = jnp.argmax(wavy(weights, images), axis=1)

    def run(**options):
        attack = functools.partial(fab.attack, wavy, steps=10, **options)
        return jax.jit(attack)(weights, images, labels)

    once, again, aimed = run(), run(restarts=3, key=jax.random.key(0)), run(targets=9)
    assert bool(once.success.all())
    assert np.all(again.distance <= once.distance + 1e-6)
    assert bool(aimed.success.all())
    assert aimed.distance.mean() < 1.05 * once.distance.mean()


def test_restarts_need_a_key():
    with pytest.raises(ValueError, match=r"key must be a jax\.random\.key with restarts above 1, got None"):
        fab.attack(lambda variables, x: x, None, np.zeros((1, 2), np.float32), np.zeros(1, np.int32), restarts=2)
