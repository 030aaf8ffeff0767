"""The selective scan: every method against the associative one, at the shapes of MedMamba-T's stages, and by length.

On a CPU the fused kernel runs in interpret mode, which is for checking and not for speed, and is left out.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import figures, floors, setting, timing
from mamba_jax import scan

DIRECTIONS = 4


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Forward and gradient of each method at each stage's shape, then the scaling with the number of tokens."""
    for gradient in (False, True):
        for stage, (length, d) in enumerate(given.sizes.scan_stages):
            yield from _stage(
                given, stage, (given.sizes.batch, DIRECTIONS, length, d, given.sizes.scan_states), gradient
            )
        yield from _scaling(given, gradient)


def methods() -> tuple[str, ...]:
    """The methods that make sense on this backend, in the order of their names."""
    interpreted = {"pallas"} if jax.default_backend() == "cpu" else set()
    return tuple(sorted(set(scan.METHODS) - interpreted))


def inputs(b: int, k: int, l: int, d: int, n: int) -> tuple[jax.Array, ...]:
    """(u, dt, A, B, C) of a scan, steps and decays of the sizes that a fresh model has; k = 0 leaves that axis out."""
    draw = np.random.default_rng(0)
    axes = (b, k) if k else (b,)
    u, B, C = (draw.standard_normal((*axes, l, m), np.float32) for m in (d, n, n))
    dt = np.exp(draw.uniform(np.log(1e-3), np.log(0.1), (*axes, l, d))).astype(np.float32)
    A = -np.broadcast_to(np.arange(1, n + 1, dtype=np.float32), (*axes[1:], d, n))
    return tuple(jnp.asarray(x) for x in (u, dt, A, B, C))


def _steps_first(shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    u, dt, A, B, C = inputs(*shape)
    u, dt, B, C = (jnp.moveaxis(x, -2, 0) for x in (u, dt, B, C))
    return u, dt, A, B, C


def function(method: str, *, gradient: bool, time_major: bool = False) -> Callable[..., Any]:
    """The jitted scan of (u, dt, A, B, C), or its gradients with respect to all five."""
    forward = functools.partial(scan.selective_scan, method=method, time_major=time_major)
    if not gradient:
        return jax.jit(forward)

    def gradients(u, *rest):
        return jax.vjp(forward, u, *rest)[1](u)  # u is as good a cotangent of y as any, and of its shape

    return jax.jit(gradients)


def _stage(given: setting.Setting, stage: int, shape: tuple[int, ...], gradient: bool) -> Iterator[figures.Figure]:
    kind = "grad" if gradient else "forward"
    arguments = inputs(*shape)
    compared = {name: functools.partial(function(name, gradient=gradient), *arguments) for name in methods()}
    seconds = given.compare(f"scan, {kind}, stage {stage}, (b, k, l, d, n) = {shape}", compared)
    floor = floors.scan_work(*shape, gradient=gradient).seconds(given.rates)
    for name, samples in seconds.items():
        against = {} if name == "associative" else _against(seconds, name)
        yield figures.Figure(
            name=f"scan/stage_{stage}/{name}_{kind}", unit="s", interval=timing.median(samples), floor=floor, **against
        )
    if stage == 0:
        yield figures.Figure(
            name=f"scan/sequential_vs_associative_{kind}",
            unit="x",
            interval=timing.ratio(seconds["associative"], seconds["sequential"]),
        )


def _against(seconds: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    return {"other": "associative", "other_ratio": timing.ratio(seconds["associative"], seconds[name])}


def _scaling(given: setting.Setting, gradient: bool) -> Iterator[figures.Figure]:
    """Time per token by number of tokens, and of the longest sequence over that of the shortest: 1 is linear.

    The steps come first, as in the models.
    """
    kind = "grad" if gradient else "forward"
    d, n, b = given.sizes.scan_stages[0][1], given.sizes.scan_states, given.sizes.scan_scaling_batch
    shapes = {length: (b, DIRECTIONS, length, d, n) for length in given.sizes.scan_lengths}
    scanned = function("auto", gradient=gradient, time_major=True)
    compared = {
        f"{length} tokens": functools.partial(scanned, *_steps_first(shape)) for length, shape in shapes.items()
    }
    seconds = given.compare(f"scan, {kind}, by length", compared)
    per_token = {}
    for (length, shape), samples in zip(shapes.items(), seconds.values(), strict=True):
        tokens = b * length
        per_token[length] = samples / tokens
        yield figures.Figure(
            name=f"scan/per_token_{length}_{kind}",
            unit="us",
            interval=timing.median(per_token[length] * 1e6),
            floor=floors.scan_work(*shape, gradient=gradient).seconds(given.rates) / tokens * 1e6,
        )
    shortest, longest = min(shapes), max(shapes)
    yield figures.Figure(
        name=f"scan/per_token_{longest}_over_{shortest}_{kind}",
        unit="x",
        interval=timing.ratio(per_token[longest], per_token[shortest]),
    )
