"""State-space layers: the 2-D cross scan of MedMamba, and the causal Mamba block for sequences.

Both put a selective scan between a projection with a gate and a projection back:

    SS2D   x, z = W_in v, W_z v;  x = SiLU(conv3x3(x));  y = sum over four directions of scan_k(x)
           out = W_out (LayerNorm(y) * SiLU(z))
    Mamba  x, z = W_in v, W_z v;  x = SiLU(causal conv(x));  out = W_out (scan(x) * SiLU(z))

References: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, figure 3; Liu et al.,
"VMamba", 2024 (cross scan); Yue and Li, "MedMamba", 2024.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamba_jax import scan, types
from mamba_jax.models import convolution, elementwise, norm, taps

DIRECTIONS = 4  # row by row, column by column, and both backwards

dense_init = nn.initializers.truncated_normal(0.02)


class SS2D(nn.Module):
    """The 2-D selective scan: [b, h, w, c] -> [b, h, w, c], computed in the dtype of its input.

    Whatever that dtype is, step sizes are formed in float32 from their projections, and the recurrence, the sum over
    directions and the norm are float32.

    Attributes:
      expand: inner channels d per outer channel c.
      d_state: states n of each inner channel.
      scan_method: see `mamba_jax.scan.selective_scan`.

    Taps: `in_proj_out` [b, h, w, d], `dt` [b, 4, l, d], `B` and `C` [b, 4, l, n], `scan` [b, h, w, d]. Sequences are in
    spatial order: row-major for directions 0 and 2, column-major for 1 and 3, the last two scanned backwards. The
    states h_t of the scans are `state` [4, l, d, n] (see `taps.tap_states`) in the same order: h at index t is what the
    step with `dt` at index t makes, so a fault there reaches t, t + 1, .. in directions 0 and 1, and t, t - 1, .. in
    2 and 3.
    """

    expand: int = 2
    d_state: int = 16
    scan_method: types.ScanMethod = "auto"

    @nn.compact
    def __call__(self, v: jax.Array) -> jax.Array:
        c = v.shape[-1]
        d = self.expand * c
        x = nn.Dense(d, use_bias=False, dtype=v.dtype, kernel_init=dense_init, name="in_proj")(v)
        z = nn.Dense(d, use_bias=False, dtype=v.dtype, kernel_init=dense_init, name="gate_proj")(v)
        x = taps.tap(self, "in_proj_out", x)
        x = elementwise.silu(DepthwiseConv2D(name="conv")(x))
        y = taps.tap(self, "scan", self._cross_scan(x, rank=math.ceil(c / 16)))
        y = norm.LayerNorm(name="out_norm")(y) * elementwise.silu(z)
        return nn.Dense(c, use_bias=False, dtype=v.dtype, kernel_init=dense_init, name="out_proj")(y)

    def _cross_scan(self, x: jax.Array, *, rank: int) -> jax.Array:
        """The four scans of x [b, h, w, d], each put back in place, summed."""
        b, h, w, d = x.shape
        k, n = DIRECTIONS, self.d_state
        dt_down = self.param("dt_down", _uniform(d**-0.5), (k, d, rank))
        B_proj = self.param("B_proj", _uniform(d**-0.5), (k, d, n))
        C_proj = self.param("C_proj", _uniform(d**-0.5), (k, d, n))
        dt_up = self.param("dt_up", _uniform(rank**-0.5), (k, rank, d))
        dt_bias = self.param("dt_bias", _dt_bias_init, (k, d))
        A = -jnp.exp(self.param("A_log", _A_log_init, (k, d, n)))
        D = self.param("D", nn.initializers.ones, (k, d))

        # Steps first, as a step-by-step scan reads them. Projecting commutes with reordering, so that one product
        # projects every pixel for all four directions.
        pixels = jnp.transpose(x, (1, 2, 0, 3))
        weights = jnp.concatenate([dt_down, B_proj, C_proj], axis=-1).astype(x.dtype)
        projected = pixels.reshape((h * w * b, d)) @ jnp.moveaxis(weights, 0, 1).reshape((d, -1))
        projected = projected.reshape((h, w, b, k, rank + 2 * n))
        sequences = [_sequence(projected[:, :, :, i], i) for i in range(k)]
        low, B, C = zip(*(jnp.split(sequence, [rank, rank + n], axis=-1) for sequence in sequences), strict=True)
        dt = [x.astype(dt_up.dtype) @ dt_up[i] + dt_bias[i].reshape((1, 1, d)) for i, x in enumerate(low)]
        dt = _tapped(self, "dt", [elementwise.softplus(x) for x in dt])
        B, C = _tapped(self, "B", B), _tapped(self, "C", C)

        u = jnp.stack([_sequence(pixels, i) for i in range(2)], axis=2)
        parts = list(zip(dt, jnp.split(A, 2), B, C, (False, True), strict=True))
        masks = taps.tap_states(self, "state", (k, h * w, d, n), functools.partial(_states, u, parts))
        masks = (None, None) if masks is None else jnp.split(masks, 2, axis=1)
        options = {"method": self.scan_method, "time_major": True}
        y = sum(
            norm.widened(scan.selective_scan(u, *arguments, reverse=reverse, state_masks=masks[i], **options))
            for i, (*arguments, reverse) in enumerate(parts)
        )
        by_row, by_column = y[:, :, 0].reshape((h, w, b, d)), y[:, :, 1].reshape((w, h, b, d))
        skip = norm.widened(pixels) * jnp.sum(D, axis=0).reshape((1, 1, 1, d))
        summed = by_row + jnp.swapaxes(by_column, 0, 1) + skip
        return elementwise.once(jnp.transpose(summed, (2, 0, 1, 3))).astype(x.dtype)


def _sequence(pixels: jax.Array, direction: int) -> jax.Array:
    """[h, w, b, m] -> [l, b, m] in the order of a direction: rows for even ones, columns for odd ones."""
    pixels = jnp.swapaxes(pixels, 0, 1) if direction % 2 else pixels
    return pixels.reshape((-1, *pixels.shape[2:]))


def _tapped(module: nn.Module, name: str, sequences: Sequence[jax.Array]) -> list[jax.Array]:
    """The sequences [l, b, m] of all directions through one tap [b, 4, l, m], and back in halves [l, b, 2, m]."""
    tapped = taps.tap(module, name, jnp.moveaxis(jnp.stack(sequences, axis=2), 0, 2))
    return jnp.split(jnp.moveaxis(tapped, 2, 0), 2, axis=2)


def _states(u: jax.Array, parts: Sequence[tuple]) -> jax.Array:
    """The states [b, 4, l, d, n] of all directions, from the arguments of both halves of them."""
    halves = [scan.hidden_states(u, dt, A, B, reverse=reverse, time_major=True) for dt, A, B, _, reverse in parts]
    return jnp.moveaxis(jnp.concatenate(halves, axis=2), 0, 2)


class MambaBlock(nn.Module):
    """The Mamba block for sequences: [b, l, c] -> [b, l, c], causal. The residual and the norm are the caller's.

    Attributes:
      expand: inner channels d per outer channel c.
      d_state: states n of each inner channel.
      d_conv: taps of the causal depthwise convolution.
      scan_method: see `mamba_jax.scan.selective_scan`.

    Taps: `in_proj_out` [b, l, d], `dt` [b, l, d], `B` and `C` [b, l, n], `scan` [b, l, d], and the states `state`
    [l, d, n] (see `taps.tap_states`).
    """

    expand: int = 2
    d_state: int = 16
    d_conv: int = 4
    scan_method: types.ScanMethod = "auto"

    @nn.compact
    def __call__(self, v: jax.Array) -> jax.Array:
        c = v.shape[-1]
        d, n, rank = self.expand * c, self.d_state, math.ceil(c / 16)
        x = taps.tap(self, "in_proj_out", nn.Dense(d, use_bias=False, name="in_proj")(v))
        z = nn.Dense(d, use_bias=False, name="gate_proj")(v)
        x = elementwise.silu(CausalConv(self.d_conv, name="conv")(x))

        dt = nn.Dense(rank, use_bias=False, name="dt_down")(x)
        dt_bias = self.param("dt_bias", _dt_bias_init, (d,))
        dt = nn.Dense(d, use_bias=False, kernel_init=_uniform(rank**-0.5), name="dt_up")(dt)
        dt = taps.tap(self, "dt", elementwise.softplus(dt + dt_bias.reshape((1, 1, d))))
        B = taps.tap(self, "B", nn.Dense(n, use_bias=False, name="B_proj")(x))
        C = taps.tap(self, "C", nn.Dense(n, use_bias=False, name="C_proj")(x))
        A = -jnp.exp(self.param("A_log", _A_log_init, (d, n)))
        D = self.param("D", nn.initializers.ones, (d,))

        read = functools.partial(scan.hidden_states, x, dt, A, B)
        masks = taps.tap_states(self, "state", (v.shape[1], d, n), read)
        y = scan.selective_scan(x, dt, A, B, C, D, method=self.scan_method, state_masks=masks)
        y = taps.tap(self, "scan", y)
        return nn.Dense(c, use_bias=False, name="out_proj")(y * elementwise.silu(z))


class DepthwiseConv2D(nn.Module):
    """A 3 x 3 convolution of each channel with itself, padding 1, as nine shifted products.

    XLA's grouped convolution is tens of times slower than these on a CPU; elsewhere they fuse into one pass.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b, h, w, d]."""
        _, h, w, d = x.shape
        # The published network draws these as if the convolution were dense: groups are ignored.
        kernel = self.param("kernel", nn.initializers.normal(math.sqrt(2 / (9 * d))), (3, 3, 1, d)).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (d,)).astype(x.dtype)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = convolution.taps(h), convolution.taps(w)
        shifted = [padded[:, i : i + h, j : j + w] * kernel[i, j][None, None] for i in rows for j in columns]
        return sum(shifted) + bias.reshape((1, 1, 1, d))


class CausalConv(nn.Module):
    """A depthwise convolution over the last `width` steps: step t sees t - width + 1 .. t."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b, l, d]."""
        _, length, d = x.shape
        kernel = self.param("kernel", _uniform(self.width**-0.5), (self.width, d))
        bias = self.param("bias", nn.initializers.zeros, (d,))
        padded = jnp.pad(x, ((0, 0), (self.width - 1, 0), (0, 0)))
        steps = [padded[:, i : i + length] * kernel[i].reshape((1, 1, d)) for i in range(self.width)]
        return sum(steps) + bias.reshape((1, 1, d))


def _uniform(bound: float) -> nn.initializers.Initializer:
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _A_log_init(key, shape, dtype=jnp.float32) -> jax.Array:
    """A = -1, -2, ..., -n in every channel (S4D-Real)."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype)), shape)


def _dt_bias_init(key, shape, dtype=jnp.float32) -> jax.Array:
    """The inverse softplus of step sizes drawn log-uniformly from [1e-3, 0.1], at least 1e-4."""
    low, high = math.log(1e-3), math.log(0.1)
    dt = jnp.maximum(jnp.exp(jax.random.uniform(key, shape, dtype, low, high)), 1e-4)
    return dt + jnp.log(-jnp.expm1(-dt))
