"""The least time a computation can take here: its operations at the measured rate, or its bytes at that of copying.

    floor = max(flops / (measured flop/s), bytes / (measured byte/s))

FLOPs and bytes are those that XLA counts in the compiled program, each result counted as written to memory and read
again. XLA counts the body of a loop once, whatever the number of its steps, so programs with a selective scan are
counted with a product of the scan's inputs in its place, which reads and writes what a fused scan must, and the scan's
operations are added by hand. A gradient counts the forward pass too. `flops` alone counts before XLA optimises.

For each of the b k l d n state updates h = exp(dt A) h + (dt u) B, y = sum_n C h:
    forward    dt A, exp, decay h, (dt u) B, +, C h, sum                                       6 operations and one exp
    backward   the state again (4 and one exp); then with the adjoint g
               g += C dy  2,  g_decay = g decay  1,  e = g_decay h  1,  ddt += e A  2,  sum_n g B  2,
               dC = sum_d h dy  2,  dB = sum_d g dt u  2,  dA += e dt  2                      18 operations and one exp
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import machine
from mamba_jax import scan

# A CPU forms exp with a polynomial of degree 6 and a range reduction, 8 fused multiply-adds; a GPU's unit for special
# functions takes as long as 8 of them.
EXP_FLOPS = 16
_STAND_IN = "left_out"


@dataclasses.dataclass(frozen=True)
class Work:
    """What a computation must do: floating-point operations, and bytes read or written."""

    flops: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: float) -> "Work":
        """The work of `count` such computations."""
        return Work(self.flops * count, self.bytes * count)

    def seconds(self, rates: machine.Rates) -> float:
        """The floor, see above."""
        return max(self.flops / rates.flops, self.bytes / rates.bytes)


class WithoutScan(NamedTuple):
    """A program compiled with each selective scan replaced by a product of its inputs.

    compiled: the program, to be called with the arguments it was compiled for.
    work: of the program with its scans.
    """

    compiled: jax.stages.Compiled
    work: Work


def scan_work(b: int, k: int, l: int, d: int, n: int, *, gradient: bool, itemsize: int = 4) -> Work:
    """The work of a selective scan that keeps its states in registers.

    Args:
      b, k, l, d, n: batch, directions, steps, channels, states.
      gradient: forward pass and gradients of all inputs; else the forward pass alone.
      itemsize: bytes of an element of u, dt, B, C, y and their gradients; A is float32.
    """
    updates, channels, states, matrix = b * k * l * d * n, b * k * l * d, b * k * l * n, 4 * k * d * n
    # Reads u, dt, B, C, A and writes y; then reads u, dt, dy, B, C, A and writes du, ddt, dB, dC, dA.
    bytes_forward = itemsize * (3 * channels + 2 * states) + matrix
    bytes_backward = itemsize * (5 * channels + 4 * states) + 2 * matrix
    if l == 1:  # from a zero state: no exponential but of A's extremes, and no recurrence backwards
        forward = Work(3 * updates + 2 * k * d * n + 7 * channels, bytes_forward)
        backward = Work(6 * channels + 4 * states, bytes_backward)
    else:
        forward = Work((6 + EXP_FLOPS) * updates + channels, bytes_forward)
        backward = Work((18 + EXP_FLOPS) * updates + 4 * channels, bytes_backward)
    return forward + backward if gradient else forward


def counted_work(compiled: jax.stages.Compiled | jax.stages.Lowered) -> Work:
    """What XLA counts in a program, exponentials and the like at `EXP_FLOPS` each.

    Raises:
      ValueError: the backend counts nothing.
    """
    counted = compiled.cost_analysis()
    if not counted:
        raise ValueError(f"cost_analysis must return counts, got {counted!r} on {jax.default_backend()}")
    flops = counted.get("flops", 0.0) + EXP_FLOPS * counted.get("transcendentals", 0.0)
    return Work(flops, counted.get("bytes accessed", 0.0))


def without_scan(function_of: Callable[[str], Callable[..., Any]], *arguments: Any, gradient: bool) -> WithoutScan:
    """Compiles a function with its scans left out, and counts its work with them.

    Args:
      function_of: from the name of a scan method to the function, jitted or not, that uses that method.
      arguments: of the function.
      gradient: whether the function differentiates through its scans.
    """
    lowered, scans = _lowered(function_of, arguments, gradient=gradient)
    compiled = lowered.compile()
    return WithoutScan(compiled, counted_work(compiled) + Work(scans, 0.0))


def flops(function_of: Callable[[str], Callable[..., Any]], *arguments: Any, gradient: bool) -> float:
    """The FLOPs of a function, counted before it is compiled; arguments as for `without_scan`."""
    lowered, scans = _lowered(function_of, arguments, gradient=gradient)
    return counted_work(lowered).flops + scans


def _lowered(function_of, arguments, *, gradient: bool) -> tuple[jax.stages.Lowered, float]:
    """The function with its scans left out, and the FLOPs of those."""
    with _stand_in() as shapes:
        function = function_of(_STAND_IN)
        lowered = (function if hasattr(function, "lower") else jax.jit(function)).lower(*arguments)
    return lowered, sum(scan_work(*shape, gradient=gradient).flops for shape in shapes)


@contextlib.contextmanager
def _stand_in() -> Iterator[list[tuple[int, ...]]]:
    """A scan method that multiplies its inputs; yields the list of shapes (b, k, l, d, n) that it is traced with."""
    shapes: list[tuple[int, ...]] = []

    def product(u, dt, A, B, C, *, reverse):
        del reverse
        shapes.append((*u.shape, A.shape[-1]))
        u, dt, A, B, C = (x.astype(jnp.float32) for x in (u, dt, A, B, C))
        return u * dt * jnp.sum(B * C, axis=-1, keepdims=True) * jnp.mean(A, axis=-1)[None, :, None]

    scan.METHODS[_STAND_IN] = product
    try:
        yield shapes
    finally:
        del scan.METHODS[_STAND_IN]
