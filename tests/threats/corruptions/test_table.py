"""The contract that every corruption keeps, walked over the table, and what the front door refuses."""

import functools
import pathlib
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from threats import corruptions

KEY = jax.random.key(0)
NAMES = tuple(corruptions.CORRUPTIONS)
ENTRIES = [(name, preset) for name, entry in corruptions.CORRUPTIONS.items() for preset in entry.presets]
# Published severities of these are not ordered by how far they take an image from itself, see `presets`: they change
# their kind on the way (saturate, spatter, elastic), trade blur for rounds (glass), repeat one (motion: a longer trail
# of weights that are zero), darken what they have lit (frost) or change places (black corner).
UNORDERED = {"glass_blur", "motion_blur", "frost", "spatter", "saturate", "elastic_transform", "black_corner"}
# Eager runs compile operation by operation: one of every way to be built is enough.
ONE_OF_EACH_ROOM = (
    "shot_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "fog", "saturate", "jpeg_compression",
    "pixelate", "black_corner",
)  # fmt: skip
SIDES = {"cifar-c": 28, "tiny-c": 64, "imagenet-c": 128}


@functools.cache
def _jitted(name):
    static = ("preset",) if corruptions.CORRUPTIONS[name].traceable else ("preset", "severity")
    return jax.jit(functools.partial(corruptions.corrupt, name=name), static_argnames=static)


def _images(side, channels=3, count=2):
    """Smooth structure with a hard edge and some texture, over most of [0, 1]; every image differs."""
    grid = np.linspace(0.0, 1.0, side)
    waves = np.outer(np.sin(7.0 * grid), np.cos(5.0 * grid))
    disk = (grid[:, None] - 0.4) ** 2 + (grid - 0.6) ** 2 < 0.05
    texture = np.random.default_rng(1).random((count, side, side, channels))
    shape = 0.5 + 0.2 * waves + np.where(disk, 0.2, 0.0)
    return jnp.asarray(np.clip(0.8 * shape[:, :, None] + 0.2 * texture, 0.0, 1.0), jnp.float32)


def _level(name, severity):
    """One compilation for all five where the severity may be traced."""
    return jnp.int32(severity) if corruptions.CORRUPTIONS[name].traceable else severity


@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape_dtype_and_range_and_grows(name):
    # Of a few images none may draw one blot more.
    images = _images(28, count=24 if name == "stain_deposit" else 2)
    changes = []
    for severity in corruptions.SEVERITIES:
        corrupted = _jitted(name)(KEY, images, severity=_level(name, severity))
        assert corrupted.shape == images.shape
        assert corrupted.dtype == jnp.float32
        assert bool(jnp.all((corrupted >= 0) & (corrupted <= 1)))
        changes.append(float(jnp.mean((corrupted - images) ** 2)))
    assert min(changes) > 1e-5, changes
    assert name in UNORDERED or np.all(np.diff(changes) > 0), changes


@pytest.mark.parametrize("name", NAMES)
def test_gray_images(name):
    images = _images(28, channels=1)
    corrupted = _jitted(name)(KEY, images, severity=_level(name, 3))
    assert corrupted.shape == images.shape
    assert bool(jnp.all((corrupted >= 0) & (corrupted <= 1)))
    unchanged = np.allclose(corrupted, images, atol=1e-6)
    assert unchanged == (name == "saturate"), "gray has no saturation"


@pytest.mark.parametrize(("name", "preset"), ENTRIES)
def test_every_preset_builds(name, preset):
    """Five levels with all parameters, accepted and traced at the size they were made for."""
    entry = corruptions.CORRUPTIONS[name]
    levels = entry.presets[preset]
    assert len(levels) == len(corruptions.SEVERITIES)
    assert {len(level) for level in levels} == {len(entry.parameters)}
    images = jax.ShapeDtypeStruct((1, SIDES.get(preset, 224), SIDES.get(preset, 224), 3), jnp.float32)
    for severity in (1, 5) if preset in SIDES else (5,):
        run = functools.partial(corruptions.corrupt, name=name, severity=severity, preset=preset)
        assert jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)), images).shape == images.shape


@pytest.mark.parametrize("name", ["shot_noise", "zoom_blur", "snow", "frost", "elastic_transform", "jpeg_compression"])
def test_larger_images(name):
    for side in (64, 224) if name in ("zoom_blur", "jpeg_compression") else (64,):
        images = _images(side, count=1)
        corrupted = _jitted(name)(KEY, images, severity=_level(name, 5))
        assert bool(jnp.all((corrupted >= 0) & (corrupted <= 1)))
        assert float(jnp.mean((corrupted - images) ** 2)) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_same_key_same_result_and_rows_are_their_own(name):
    images, run = _images(28), functools.partial(_jitted(name), severity=_level(name, 3))
    first = run(KEY, images)
    np.testing.assert_array_equal(run(KEY, images), first)
    differs = bool(jnp.any(run(jax.random.key(9), images) != first))
    assert differs == corruptions.CORRUPTIONS[name].random
    # Another image in the second row leaves the first row as it is.
    other = images.at[1].set(images[1, ::-1] ** 2)
    np.testing.assert_array_equal(run(KEY, other)[0], first[0])
    # Two equal images are treated differently by what is random, alike by the rest.
    twins = run(KEY, jnp.repeat(images[:1], 2, axis=0))
    assert bool(jnp.any(twins[0] != twins[1])) == corruptions.CORRUPTIONS[name].random


@pytest.mark.parametrize("name", ONE_OF_EACH_ROOM)
def test_jit_agrees_with_no_jit(name):
    images = _images(28)
    eager = corruptions.corrupt(KEY, images, name=name, severity=3)
    np.testing.assert_allclose(eager, _jitted(name)(KEY, images, severity=_level(name, 3)), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_and_leading_axes(name):
    images = _images(28, count=4)
    keys = jax.random.split(KEY, 2)
    run = functools.partial(_jitted(name), severity=_level(name, 3))
    mapped = jax.vmap(run)(keys, images.reshape(2, 2, 28, 28, 3))
    one_by_one = jnp.stack([run(keys[0], images[:2]), run(keys[1], images[2:])])
    np.testing.assert_allclose(mapped, one_by_one, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    """Finite everywhere, black and gray pixels included; zero if and only if the table says so."""
    entry, images = corruptions.CORRUPTIONS[name], _images(28)
    images = images.at[:, :4, :4].set(0.0).at[:, 4:8, :4].set(0.5).at[:, 8:10, :4].set(1.0)
    weights = jax.random.normal(jax.random.key(5), images.shape)

    def loss(images):
        return jnp.sum(weights * corruptions.corrupt(KEY, images, name=name, severity=4))

    gradient = jax.jit(jax.grad(loss))(images)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert bool(jnp.any(gradient != 0)) == entry.differentiable


@pytest.mark.parametrize("name", [name for name in NAMES if corruptions.CORRUPTIONS[name].traceable])
def test_traced_severity_out_of_range_is_not_a_number(name):
    images = _images(28)
    for severity in (0, 6):
        assert bool(jnp.all(jnp.isnan(_jitted(name)(KEY, images, severity=jnp.int32(severity)))))
    with pytest.raises(ValueError, match="severity must be an integer scalar, got float32"):
        _jitted(name)(KEY, images, severity=jnp.float32(1))


@pytest.mark.parametrize("name", NAMES)
def test_lowers_for_tpu_and_cuda(name):
    run = jax.jit(functools.partial(corruptions.corrupt, name=name, severity=3))
    arguments = jax.eval_shape(lambda: (jax.random.key(0), jnp.zeros((2, 28, 28, 3))))
    exported = jax.export.export(run, platforms=("tpu", "cuda"))(*arguments)
    assert exported.out_avals[0].shape == (2, 28, 28, 3)


def test_default_preset_follows_the_shorter_side():
    sides = {1: "cifar-c", 28: "cifar-c", 32: "cifar-c", 45: "cifar-c", 46: "tiny-c", 64: "tiny-c", 90: "tiny-c"}
    sides |= {91: "imagenet-c", 128: "imagenet-c", 224: "imagenet-c", 1024: "imagenet-c"}
    assert {side: corruptions.preset_for(side) for side in sides} == sides
    wide = jnp.full((1, 28, 100, 1), 0.5)
    run = functools.partial(corruptions.corrupt, KEY, wide, name="gaussian_noise", severity=5)
    np.testing.assert_array_equal(run(), run(preset="cifar-c"))
    assert bool(jnp.any(run() != run(preset="imagenet-c")))
    with pytest.raises(ValueError, match="side must be at least 1 pixel, got 0"):
        corruptions.preset_for(0)


def test_other_float_inputs_become_float32():
    images = np.asarray(_images(28), np.float64)
    expected = _jitted("defocus_blur")(KEY, _images(28), severity=3)
    np.testing.assert_allclose(corruptions.corrupt(None, images, name="defocus_blur", severity=3), expected, atol=1e-6)
    half = corruptions.corrupt(KEY, _images(28).astype(jnp.bfloat16), name="gaussian_noise", severity=1)
    assert half.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "fog_machine"}, r"name must be one of \('gaussian_noise', 'shot_noise'.*\), got 'fog_machine'"),
        ({"severity": 0}, r"severity must be one of \(1, 2, 3, 4, 5\), got 0"),
        ({"severity": 6}, r"severity must be one of \(1, 2, 3, 4, 5\), got 6"),
        ({"severity": 2.5}, r"severity must be one of \(1, 2, 3, 4, 5\), got 2.5"),
        ({"severity": jnp.int32(2), "name": "defocus_blur"}, "severity must be a static Python int for 'defocus_blur'"),
        ({"preset": "cifar-10"}, r"preset must be one of \('cifar-c', 'tiny-c', 'imagenet-c', .*\) .* got 'cifar-10'"),
        ({"key": None}, "key must be a random key for 'gaussian_noise', got None"),
        ({"images": jnp.zeros((1, 28, 28, 3), jnp.uint8)}, "images must be floats .* got uint8: divide .* by 255"),
        ({"images": jnp.zeros((1, 28, 28, 4))}, r"c = 1 or 3, got shape \(1, 28, 28, 4\)"),
        ({"images": jnp.zeros((28, 28))}, r"c = 1 or 3, got shape \(28, 28\)"),
    ],
)
def test_refuses(options, message):
    arguments = {"key": KEY, "images": jnp.zeros((1, 28, 28, 3)), "name": "gaussian_noise", "severity": 1} | options
    with pytest.raises(ValueError, match=message):
        corruptions.corrupt(**arguments)


def test_the_documentation_lists_every_corruption():
    page = (pathlib.Path(__file__).parents[3] / "docs" / "corruptions.md").read_text()
    lines = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \| (yes|no)[^|]* \| [AB].*\|$", page, flags=re.MULTILINE)
    answer = {True: "yes", False: "no"}
    entries = corruptions.CORRUPTIONS.items()
    assert lines == [(name, answer[entry.random], answer[entry.differentiable]) for name, entry in entries]
