"""What this machine can do, in this process and now: multiply matrices and copy memory.

matmul     2 m^3 / t for a product of two m x m float32 matrices
copy       2 bytes(x) / t for x -> -x in place: every byte is read and written once, none is freshly allocated
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import figures, timing
from threats import statistics


class Rates(NamedTuple):
    """Measured limits. A floor rests on the fastest sample, so that noise here does not make it unreachably low.

    flops: floating-point operations per second, the fastest sample.
    bytes: bytes read or written per second, the fastest sample.
    matmul: the median in GFLOP/s.
    copy: the median in GB/s.
    """

    flops: float
    bytes: float
    matmul: statistics.Interval
    copy: statistics.Interval


def measure(*, side: int, copied_bytes: int, rounds: timing.Rounds) -> Rates:
    """Both rates.

    Args:
      side: of the matrices, m.
      copied_bytes: size of the array; far above the caches, or it is their bandwidth that is measured.
      rounds: how many samples.
    """
    x = jnp.full((side, side), 1.0 / side, jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    copied = _InPlace(jnp.ones((copied_bytes // 4,), jnp.float32))
    seconds = timing.interleave({"matmul": functools.partial(product, x, x), "copy": copied}, rounds)
    flops, moved = 2.0 * side**3, 2.0 * copied.array.nbytes
    return Rates(
        flops=flops / float(seconds["matmul"].min()),
        bytes=moved / float(seconds["copy"].min()),
        matmul=timing.rate(timing.median(seconds["matmul"]), flops / 1e9),
        copy=timing.rate(timing.median(seconds["copy"]), moved / 1e9),
    )


def as_figures(rates: Rates, *, when: str) -> list[figures.Figure]:
    """The two rates as figures, named by when they were measured: "before" or "after" the rest."""
    return [
        figures.Figure(name=f"machine/matmul_{when}", unit="GFLOP/s", interval=rates.matmul),
        figures.Figure(name=f"machine/copy_{when}", unit="GB/s", interval=rates.copy),
    ]


class _InPlace:
    """Negates an array into its own memory at each call."""

    def __init__(self, array: jax.Array):
        self.array = array
        self._negate = jax.jit(jnp.negative, donate_argnums=0)

    def __call__(self) -> jax.Array:
        self.array = self._negate(self.array)
        return self.array
