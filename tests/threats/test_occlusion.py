"""PatchDrop: how many pixels go, in which order, and that every image has its own where the order is drawn or found."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import occlusion


@pytest.mark.parametrize(("side", "grid"), [(28, 7), (64, 8), (128, 8), (224, 14), (3, 3), (300, 14)])
def test_default_grid(side, grid):
    assert occlusion.default_grid(side) == grid


@pytest.mark.parametrize("side", [28, 64, 128, 224])
def test_medmnist_sides_have_equal_patches(side):
    assert side % occlusion.default_grid(side) == 0


@pytest.mark.parametrize("information_loss", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_number_of_dropped_pixels(information_loss):
    ranks = occlusion.random_order(jax.random.key(0), 3, grid=7)
    dropped = occlusion.patch_drop(jnp.ones((3, 28, 28, 3)), ranks, information_loss=information_loss, grid=7)
    patches = round(information_loss * 49)
    np.testing.assert_array_equal((dropped == 0).sum(axis=(1, 2, 3)), [patches * 16 * 3] * 3)
    assert dropped.dtype == jnp.float32


def test_patches_are_numbered_by_row_and_column_also_when_the_grid_does_not_divide_the_side():
    images = jnp.ones((1, 7, 5, 1))
    ranks = jnp.array([[3, 0, 2, 1]])
    dropped = occlusion.patch_drop(images, ranks, information_loss=0.25, grid=2, fill=0.5)
    expected = np.ones((7, 5))
    expected[:4, 3:] = 0.5
    np.testing.assert_array_equal(dropped[0, :, :, 0], expected)


def test_fill_per_channel():
    ranks = jnp.zeros((1, 4), jnp.int32)
    dropped = occlusion.patch_drop(
        jnp.ones((1, 4, 4, 3)), ranks, information_loss=1.0, grid=2, fill=jnp.array([0.1, 0.2, 0.3])
    )
    np.testing.assert_allclose(dropped[0, 2, 3], [0.1, 0.2, 0.3])


def test_random_orders_are_permutations_of_each_images_own():
    ranks = occlusion.random_order(jax.random.key(0), 4, grid=7)
    np.testing.assert_array_equal(np.sort(ranks, axis=-1), np.tile(np.arange(49), (4, 1)))
    assert len(np.unique(ranks, axis=0)) == 4
    np.testing.assert_array_equal(ranks[:2], occlusion.random_order(jax.random.key(0), 2, grid=7))
    assert not np.array_equal(ranks, occlusion.random_order(jax.random.key(1), 4, grid=7))


def test_drops_are_nested():
    images = jnp.ones((2, 9, 9, 1))
    ranks = occlusion.random_order(jax.random.key(0), 2, grid=3)
    drop = functools.partial(occlusion.patch_drop, images, ranks, grid=3)
    steps = np.stack([drop(information_loss=share) == 0 for share in np.linspace(0, 1, 10)])
    assert np.all(steps[:-1] <= steps[1:])
    assert len(np.unique(steps.sum(axis=(1, 2, 3, 4)))) == 10


def linear(weights, images):
    score = jnp.einsum("bhwc,hwc->b", images - 0.5, weights)
    return jnp.stack([jnp.zeros_like(score), score], axis=-1)


@pytest.mark.parametrize("labels", [None, np.array([0, 1])])
def test_salient_order_of_a_linear_model(labels):
    """The gradient is the weights: patches go by the sum of their absolute weights, however certain the model."""
    draws = np.random.default_rng(0)
    weights = draws.normal(size=(6, 6, 2)).astype(np.float32)
    images = draws.uniform(size=(2, 6, 6, 2)).astype(np.float32)
    order = jax.jit(functools.partial(occlusion.salient_order, linear, grid=3, task="binary"))
    saliency = np.abs(np.asarray(weights, np.float64)).reshape(3, 2, 3, 2, 2).sum(axis=(1, 3, 4)).ravel()
    expected = np.argsort(np.argsort(-saliency))
    for scale in (1.0, 1e4):
        ranks = order(scale * weights, images, labels)
        np.testing.assert_array_equal(ranks, [expected, expected])
    np.testing.assert_array_equal(occlusion.reversed_order(ranks)[0], 8 - expected)


def scanned(direction, grid):
    """The patches (row, column) in the order in which a loop over the image comes to them."""
    forwards, backwards = range(grid), range(grid - 1, -1, -1)
    return {
        "rows": [(row, column) for row in forwards for column in forwards],
        "columns": [(row, column) for column in forwards for row in forwards],
        "rows_reversed": [(row, column) for row in backwards for column in backwards],
        "columns_reversed": [(row, column) for column in backwards for row in backwards],
    }[direction]


@pytest.mark.parametrize("grid", [1, 2, 5])
@pytest.mark.parametrize("direction", occlusion.SCAN_DIRECTIONS)
def test_a_scan_drops_the_patches_that_a_loop_comes_to_first(direction, grid):
    images = np.random.default_rng(0).uniform(0.1, 1.0, size=(2, 10, 10, 3)).astype(np.float32)
    ranks = occlusion.scan_order(2, direction=direction, grid=grid)
    assert ranks.dtype == jnp.int32
    side = 10 // grid
    for count in range(grid * grid + 1):
        expected = images.copy()
        for row, column in scanned(direction, grid)[:count]:
            expected[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 0.0
        dropped = occlusion.patch_drop(images, ranks, information_loss=count / grid**2, grid=grid)
        np.testing.assert_array_equal(dropped, expected)


def test_the_directions_are_four_and_come_in_opposite_pairs():
    ranks = {name: occlusion.scan_order(1, direction=name, grid=3) for name in occlusion.SCAN_DIRECTIONS}
    assert len({tuple(order[0].tolist()) for order in ranks.values()}) == 4
    for name in ("rows", "columns"):
        np.testing.assert_array_equal(occlusion.reversed_order(ranks[name]), ranks[f"{name}_reversed"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "diagonal"}, "direction must be one of rows, columns, rows_reversed, .* got 'diagonal'"),
        ({"grid": 0}, "grid must be at least 1 patch, got 0"),
    ],
)
def test_an_unknown_scan_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        occlusion.scan_order(1, **({"direction": "rows", "grid": 2} | options))


@pytest.mark.parametrize("task", ["multi-class", "multi-label"])
def test_salient_order_is_each_images_own(task):
    draws = np.random.default_rng(0)
    weights = draws.normal(size=(16, 3)).astype(np.float32)
    images = draws.uniform(size=(3, 4, 4, 1)).astype(np.float32)

    def model(w, x):
        return jnp.sin(6.0 * x.reshape(x.shape[0], 16)) @ w

    order = jax.jit(functools.partial(occlusion.salient_order, model, grid=4, task=task))
    ranks = np.asarray(order(weights, images))
    np.testing.assert_array_equal(np.sort(ranks, axis=-1), np.tile(np.arange(16), (3, 1)))
    assert len(np.unique(ranks, axis=0)) == 3
    images[1] = 0.3
    changed = np.asarray(order(weights, images))
    np.testing.assert_array_equal(ranks[[0, 2]], changed[[0, 2]])
    assert not np.array_equal(ranks[1], changed[1])


def test_information_loss_may_be_traced_and_per_image_without_recompiling():
    traces = []

    def drop(images, ranks, information_loss):
        traces.append(1)
        return occlusion.patch_drop(images, ranks, information_loss=information_loss, grid=2)

    images, ranks = jnp.ones((2, 4, 4, 1)), jnp.array([[0, 1, 2, 3]] * 2)
    compiled = jax.jit(drop)
    counts = [int((compiled(images, ranks, share) == 0).sum()) for share in (0.0, 0.25, 0.5, 1.0)]
    assert counts == [0, 8, 16, 32]
    assert len(traces) == 1
    each = drop(images, ranks, jnp.array([0.25, 0.75]))
    np.testing.assert_array_equal((each == 0).sum(axis=(1, 2, 3)), [4, 12])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"information_loss": 1.1}, r"information_loss must be in \[0, 1\], got 1.1"),
        ({"information_loss": -0.1}, r"information_loss must be in \[0, 1\], got -0.1"),
        ({"information_loss": float("nan")}, r"information_loss must be in \[0, 1\], got nan"),
        ({"grid": 5}, "grid must be in 1 to 4, the shorter side in pixels, got 5"),
        ({"grid": 0}, "grid must be in 1 to 4, the shorter side in pixels, got 0"),
        ({"grid": 3}, r"ranks must have shape \(1, 9\), one per patch, got \(1, 4\)"),
        ({"images": np.ones((4, 4, 1))}, r"images must be \[b, h, w, c\], got shape \(4, 4, 1\)"),
        ({"fill": jnp.ones(3)}, r"fill must be a number, \[1\] or \(1, 4, 6, 1\), got shape \(3,\)"),
        ({"fill": "mean"}, r"fill must be values, got 'mean': make them with make_fill\(key, images, name='mean'\)"),
    ],
)
def test_bad_options_are_named(options, message):
    arguments = {"images": jnp.ones((1, 4, 6, 1)), "ranks": jnp.zeros((1, 4), jnp.int32), "grid": 2}
    with pytest.raises(ValueError, match=message):
        occlusion.patch_drop(**(arguments | {"information_loss": 0.5} | options))
