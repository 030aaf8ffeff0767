"""In which order and in which strata the trials of a campaign run, and in which chunks they are kept."""

import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from threats import statistics
from threats.campaigns import drawing as drawings


def pilot(drawing: drawings.Drawing) -> int:
    """Trials of the pilot of a Neyman allocation, which visit the strata in turn; 0 without."""
    neyman = drawing.strata and drawing.spec.allocation == "neyman"
    return len(drawing.strata) * drawing.spec.pilot if neyman else 0


def after_pilot(drawing: drawings.Drawing, planned: int, of_pilot: Mapping[str, np.ndarray] | None) -> np.ndarray:
    """[t] the stratum of each trial after the pilot, mixed, so that what has run so far speaks of all strata.

    Args:
      drawing: of the campaign.
      planned: trials at most, with the pilot.
      of_pilot: stratum -> values of the spec's metric in the pilot, where there was one.
    """
    if not drawing.strata:
        return np.zeros(planned, np.int32)
    spec, shares = drawing.spec, drawings.shares(drawing)
    if of_pilot is None:
        counts = statistics.proportional_allocation(shares, planned)
    else:
        deviations = statistics.smoothed_deviations(of_pilot)
        rest = planned - pilot(drawing)
        if spec.half_width is not None:
            spread = math.fsum(shares[name] * deviations[name] for name in shares)
            rest = min(rest, math.ceil((special.ndtri((1 + spec.confidence) / 2) * spread / spec.half_width) ** 2))
        counts = statistics.neyman_allocation(shares, deviations, max(rest, 2 * len(shares)))
    strata = np.repeat(np.arange(len(drawing.strata)), [counts[stratum.name] for stratum in drawing.strata])
    key = jax.random.fold_in(drawing.key, jnp.uint32(2**32 - 3))  # beside the trials' own keys
    return strata[np.asarray(jax.random.permutation(key, len(strata)))]


def chunks(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, past the last) of the chunks between `start` and `stop`."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


def blocks(start: int, stop: int, size: int, at_once: int) -> list[list[tuple[int, int]]]:
    """The chunks between `start` and `stop`, `at_once` of them in each block: these run in one call."""
    each = list(chunks(start, stop, size))
    return [each[first : first + at_once] for first in range(0, len(each), at_once)]


def piece_of(number: int, origin: int, size: int) -> tuple[int, int]:
    """The chunk, or the block, that holds a trial: the pilot and what follows are cut each for itself.

    Args:
      number: of the trial.
      origin: number of the first trial after the pilot.
      size: trials in a chunk, or in a block.
    """
    if number < origin:
        start = number // size * size
        return start, min(start + size, origin)
    start = origin + (number - origin) // size * size
    return start, start + size
