"""Random views: exact permutations where nothing else is asked, each image its own draw, one compilation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import data
from mamba_jax.data import medmnist


def _images(count, size=7, channels=3):
    return jax.random.uniform(jax.random.key(0), (count, size, size, channels))


def _symmetries(image):
    turns = [np.rot90(image, k) for k in range(4)]
    return np.stack([*turns, *(turn[:, ::-1] for turn in turns)])


def _matches(views, image, candidates):
    return [next(i for i, c in enumerate(candidates) if np.array_equal(view, c)) for view in views]


@pytest.mark.parametrize(
    ("flips", "allowed"),
    [("none", {0}), ("horizontal", {0, 4}), ("both", {0, 2, 4, 6}), ("dihedral", set(range(8)))],
)
def test_flips_are_exact_and_reach_the_whole_group(flips, allowed):
    image = _images(1)
    views = data.augment(jax.random.key(1), jnp.repeat(image, 200, axis=0), policy=data.Policy(flips=flips))
    counts = np.bincount(_matches(np.asarray(views), image, _symmetries(np.asarray(image[0]))), minlength=8)
    assert set(np.flatnonzero(counts)) == allowed
    assert counts[list(allowed)].min() > 0.5 * 200 / len(allowed)


def test_shifts_are_windows_of_the_reflected_image():
    image = np.asarray(_images(1, size=14))
    views = data.augment(jax.random.key(2), jnp.repeat(image, 300, axis=0), policy=data.Policy(shift=1 / 14))
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)), mode="reflect")
    windows = [padded[i : i + 14, j : j + 14] for i, j in itertools.product(range(3), range(3))]
    assert set(_matches(np.asarray(views), image, windows)) == set(range(9))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", data.POLICIES)
def test_named_policies_keep_shape_dtype_and_range(name, channels):
    images = _images(6, size=28, channels=channels)
    views = data.augment(jax.random.key(3), images, policy=data.POLICIES[name])
    assert (views.shape, views.dtype) == (images.shape, jnp.float32)
    assert views.min() >= 0.0
    assert views.max() <= 1.0
    assert np.isin(np.asarray(views), np.asarray(images)).all()
    assert np.array_equal(views, images) == (name == "none")


def test_the_same_key_gives_the_same_views_without_another_compilation():
    compiled = jax.jit(data.augment, static_argnames="policy")
    policy = data.policy_for("bloodmnist")
    first = compiled(jax.random.key(5), _images(8, size=28), policy=policy)
    again = compiled(jax.random.key(5), _images(8, size=28), policy=data.policy_for("bloodmnist"))
    np.testing.assert_array_equal(first, again)
    other = compiled(jax.random.key(6), _images(8, size=28), policy=policy)
    assert not np.array_equal(first, other)
    assert compiled._cache_size() == 1


def test_every_official_set_has_a_policy_that_keeps_its_labels_true():
    suited = {name: data.policy_for(name) for name in (*medmnist.names(), "synthetic_blood")}
    assert all(policy.shift > 0 for policy in suited.values())
    for name in ("organamnist", "organcmnist", "organsmnist"):
        assert suited[name].flips == "none"
    for name in ("breastmnist", "octmnist", "chestmnist", "pneumoniamnist"):
        assert suited[name].flips == "horizontal"
    for name in ("pathmnist", "dermamnist", "bloodmnist", "tissuemnist", "synthetic_blood"):
        assert suited[name].flips == "dihedral"


def test_nothing_is_assumed_of_an_unknown_set():
    assert data.policy_for("pbc_blood_28") == data.POLICIES["none"]
    assert data.policy_for("pbc_blood_28", policy="dihedral") == data.POLICIES["dihedral"]
    assert data.policy_for("bloodmnist", policy="none") == data.Policy()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.Policy(flips="vertical"), "flips must be one of .* got 'vertical'"),
        (lambda: data.Policy(shift=0.6), r"shift must be in \[0, 0.5\], got 0.6"),
        (lambda: data.Policy(shift=-0.1), r"shift must be in \[0, 0.5\], got -0.1"),
        (lambda: data.policy_for("bloodmnist", policy="cutout"), "policy must be one of .*'auto'.* got 'cutout'"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
