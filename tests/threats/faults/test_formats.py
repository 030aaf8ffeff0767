"""Stored weights: encoded and decoded as ml_dtypes does, bit for bit, and flipped in the format they are held in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mamba_jax
from threats import faults
from threats.faults import formats, slots

_FLOATS = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


def _view(array) -> np.ndarray:
    array = np.asarray(array)
    return array.view(f"uint{8 * array.dtype.itemsize}")


def _patterns(number_format) -> np.ndarray:
    """Every bit pattern of the format, [256] or [65536]."""
    dtype = np.dtype(jnp.dtype(number_format))
    return np.arange(2 ** (8 * dtype.itemsize), dtype=f"uint{8 * dtype.itemsize}").view(dtype)


class _Own(nn.Module):
    """A user's network, without taps."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3))(images))
        x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=4)(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def own():
    images = jax.random.uniform(jax.random.key(0), (6, 5, 5, 1))
    variables = _Own().init(jax.random.key(1), images)
    labels = jnp.argmax(_Own().apply(variables, images), axis=-1)
    return _Own().apply, variables, images, labels


@pytest.mark.parametrize("number_format", _FLOATS)
def test_every_pattern_decodes_as_numpy_says(number_format):
    patterns = _patterns(number_format)
    decoded = jax.jit(formats.decode)({"params": {"w": jnp.asarray(patterns)}})["params"]["w"]
    expected = _view(patterns.astype(np.float32))
    if number_format == "float16":  # NumPy keeps a signalling NaN or makes it quiet, as the processor does.
        quiet = np.where(np.isnan(patterns), np.uint32(0x400000), np.uint32(0))
        np.testing.assert_array_equal(_view(decoded) | quiet, expected | quiet)
    else:
        np.testing.assert_array_equal(_view(decoded), expected)


@pytest.mark.parametrize("number_format", _FLOATS)
def test_values_are_rounded_as_numpy_says_and_saturate(number_format):
    largest = float(jnp.finfo(number_format).max)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    finite = _patterns(number_format).astype(np.float32)
    finite = np.sort(finite[np.isfinite(finite)])
    ties = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    values = np.concatenate([values[np.abs(values) <= largest], ties, np.nextafter(ties, np.float32(0)), finite])
    stored = faults.store({"params": {"w": values}}, number_format)["params"]["w"]
    np.testing.assert_array_equal(_view(stored), _view(values.astype(jnp.dtype(number_format))))
    beyond = np.asarray([1.5 * largest, -3.4e38, np.inf, -np.inf, np.nan], np.float64)
    beyond = np.clip(beyond, -3.4028235e38, 3.4028235e38, where=np.isfinite(beyond), out=beyond).astype(np.float32)
    held = np.asarray(faults.store({"params": {"w": beyond}}, number_format)["params"]["w"]).astype(np.float64)
    infinity = np.nan if number_format == "float8_e4m3fn" else np.inf
    np.testing.assert_array_equal(held, [largest, -largest, infinity, -infinity, np.nan])


@pytest.mark.parametrize("shape", [(7, 5), (3, 3, 1, 6), (2, 4, 3)])
def test_int8_is_within_half_a_step_in_every_channel(shape):
    weights = np.random.default_rng(0).normal(size=shape) * 10.0 ** np.arange(shape[-1])
    weights[..., 1], weights[..., 2] = 0.0, 1e-37
    weights = weights.astype(np.float32)
    stored = faults.store({"params": {"w": weights}}, "int8")
    q, scale = np.asarray(stored["params"]["w"]), np.asarray(stored["scales"]["w"])
    decoded = jax.jit(formats.decode)(stored)
    assert set(decoded) == {"params"}
    np.testing.assert_array_equal(decoded["params"]["w"], q.astype(np.float32) * scale)
    assert (np.abs(decoded["params"]["w"] - weights) <= scale / 2 * (1 + 1e-5) + 1.5e-36).all()
    assert q.dtype == np.int8
    used = [channel for channel in range(shape[-1]) if channel not in (1, 2)]
    assert (np.abs(q.astype(int))[..., used].reshape(-1, len(used)).max(axis=0) == 127).all()
    np.testing.assert_array_equal(scale[1:3], 0.0)
    assert not q[..., 1:3].any()
    every = np.tile(np.arange(-128, 128, dtype=np.int8)[:, None], (1, scale.size))
    decoded = jax.jit(formats.decode)({"params": {"w": jnp.asarray(every)}, "scales": {"w": jnp.asarray(scale)}})
    np.testing.assert_array_equal(decoded["params"]["w"], every.astype(np.float32) * scale)


def test_which_leaves_are_held():
    model = mamba_jax.create_model(
        "medmamba", num_classes=3, depths=(1, 1, 1, 1), dims=(4, 8, 16, 32), d_state=2, patch_size=2
    )
    variables = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, leaf.dtype), jax.eval_shape(model.init, jax.random.key(0))
    )

    def names(number_format, **options):
        stored = faults.store(variables, number_format, **options)
        assert jax.tree.structure(stored["params"]) == jax.tree.structure(variables["params"])
        return {s.path.split("/")[-1] for s in faults.weight_sites(stored) if s.dtype == number_format}

    assert names("int8") == {"kernel", "B_proj", "C_proj", "dt_up", "dt_down"}
    assert names("int8", include="*/A_log", exclude=()) == {"A_log"}
    assert {"bias", "scale", "A_log", "D", "dt_bias", "kernel"} <= names("float16")
    stored = faults.store(variables, "int8")
    assert faults.weight_sites(stored, collections=("scales",)).layers[0] == "head"
    assert jax.tree.structure(faults.store(variables, "float32")) == jax.tree.structure(variables)
    whole = faults.store(variables, "bfloat16", collections=("params", "batch_stats"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(whole)} == {"bfloat16"}
    logits = jax.eval_shape(faults.apply_stored(model.apply), stored, jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.float32))
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)


@pytest.mark.parametrize("number_format", faults.FORMATS)
def test_exactly_one_bit_flips_in_the_format(own, number_format):
    apply, variables, images, _ = own
    stored = faults.store(variables, number_format)
    table = faults.weight_sites(stored, include="Conv_1/kernel")
    assert table[0].dtype == number_format
    bit = table[0].width - 2
    faulty = faults.flip_weights(stored, table, slots.Faults(*(jnp.asarray([x]) for x in (0, 5, bit))))
    for path, leaf in faults.sites.leaves_by_path(faulty).items():
        changed = _view(leaf) ^ _view(faults.sites.leaves_by_path(stored)[path])
        expected = np.zeros_like(changed)
        if path == "params/Conv_1/kernel":
            expected.reshape(-1)[5] = 1 << bit
        np.testing.assert_array_equal(changed, expected, err_msg=path)
    plain = faults.decode(faulty)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(plain)} == {"float32"}
    np.testing.assert_array_equal(faults.apply_stored(apply)(faulty, images), apply(plain, images))


@pytest.mark.parametrize("number_format", ["int8", "bfloat16"])
def test_campaigns_agree_with_and_without_reuse(tiny, number_format):
    stored, apply = faults.store(tiny.variables, number_format), faults.apply_stored(tiny.apply)
    table = faults.weight_sites(stored) + faults.activation_sites(apply, stored, tiny.images)
    if number_format == "int8":
        table += faults.weight_sites(stored, collections=("scales",))
    drawn = faults.random_faults(jax.random.key(0), table, trials=40, flips=2, over="layers")
    parts = faults.make_trial_fn(apply, *tiny[2:], table)(stored, drawn)
    whole = faults.make_trial_fn(apply, *tiny[2:], table, reuse=False)(stored, drawn)
    for name in parts._fields:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-6, err_msg=name)
    assert len(np.unique(np.asarray(parts.loss))) > 10


def test_taps_and_options_pass_through(tiny):
    stored, apply = faults.store(tiny.variables, "int8"), faults.apply_stored(tiny.apply)
    logits, sown = apply(stored, tiny.images, mutable=["tap_values"])
    assert set(sown["tap_values"]) == {"stem_out", "block"}
    np.testing.assert_allclose(logits, apply(stored, tiny.images), rtol=1e-5, atol=1e-5)
    code = jnp.arange(4, dtype=jnp.int8)  # a tap's own arrays are no weights
    entry = jax.tree_util.Partial(lambda code, x: jnp.where(code.dtype == jnp.int8, x, 0.0), code)
    tapped = apply({**stored, "taps": {"stem_out": entry}}, tiny.images)
    np.testing.assert_allclose(tapped, logits, rtol=1e-5, atol=1e-5)
    assert faults.decode({**stored, "taps": {"stem_out": entry}})["taps"]["stem_out"] is entry


def test_gradients_pass_as_through_a_conversion(own):
    apply, variables, images, _ = own
    stored = faults.store(variables, "bfloat16")
    slopes = jax.grad(lambda stored: jnp.sum(faults.apply_stored(apply)(stored, images)[:, 0]))(stored)
    plain = jax.grad(lambda plain: jnp.sum(apply(plain, images)[:, 0]))(faults.decode(stored))
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("number_format", faults.FORMATS)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_campaign_step_exports(own, number_format, platform):
    apply, variables, images, labels = own
    stored = faults.store(variables, number_format)
    table = faults.weight_sites(stored)
    trials = jax.jit(
        lambda stored, images, labels, drawn: faults.trial_outcomes(
            faults.apply_stored(apply), stored, images, labels, table, drawn, strategy="vmap", trials_at_once=2
        )
    )
    drawn = slots.no_faults(4, 2)
    exported = jax.export.export(trials, platforms=(platform,))(stored, images, labels, drawn)
    assert exported.out_avals[0].shape == (4,)


def test_what_cannot_be_stored_is_refused(own):
    variables = own[1]
    matrix = {"w": jnp.ones((2, 2))}
    for number_format, given, options, message in (
        ("int4", variables, {}, "number_format must be one of .*'int8'.*, got 'int4'"),
        ("int8", variables, {"collections": ("state",)}, r"collections must be among \('params',\), got 'state'"),
        ("int8", variables, {"include": "*/bias"}, "must leave a float leaf of two or more axes, got only Conv_0/bias"),
        ("float16", variables, {"include": "none"}, "no site matches include='none'"),
        ("float16", {"params": {"n": jnp.ones((2,), jnp.int32)}}, {}, "must leave a float leaf, got only n"),
        ("int8", {"params": {"w": jnp.ones((2, 2), jnp.bfloat16)}}, {}, "w is bfloat16: cast or exclude it"),
        ("int8", {"params": {"w": jnp.full((2, 2), jnp.nan)}}, {}, "finite to be stored in int8, w is not"),
        ("int8", {**variables, "scales": {}}, {}, "no collection 'scales' for int8"),
        ("int8", {"a": matrix, "b": matrix}, {"collections": ("a", "b")}, "w is in two collections"),
    ):
        with pytest.raises(ValueError, match=message):
            faults.store(given, number_format, **options)
