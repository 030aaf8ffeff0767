"""Times of compiled functions side by side, as medians with 95 % intervals, and ratios that hold on a noisy machine.

Every round runs each function once, in turn forwards and backwards, so that a ratio is taken between neighbours in
time: what slows the machine for a while slows both. Compilation and the first call are not counted.

The interval of a median is that of its order statistics, which assumes nothing of how times are distributed:

    [x_(j), x_(n - j + 1)],   j the largest with P(Binomial(n, 1/2) < j) <= 2.5 %

Below 6 samples there is no such j, and the range [x_(1), x_(n)] is given instead; it holds the median with probability
1 - 2^(1 - n): 75 % for 3 samples. Reference: David and Nagaraja, "Order Statistics", 2003, section 7.1.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from scipy import stats

from threats import statistics

SAMPLES_FOR_95 = 6
_SHORTEST_SAMPLE = 0.01  # seconds; shorter calls are repeated within a sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds:
    """When a measurement ends: after `seconds`, but with at least `least` and at most `most` rounds."""

    least: int = 6
    most: int = 31
    seconds: float = 3.0

    def __post_init__(self):
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least must be in 1..most, got least={self.least} and most={self.most}")


def interleave(functions: Mapping[str, Callable[[], Any]], rounds: Rounds) -> dict[str, np.ndarray]:
    """Seconds per call of each function: an array [rounds] each, entry i of all of them from the same round.

    Args:
      functions: by name; each returns a pytree of arrays, which is waited for.
      rounds: how many.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    calls = {name: _calls(function) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    begun = time.perf_counter()
    for number in range(rounds.most):
        if number >= rounds.least and time.perf_counter() - begun > rounds.seconds:
            break
        for name in list(functions)[:: 1 if number % 2 == 0 else -1]:
            samples[name].append(_seconds(functions[name], calls[name]))
    return {name: np.asarray(values) for name, values in samples.items()}


def median(samples: np.ndarray) -> statistics.Interval:
    """The median of the samples with its interval, see above.

    Raises:
      ValueError: there is no sample.
    """
    ordered = np.sort(np.asarray(samples, float))
    count = len(ordered)
    if not count:
        raise ValueError("samples must hold at least one number, got none")
    # ppf is the least k with P(X <= k) >= 2.5 %, so that P(X < k) is below; k = 0 means that there is no such pair.
    place = max(1, int(stats.binom.ppf(0.025, count, 0.5)))
    low, high = ordered[place - 1], ordered[count - place]
    return statistics.Interval(float(np.median(ordered)), float(low), float(high), count)


def ratio(slower: np.ndarray, faster: np.ndarray) -> statistics.Interval:
    """How many times as long `slower` takes: the median over rounds of the ratio within a round."""
    return median(np.asarray(slower) / np.asarray(faster))


def rate(seconds: statistics.Interval, amount: float) -> statistics.Interval:
    """`amount` per second, from the time that it takes."""
    return statistics.Interval(amount / seconds.value, amount / seconds.high, amount / seconds.low, seconds.count)


def scaled(interval: statistics.Interval, factor: float) -> statistics.Interval:
    """The interval in another unit, `factor` > 0 of which make one of the old."""
    value, low, high, count = interval
    return statistics.Interval(value * factor, low * factor, high * factor, count)


def _calls(function: Callable[[], Any]) -> int:
    """Calls that make a sample long enough for the clock and for a turn of the scheduler."""
    once = _seconds(function, 1)
    return max(1, min(1000, round(_SHORTEST_SAMPLE / max(once, 1e-6))))


def _seconds(function: Callable[[], Any], calls: int) -> float:
    """Each call is waited for: calls in flight could otherwise share the cores."""
    begun = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (time.perf_counter() - begun) / calls
