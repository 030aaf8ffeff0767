"""Batch and layer normalisation with the arithmetic of PyTorch, the framework of the published weights.

Flax averages the biased batch variance, PyTorch the unbiased one (n / (n - 1) times as large), while both normalise
with the biased one. At small batches and late stages, where n = b h w is small, the difference shows in evaluation.

Flax's layer norm takes the variance as E[x^2] - E[x]^2, which is NaN once one activation beyond 1e19, as a flipped
exponent bit makes it, overflows in both terms. The mean of the squared deviations, as PyTorch takes it, becomes
infinite instead, and the normalised vector zero: wrong, but finite.

Both take statistics and normalise in float32 where the input is narrower, and return the input's dtype.
References: Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 2; Ba et al., "Layer Normalization", 2016.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the last axis; attributes are those of Flax's."""

    epsilon: float = 1e-5
    use_fast_variance: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., c] float."""
        return super().__call__(widened(x)).astype(x.dtype)


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias over all axes but the last.

    Attributes:
      momentum: share of the running statistics kept at each update (PyTorch's momentum 0.1 is 0.9 here).
      epsilon: added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, use_running_average: bool) -> jax.Array:
        """x: [..., c] float; statistics are taken in float32. Needs `batch_stats` mutable when training."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            axes = tuple(range(x.ndim - 1))
            mean, var = _moments(x.astype(jnp.float32), axes)
            count = x.size // channels
            if not self.is_initializing():
                keep = self.momentum
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (channels,)
        centred = x.astype(jnp.float32) - mean.reshape(shape)
        return (centred * factor.reshape(shape) + bias.reshape(shape)).astype(x.dtype)


def widened(x: jax.Array) -> jax.Array:
    """x in float32 where its dtype is narrower, otherwise x."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    mean = jnp.mean(x, axis=axes)
    centred = x - mean.reshape((1,) * len(axes) + mean.shape)
    return mean, jnp.mean(jnp.square(centred), axis=axes)
