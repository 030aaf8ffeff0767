"""Square Attack against its paper: the schedule's numbers, the bump, the budget, and the success of a NumPy version."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial, statistics
from threats.adversarial import norms, square

QUERIES, EPSILON = 60, {"linf": 0.06, "l2": 0.8}


def published_p(p_init, iteration, iterations):
    """The piecewise constant schedule as it is in the published code."""
    iteration = iteration / iterations * 10_000 + 1e-6
    for power, last in reversed(list(enumerate((10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), start=1))):
        if int(iteration) > last:
            return p_init / 2**power
    return p_init


def published_half(height, width):
    """One half of a bump, by the published loop over growing rectangles."""
    bump = np.zeros((height, width))
    top, left = height // 2, width // 2
    for grown in range(max(height // 2 + 1, width // 2 + 1)):
        rows, columns = (slice(max(first - grown, 0), first + grown + 1) for first in (top, left))
        bump[rows, columns] += 1.0 / (grown + 1) ** 2
    return bump / max(np.linalg.norm(bump), 1e-12)


@functools.cache
def published_bump(side):
    bump = np.concatenate([published_half(side // 2, side), -published_half(side - side // 2, side)])
    return bump / np.linalg.norm(bump)


def place(draws, side, size):
    row, column = draws.integers(0, size - side + 1, 2)
    return slice(row, row + side), slice(column, column + side)


def unit(x, axes=None):
    return x / np.maximum(np.sqrt(np.sum(x**2, axis=axes, keepdims=axes is not None)), 1e-12)


def published_start(draws, x, epsilon, norm):
    size, _, channels = x.shape
    if norm == "linf":
        return np.clip(x + draws.choice([-epsilon, epsilon], (1, size, channels)), 0.0, 1.0)
    offset, side = np.zeros_like(x), size // 5
    first = (size - 5 * side) // 2
    for row in range(first, size - side + 1, side):
        for column in range(first, size - side + 1, side):
            bump = published_bump(side)
            bump = (bump.T if draws.random() > 0.5 else bump)[..., None] * draws.choice([-1, 1], channels)
            offset[row : row + side, column : column + side] = bump
    return np.clip(x + epsilon * unit(offset), 0.0, 1.0)


def published_step(draws, x, best, epsilon, side, norm):
    size, _, channels = x.shape
    here = place(draws, side, size)
    if norm == "linf":
        moved = best.copy()
        moved[here] = x[here] + draws.choice([-epsilon, epsilon], channels)
        return np.clip(moved, 0.0, 1.0)
    there, offset = place(draws, side, size), best - x
    held = np.zeros_like(x)
    held[here], held[there] = offset[here], offset[there]
    unused = max(epsilon**2 - np.sum(offset**2), 0.0) / channels
    bump = published_bump(side)
    bump = (bump.T if draws.random() > 0.5 else bump)[..., None] * draws.choice([-1, 1], channels)
    new = unit(bump + unit(offset[here], (0, 1)), (0, 1)) * np.sqrt(np.sum(held**2, (0, 1)) + unused)
    offset[there] = 0.0
    offset[here] = new
    return np.clip(x + epsilon * unit(offset), 0.0, 1.0)


def published_success(p, norm, epsilon, queries):
    """[b] bool: random search as published, each image with draws of its own, `queries` in all."""
    draws = np.random.default_rng(7)
    apply = functools.partial(p.apply, p.variables, xp=np)

    def margins(images, labels):
        logits = apply(images)
        others = np.where(np.eye(3, dtype=bool)[labels], -np.inf, logits).max(axis=1)
        return np.take_along_axis(logits, labels[:, None], 1)[:, 0] - others

    clean = p.images.astype(np.float64)
    best = np.stack([published_start(draws, x, epsilon, norm) for x in clean])
    least = np.minimum(margins(best, p.labels), np.where(margins(clean, p.labels) < 0, -1.0, np.inf))
    for iteration in range(queries - 2):
        left = np.flatnonzero(least > 0)
        side = max(round(np.sqrt(published_p(0.8, iteration, queries) * p.images.shape[1] ** 2)), 1)
        side = max(side, 3) // 2 * 2 + 1 if norm == "l2" else side
        side = min(side, p.images.shape[1] - (norm == "l2"))
        moved = np.stack([published_step(draws, clean[i], best[i], epsilon, side, norm) for i in left])
        margin = margins(moved, p.labels[left])
        wins = margin < least[left]
        best[left[wins]], least[left[wins]] = moved[wins], margin[wins]
    return least < 0


@pytest.mark.parametrize("queries", [300, 5000, 10_000])
@pytest.mark.parametrize("norm", norms.NORMS)
def test_sides_are_those_of_the_published_schedule(queries, norm):
    plan = square.schedule(queries, 32, 32, norm=norm)
    iterations = np.arange(queries)
    sides = plan.sides[np.searchsorted(plan.changes, iterations, side="right")]
    shares = np.array([published_p(0.8, iteration, queries) for iteration in iterations])
    published = np.maximum(np.rint(np.sqrt(shares * 32 * 32)), 1).astype(int)
    if norm == "l2":
        published = np.maximum(published, 3)
        published += published % 2 == 0
    np.testing.assert_array_equal(sides, published)
    assert sides[0] == 29
    assert sides[-1] == (1 if norm == "linf" else 3)


def test_bumps_are_the_published_ones():
    for side in (1, 2, 3, 6, 7, 13):
        bump = np.asarray(jax.jit(square._bump, static_argnums=1)(side, 13))
        np.testing.assert_allclose(bump[:side, :side], published_bump(side), atol=1e-6)
        assert np.count_nonzero(bump) == side * side


@pytest.mark.parametrize("norm", norms.NORMS)
def test_succeeds_as_often_as_the_published_algorithm(trained, norm):
    p = trained()
    attack = jax.jit(functools.partial(adversarial.square_attack, p.apply, queries=QUERIES, norm=norm))
    ours = attack(p.variables, p.images, p.labels, key=jax.random.key(0), epsilon=EPSILON[norm])
    theirs = published_success(p, norm, EPSILON[norm], QUERIES)
    interval = statistics.wilson(int(theirs.sum()), len(theirs))
    assert 0.2 < interval.value < 0.8
    assert interval.low <= float(ours.success.mean()) <= interval.high


def test_costs_what_it_says_and_stops_when_all_are_fooled(trained):
    p, calls = trained(), []

    def counted(variables, images):
        jax.debug.callback(lambda: calls.append(1))
        return p.apply(variables, images)

    attack = jax.jit(functools.partial(adversarial.square_attack, counted, queries=30))
    for epsilon in (0.001, 0.9):
        calls.clear()
        result = attack(p.variables, p.images[:4], p.labels[:4], key=jax.random.key(0), epsilon=epsilon)
        jax.block_until_ready(result)
        jax.effects_barrier()
        assert bool(result.success.all()) == (epsilon > 0.1)
        assert 2 <= len(calls) < 30 if epsilon > 0.1 else len(calls) == 30


def test_an_image_that_succeeded_is_left_alone(trained):
    """More queries for others change nothing for it: the first success is what comes back."""
    p = trained()
    results = [
        jax.jit(functools.partial(adversarial.square_attack, p.apply, queries=queries, p_init=0.5))(
            p.variables, p.images[:50], p.labels[:50], key=jax.random.key(0), epsilon=0.06
        )
        for queries in (10, 11)
    ]
    done = np.asarray(results[0].success)
    assert 0 < done.sum() < 50
    np.testing.assert_array_equal(results[0].images[done], results[1].images[done])


@pytest.mark.parametrize(
    ("name", "shape"), [("square", (2, 3, 4, 1)), ("square_l2", (2, 7, 12, 2)), ("square_l2", (2, 1, 9, 3))]
)
def test_any_image_shape(name, shape):
    def model(variables, images):
        score = images.mean(axis=(1, 2, 3)) - 0.5
        return jnp.stack([-score, score], axis=-1)

    images = np.full(shape, 0.45, np.float32)
    attack = jax.jit(functools.partial(adversarial.ATTACKS[name].fn, model, None, queries=30))
    result = attack(images, np.zeros(2, np.int32), key=jax.random.key(0), epsilon=0.04)
    assert np.all(norms.NORMS[adversarial.ATTACKS[name].norm].length(result.images - images) <= 0.04 + 1e-6)
    assert np.all(np.asarray(result.loss) > -0.1)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_lowers_for_accelerators(trained, norm):
    p = trained()
    attack = jax.jit(functools.partial(adversarial.square_attack, p.apply, norm=norm))
    exported = jax.export.export(attack, platforms=("tpu", "cuda"))(
        p.variables, jnp.zeros((2, 8, 8, 3)), jnp.zeros(2, jnp.int32), key=jax.random.key(0), epsilon=jnp.float32(0.1)
    )
    assert [out.shape for out in exported.out_avals] == [(2, 8, 8, 3), (2,), (2,)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 1}, "queries must be at least 2, .*, got 1"),
        ({"p_init": 0.0}, r"p_init must be in \(0, 1\], got 0.0"),
        ({"key": None}, "key must be a jax.random.key, got None"),
        ({"epsilon": -0.1}, "epsilon must be 0 or more, got -0.1"),
        ({"norm": "l1"}, "norm must be one of .*, got 'l1'"),
        ({"images": np.zeros((2, 5), np.float32)}, r"images must be \[b, h, w, c\], .* got \(2, 5\)"),
    ],
)
def test_bad_options_are_named(options, message):
    arguments = {"images": np.zeros((2, 4, 4, 1), np.float32), "labels": np.zeros(2, np.int32)}
    arguments |= {"key": jax.random.key(0), "epsilon": 0.1} | options
    with pytest.raises(ValueError, match=message):
        adversarial.square_attack(lambda variables, images: images[:, 0, 0], None, **arguments)
