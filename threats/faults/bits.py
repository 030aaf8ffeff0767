"""Bits of numbers: integer views of any float or integer array, exact flips, and the names of the bit positions.

A value is viewed as the unsigned integer of the same width (a bitcast, no arithmetic), XORed, and viewed back. So NaN
payloads, signalling NaNs and subnormals survive, which floating-point arithmetic would quiet or flush. Bit 0 is the
least significant one. An IEEE-like float of width w with m mantissa bits holds

    value = (-1)^sign * 2^(exponent - bias) * 1.mantissa,    bits: sign w-1, exponent w-2 .. m, mantissa m-1 .. 0.

float8_e8m0fnu, the scale of the microscaling formats, is an exponent and nothing else.
float32, float16, bfloat16, the float8 formats, every integer width of JAX, and float64 where JAX has it enabled.
"""

from typing import Any

import jax
import jax.numpy as jnp


def width(dtype: Any) -> int:
    """Number of bits of a value: 8, 16, 32 or 64.

    Args:
      dtype: a float or integer dtype, or its name.

    Raises:
      ValueError: the dtype is neither a float nor an integer of a whole number of bytes.
    """
    dtype = jnp.dtype(dtype)
    size = 0
    if jnp.issubdtype(dtype, jnp.floating):
        size = jnp.finfo(dtype).bits
    elif jnp.issubdtype(dtype, jnp.integer):
        size = jnp.iinfo(dtype).bits
    if size not in (8, 16, 32, 64):
        raise ValueError(f"dtype must be a float or an integer of 8, 16, 32 or 64 bits, got {dtype.name!r}")
    return size


def fields(dtype: Any) -> dict[str, range]:
    """The named bit fields, most significant first, each a range of bit positions.

    Floats have `sign`, `exponent` and `mantissa` (float8_e8m0fnu `exponent` alone); signed integers (two's complement)
    `sign` and `magnitude`; unsigned ones `magnitude` alone.

    Args:
      dtype: as in `width`.
    """
    bits = width(dtype)
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        return {"magnitude": range(bits)}
    sign = {"sign": range(bits - 1, bits)}
    if jnp.issubdtype(dtype, jnp.signedinteger):
        return {**sign, "magnitude": range(bits - 1)}
    mantissa = jnp.finfo(dtype).nmant
    if float(jnp.finfo(dtype).min) > 0:
        return {"exponent": range(bits)}
    return {**sign, "exponent": range(mantissa, bits - 1), "mantissa": range(mantissa)}


def field_of(bit: int, dtype: Any) -> str:
    """Name of the field that holds bit position `bit`.

    Raises:
      ValueError: the dtype has no such bit.
    """
    for name, positions in fields(dtype).items():
        if bit in positions:
            return name
    raise ValueError(f"bit must be in 0..{width(dtype) - 1} for {jnp.dtype(dtype).name}, got {bit}")


def unsigned(dtype: Any) -> jnp.dtype:
    """The unsigned integer dtype of the same width."""
    return jnp.dtype(f"uint{width(dtype)}")


def to_bits(x: jax.Array) -> jax.Array:
    """The unsigned integer view of x, same shape and width, every bit kept.

    Args:
      x: [...] of any dtype that `width` knows.
    """
    x = jnp.asarray(x)
    return jax.lax.bitcast_convert_type(x, unsigned(x.dtype))


def from_bits(view: jax.Array, dtype: Any) -> jax.Array:
    """The inverse of `to_bits`: the values of `dtype` whose bits are `view`.

    Args:
      view: [...] unsigned integers as wide as `dtype`.
      dtype: the dtype to view them as.

    Raises:
      ValueError: the widths differ.
    """
    view = jnp.asarray(view)
    if view.dtype != unsigned(dtype):
        raise ValueError(f"view of {jnp.dtype(dtype).name} must be {unsigned(dtype)}, got {view.dtype}")
    return jax.lax.bitcast_convert_type(view, jnp.dtype(dtype))


def flip(x: jax.Array, masks: jax.Array) -> jax.Array:
    """x with the bits set in `masks` flipped: XOR on the integer view, exact; twice is the identity.

    Args:
      x: [...] of any dtype that `width` knows.
      masks: [...] or scalar, unsigned integers as wide as x (see `mask`).
    """
    x = jnp.asarray(x)
    masks = jnp.asarray(masks)
    if masks.dtype != unsigned(x.dtype):
        raise ValueError(f"masks for {x.dtype} must be {unsigned(x.dtype)}, got {masks.dtype}")
    return from_bits(to_bits(x) ^ masks, x.dtype)


def mask(bit: jax.Array, dtype: Any) -> jax.Array:
    """The unsigned integers 2^bit as wide as `dtype`; 0, which flips nothing, where `bit` is negative or too large.

    Args:
      bit: [...] int32 bit positions.
      dtype: dtype of the values to flip.
    """
    bit = jnp.asarray(bit, jnp.int32)
    size = width(dtype)
    shifts = jnp.clip(bit, 0, size - 1).astype(unsigned(dtype))
    powers = jnp.left_shift(jnp.ones_like(shifts), shifts)
    return jnp.where((bit >= 0) & (bit < size), powers, jnp.zeros_like(powers))
