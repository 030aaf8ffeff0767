"""Geometry of the balls: projections against their definition, draws against their distribution, safe directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import draws
from threats.adversarial import norms


def draw(name, key, centre, epsilon):
    return np.asarray(jax.jit(norms.NORMS[name].random_point)(jax.random.key(key), centre, epsilon))


every_norm = pytest.mark.parametrize("name", norms.NORMS)


@every_norm
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 4, 2)])
def test_projection_lands_in_ball_and_box_and_keeps_what_is_inside(name, shape):
    norm, project = norms.NORMS[name], jax.jit(norms.NORMS[name].project)
    draws = np.random.default_rng(0)
    centre = draws.uniform(size=shape).astype(np.float32)
    epsilon = np.array([0.0, 0.1, 0.4], np.float32)
    far = project(centre + draws.normal(size=shape).astype(np.float32), centre, epsilon)
    assert np.all(norm.length(far - centre) <= epsilon + 1e-6)
    assert float(far.min()) >= 0.0
    assert float(far.max()) <= 1.0
    np.testing.assert_array_equal(far[0], centre[0])
    np.testing.assert_allclose(project(far, centre, epsilon), far, atol=1e-7)


def test_l2_projection_is_per_image_and_radial():
    centre = jnp.full((2, 2, 2, 1), 0.5)
    x = centre.at[0, 0, 0].add(0.3).at[1].add(0.01)
    projected = norms.NORMS["l2"].project(x, centre, 0.1)
    np.testing.assert_allclose(projected[0, 0, 0], [0.6], atol=1e-6)
    np.testing.assert_array_equal(projected[1], x[1])


@every_norm
def test_random_points_fill_the_ball_uniformly(name):
    """Twice the radius holds 2^n times the volume: in 3 dimensions an eighth of the draws fall within half of it."""
    norm = norms.NORMS[name]
    centre = np.full((4000, 3), 0.5, np.float32)
    points = draw(name, 0, centre, 0.2)
    lengths = np.asarray(norm.length(points - centre))
    assert lengths.max() <= 0.2 + 1e-6
    assert abs((lengths < 0.1).mean() - 0.125) < 0.02
    assert abs(np.asarray(points - centre).mean(axis=0)).max() < 0.01


@every_norm
def test_random_point_of_a_row_is_its_own(name):
    """Neither the size of the batch nor the other images touch a row's draw, and rows draw differently."""
    centre = np.full((4, 6), 0.5, np.float32)
    points = draw(name, 3, centre, 0.1)
    np.testing.assert_array_equal(points[:2], draw(name, 3, centre[:2], 0.1))
    assert not np.array_equal(points[0], points[1])


@every_norm
def test_random_points_stay_in_the_box(name):
    points = draw(name, 0, np.array([[0.0, 1.0, 0.5]] * 50, np.float32), 0.4)
    assert float(points.min()) >= 0.0
    assert float(points.max()) <= 1.0


def test_steepest_directions():
    gradient = jnp.array([[3.0, -4.0], [0.0, 0.0], [0.0, -2.0]])
    np.testing.assert_allclose(norms.NORMS["linf"].steepest(gradient), [[1, -1], [0, 0], [0, -1]])
    np.testing.assert_allclose(norms.NORMS["l2"].steepest(gradient), [[0.6, -0.8], [0, 0], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_l2_direction_survives_tiny_and_huge_gradients(scale):
    direction = norms.NORMS["l2"].steepest(jnp.array([[3.0, -4.0]]) * scale)
    np.testing.assert_allclose(direction, [[0.6, -0.8]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_gradients_scaled_by_their_mean(scale):
    gradient = jnp.array([[3.0, -1.0], [0.0, 0.0], [jnp.nan, -2.0]]) * scale
    np.testing.assert_allclose(norms.mean_scaled(gradient), [[1.5, -0.5], [0, 0], [0, -2]], rtol=1e-6)


def test_random_signs_are_even_and_a_row_draws_its_own():
    signs = np.asarray(draws.signs(jax.random.key(0), jnp.zeros((400, 3, 2))))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.1
    np.testing.assert_array_equal(signs[:2], draws.signs(jax.random.key(0), jnp.ones((2, 3, 2))))
    assert not np.array_equal(signs[0], signs[1])


@every_norm
def test_nan_and_infinite_gradients_give_finite_directions_in_their_own_row(name):
    gradient = jnp.array([[jnp.nan, jnp.nan], [jnp.nan, 1.0], [jnp.inf, 1.0], [3.0, -4.0]])
    direction = norms.NORMS[name].steepest(gradient)
    np.testing.assert_array_equal(direction[0], [0.0, 0.0])
    np.testing.assert_array_equal(direction[1], [0.0, 1.0])
    assert float(direction[2, 0]) == 1.0
    np.testing.assert_array_equal(direction[3], norms.NORMS[name].steepest(gradient[3:])[0])
    assert bool(jnp.isfinite(direction).all())


def test_wrong_radius_shape_and_unknown_norm_are_named():
    with pytest.raises(ValueError, match=r"epsilon must be a scalar or of shape \(3,\), one per image, got \(2,\)"):
        norms.NORMS["linf"].project(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.array([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"norm must be one of \('linf', 'l2'\), got 'l1'"):
        norms.get_norm("l1")
