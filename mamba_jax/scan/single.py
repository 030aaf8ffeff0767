"""The selective scan of one step, as the last stages of small images have it: no exponential is left in it.

From a zero state, h = exp(dt A) 0 + dt B u. The first term is zero, and NaN where the exponential is infinite or NaN,
as flipped bits can make it: so it is here, as in the step-by-step recurrence.
"""

import jax
import jax.numpy as jnp

from mamba_jax.scan import exponential

_TOO_LARGE = 128.0  # a power of two that float32 does not hold


@jax.custom_vjp
def scan(A: jax.Array, u: jax.Array, dt: jax.Array, B: jax.Array, C: jax.Array) -> jax.Array:
    """y = sum_n C_n h_n with h_n = dt B_n u, in float32.

    Args:
      A: [k, n, d].
      u, dt: [1, b, k, d].
      B, C: [1, b, k, n].

    Returns:
      y: [1, b, k, d] float32.
    """
    u, dt, B, C = (x.astype(jnp.float32) for x in (u, dt, B, C))
    drive = dt * u
    # A product is monotone in A also as it is rounded: where the extremes are not too large, no state's exponent is.
    exponents = [dt * (extreme(A, axis=1) * exponential.LOG2_E)[None, None] for extreme in (jnp.max, jnp.min)]
    tame = (exponents[0] < _TOO_LARGE) & (exponents[1] < _TOO_LARGE)
    # State after state, since a reduction does not vectorise.
    y = sum(C[..., i, None] * (drive * B[..., i, None]) for i in range(A.shape[1]))
    # A division counts as dear, so that XLA does not compute y anew in each of its readers.
    return y / jnp.where(tame, 1.0, jnp.nan)


def _forward(A, u, dt, B, C):
    return scan(A, u, dt, B, C), (A, u, dt, B, C)


def _backward(residuals, dy):
    A, *inputs = residuals
    u, dt, B, C = (x.astype(jnp.float32) for x in inputs)
    over_n = dy * jnp.sum(C * B, axis=-1, keepdims=True)
    over_d = jnp.sum(dy * dt * u, axis=-1, keepdims=True)
    gradients = over_n * dt, over_n * u, C * over_d, B * over_d
    return jnp.zeros_like(A), *(gradient.astype(x.dtype) for gradient, x in zip(gradients, inputs, strict=True))


scan.defvjp(_forward, _backward)
