"""The contract that every corruption keeps, walked over the table, and what the front door refuses."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from threats import corruptions

KEY = jax.random.key(0)
NAMES = tuple(corruptions.CORRUPTIONS)
ENTRIES = [(name, preset) for name, entry in corruptions.CORRUPTIONS.items() for preset in entry.presets]
SIDES = {"cifar-c": 28, "tiny-c": 48, "imagenet-c": 48}


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


@pytest.mark.parametrize(("name", "preset"), ENTRIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_keeps_shape_dtype_and_range_and_grows(name, preset, channels):
    images = _images(SIDES[preset], channels)
    changes = []
    for severity in corruptions.SEVERITIES:
        # One compilation for all five where the severity may be traced.
        level = jnp.int32(severity) if corruptions.CORRUPTIONS[name].traceable else severity
        corrupted = _jitted(name)(KEY, images, severity=level, preset=preset)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == jnp.float32
        assert bool(jnp.all((corrupted >= 0) & (corrupted <= 1)))
        changes.append(float(jnp.mean(jnp.abs(corrupted - images))))
    assert changes[0] > 1e-3
    assert np.all(np.diff(changes) > 0), changes


@pytest.mark.parametrize(("name", "preset"), ENTRIES)
def test_table_entry_is_well_formed(name, preset):
    entry = corruptions.CORRUPTIONS[name]
    levels = entry.presets[preset]
    assert len(levels) == len(corruptions.SEVERITIES)
    assert {len(level) for level in levels} == {len(entry.parameters)}


@pytest.mark.parametrize("name", NAMES)
def test_same_key_same_result_and_jit_agrees(name):
    images = _images(28)
    run = functools.partial(_jitted(name), severity=3)
    first = run(KEY, images)
    np.testing.assert_array_equal(run(KEY, images), first)
    np.testing.assert_allclose(corruptions.corrupt(KEY, images, name=name, severity=3), first, atol=1e-6)
    differs = bool(jnp.any(run(jax.random.key(9), images) != first))
    assert differs == corruptions.CORRUPTIONS[name].random


@pytest.mark.parametrize("name", NAMES)
def test_vmap_and_leading_axes(name):
    images = _images(28, count=4)
    keys = jax.random.split(KEY, 2)
    run = functools.partial(_jitted(name), severity=3)
    mapped = jax.vmap(run)(keys, images.reshape(2, 2, 28, 28, 3))
    one_by_one = jnp.stack([run(keys[0], images[:2]), run(keys[1], images[2:])])
    np.testing.assert_allclose(mapped, one_by_one, atol=1e-6)
    assert run(KEY, images[0]).shape == (28, 28, 3)


@pytest.mark.parametrize("name", NAMES)
def test_rows_differ_only_through_their_image_and_draw(name):
    """Two equal images in a batch: random corruptions treat them differently, the others alike."""
    images = jnp.repeat(_images(28, count=1), 2, axis=0)
    corrupted = _jitted(name)(KEY, images, severity=3)
    differs = bool(jnp.any(corrupted[0] != corrupted[1]))
    assert differs == corruptions.CORRUPTIONS[name].random


@pytest.mark.parametrize("name", [name for name in NAMES if corruptions.CORRUPTIONS[name].traceable])
def test_traced_severity(name):
    images = _images(28)
    traced = jax.jit(functools.partial(corruptions.corrupt, name=name))
    for severity in corruptions.SEVERITIES:
        expected = corruptions.corrupt(KEY, images, name=name, severity=severity)
        np.testing.assert_allclose(traced(KEY, images, severity=jnp.int32(severity)), expected, atol=1e-6)
    assert traced._cache_size() == 1
    for severity in (0, 6):
        assert bool(jnp.all(jnp.isnan(traced(KEY, images, severity=jnp.int32(severity)))))
    with pytest.raises(ValueError, match="severity must be an integer scalar, got float32"):
        traced(KEY, images, severity=jnp.float32(1))


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
        ({"name": "fog_machine"}, r"name must be one of \('gaussian_noise', 'defocus_blur'.*\), got 'fog_machine'"),
        ({"severity": 0}, r"severity must be one of \(1, 2, 3, 4, 5\), got 0"),
        ({"severity": 6}, r"severity must be one of \(1, 2, 3, 4, 5\), got 6"),
        ({"severity": 2.5}, r"severity must be one of \(1, 2, 3, 4, 5\), got 2.5"),
        ({"severity": jnp.int32(2), "name": "defocus_blur"}, "severity must be a static Python int for 'defocus_blur'"),
        ({"preset": "cifar-10"}, r"preset must be one of \('cifar-c', 'tiny-c', 'imagenet-c'\) .* got 'cifar-10'"),
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
