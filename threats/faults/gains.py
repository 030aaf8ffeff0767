"""First-order gain of every bit: how much its flip would raise the loss, if the loss were linear in the value.

With the gradient g of the summed loss and the value v that becomes v' when bit p flips,

    gain(p) = g (v' - v)            of a weight,
    gain(p) = sum_i g_i (v'_i - v_i)   of an activation, over the images i,

after Rakin, He, Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search" (2019), eq. 7 to 9, who
rank the bits of integers by |g|. For floats the change must be in: the top exponent bit and the lowest mantissa bit of
one weight differ by 2^150. Of a weight held in another format (`formats`) v and v' are the decoded values and g is the
gradient by them: an integer has none of its own. A v' that is NaN or infinite counts as the largest finite change in
the worse direction, g that is not finite as 0 (a model that is broken already tells nothing about such a value).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from threats.faults import bits

# Sums over images of the largest float times a gradient would overflow; the order of the gains does not change.
_SCALE = 2.0**-40


def of_change(
    values: jax.Array,
    flipped: jax.Array,
    gradients: jax.Array,
    *,
    largest: float,
    allow_nonfinite: bool,
    limit: jax.Array,
) -> jax.Array:
    """[...] float32 gain of replacing every value, times 2^-40; -inf where that is not allowed.

    Args:
      values, flipped: [...] floats, before and after.
      gradients: [...] of the loss by the values.
      largest: what a change counts at most.
      allow_nonfinite: whether a value may become NaN or infinite.
      limit: scalar float32, largest magnitude that a finite new value may have.
    """
    values, flipped, gradients = (x.astype(jnp.float32) for x in (values, flipped, gradients))
    gradients = jnp.where(jnp.isfinite(gradients), gradients, 0.0)
    change = jnp.clip(flipped - values, -largest, largest)
    change = jnp.where(jnp.isfinite(flipped), change, jnp.sign(gradients) * largest)
    # A value that is not finite has no change to speak of: its gain is 0.
    change = jnp.where(jnp.isfinite(values), change, 0.0)
    allowed = jnp.where(jnp.isfinite(flipped), jnp.abs(flipped) <= limit, allow_nonfinite)
    return jnp.where(allowed, gradients * (change * _SCALE), -jnp.inf)


def largest_change(dtype: Any) -> float:
    """The largest finite value of a float dtype; that of float32 for integers, which decode to it, and float64."""
    dtype = jnp.dtype(dtype)
    narrow = jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64
    return float(jnp.finfo(dtype if narrow else jnp.float32).max)


def probe(flip: Callable[[jax.Array], jax.Array], *, allow_nonfinite: bool) -> Callable[..., jax.Array]:
    """A tap's entry that flips bits and whose gradients by two zero arguments tell of every bit of the activation.

    The gains of an activation need its value and gradient for each image, which never leave the pass in this way: only
    their sum over the images does, and the largest finite magnitude after the flip, which is what a limit is compared
    with. Gradients pass the flips already made as if these added a constant.

    Args:
      flip: the flips already made, from x [b, ...] to the same shape.
      allow_nonfinite: as in `of_change`.

    Returns:
      entry(zeros [w, n] float32, zeros [w, n] float32, x [b, ...]) -> flip(x), with w bits and n elements per image;
      the gradients are the gains without a limit and the magnitudes.
    """

    @jax.custom_vjp
    def entry(gains: jax.Array, largest: jax.Array, x: jax.Array) -> jax.Array:
        del gains, largest
        return flip(x)

    def forward(gains: jax.Array, largest: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = entry(gains, largest, x)
        return value, value

    def backward(value: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        rules = {"allow_nonfinite": allow_nonfinite, "limit": jnp.float32(jnp.inf)}

        def of_bit(bit: jax.Array) -> tuple[jax.Array, jax.Array]:
            flipped = bits.flip(value, jnp.broadcast_to(bits.mask(bit, value.dtype), value.shape))
            per_image = of_change(value, flipped, gradient, largest=largest_change(value.dtype), **rules)
            flipped = flipped.astype(jnp.float32)
            magnitude = jnp.where(jnp.isfinite(flipped), jnp.abs(flipped), 0.0)
            return jnp.sum(per_image, axis=0).reshape(-1), jnp.max(magnitude, axis=0).reshape(-1)

        return *jax.lax.map(of_bit, jnp.arange(bits.width(value.dtype))), gradient

    entry.defvjp(forward, backward)
    return entry
