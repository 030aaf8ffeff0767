"""Flips against NumPy's integer views, for every dtype and its awkward values."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from threats.faults import bits

_DTYPES = (
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e3m4,
    ml_dtypes.float8_e8m0fnu,
    np.int8,
    np.int16,
    np.int32,
    np.uint8,
)


def _view(x) -> np.ndarray:
    x = np.asarray(x)
    return x.view(f"uint{8 * x.dtype.itemsize}")


def _patterns(dtype, seed: int = 0) -> np.ndarray:
    """Every pattern of 8 and 16 bits; of 32 bits random ones and zeros, subnormals, infinities, all kinds of NaN."""
    width = 8 * np.dtype(dtype).itemsize
    if width < 32:
        return np.arange(2**width, dtype=f"uint{width}")
    special = [0, 1, 0x7FFFFF, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF]
    drawn = np.random.default_rng(seed).integers(0, 2**32, 4096, dtype=np.uint32)
    return np.concatenate([np.asarray(special, np.uint32), drawn])


@pytest.mark.parametrize("dtype", _DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_views_and_flips_agree_with_numpy_bit_for_bit(dtype):
    patterns = _patterns(dtype)
    x = jnp.asarray(patterns.view(dtype))
    masks = np.random.default_rng(1).permutation(patterns)
    np.testing.assert_array_equal(np.asarray(jax.jit(bits.to_bits)(x)), patterns)
    np.testing.assert_array_equal(_view(jax.jit(bits.from_bits, static_argnums=1)(patterns, dtype)), patterns)
    flipped = jax.jit(bits.flip)(x, masks)
    assert flipped.dtype == x.dtype
    np.testing.assert_array_equal(_view(flipped), patterns ^ masks)
    np.testing.assert_array_equal(_view(bits.flip(flipped, masks)), patterns)


def test_float64_under_x64():
    patterns = np.asarray([1, 0x7FF0000000000001, 0xFFF8000000000123, 0x3FF0000000000000], np.uint64)
    with jax.enable_x64(True):
        x = jnp.asarray(patterns.view(np.float64))
        flipped = bits.flip(x, bits.mask(jnp.asarray([62, 0, 63, 52]), np.float64))
        masks = np.uint64(1) << np.asarray([62, 0, 63, 52], np.uint64)
        np.testing.assert_array_equal(np.asarray(flipped).view(np.uint64), patterns ^ masks)
    assert bits.fields("float64") == {"sign": range(63, 64), "exponent": range(52, 63), "mantissa": range(52)}


@pytest.mark.parametrize("dtype", _DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_mask_is_a_power_of_two_and_nothing_outside_the_width(dtype):
    width = bits.width(dtype)
    masks = np.asarray(bits.mask(np.arange(-1, width + 1), dtype))
    np.testing.assert_array_equal(masks, [0, *(2**bit for bit in range(width)), 0])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", {"sign": range(31, 32), "exponent": range(23, 31), "mantissa": range(23)}),
        ("bfloat16", {"sign": range(15, 16), "exponent": range(7, 15), "mantissa": range(7)}),
        ("float16", {"sign": range(15, 16), "exponent": range(10, 15), "mantissa": range(10)}),
        ("float8_e4m3fn", {"sign": range(7, 8), "exponent": range(3, 7), "mantissa": range(3)}),
        ("float8_e5m2", {"sign": range(7, 8), "exponent": range(2, 7), "mantissa": range(2)}),
        ("float8_e3m4", {"sign": range(7, 8), "exponent": range(4, 7), "mantissa": range(4)}),
        ("float8_e8m0fnu", {"exponent": range(8)}),
        ("int8", {"sign": range(7, 8), "magnitude": range(7)}),
        ("uint8", {"magnitude": range(8)}),
    ],
)
def test_fields_cover_every_bit_once(dtype, expected):
    assert bits.fields(dtype) == expected
    names = [bits.field_of(bit, dtype) for bit in range(bits.width(dtype))]
    assert all(bit in expected[name] for bit, name in enumerate(names))


def test_the_top_exponent_bit_of_one_is_infinity():
    assert bits.flip(jnp.float32(1.0), bits.mask(30, jnp.float32)) == jnp.inf
    assert bits.flip(jnp.float32(-3.0), bits.mask(31, jnp.float32)) == 3.0


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"dtype must be a float or an integer of 8.*got 'bool'"):
        bits.width(bool)
    with pytest.raises(ValueError, match="got 'complex64'"):
        bits.fields(jnp.complex64)
    with pytest.raises(ValueError, match=r"bit must be in 0\.\.15 for float16, got 16"):
        bits.field_of(16, "float16")
    with pytest.raises(ValueError, match="masks for bfloat16 must be uint16, got uint32"):
        bits.flip(jnp.ones(3, jnp.bfloat16), np.uint32(1))
    with pytest.raises(ValueError, match="view of float32 must be uint32, got uint8"):
        bits.from_bits(np.uint8(1), jnp.float32)
