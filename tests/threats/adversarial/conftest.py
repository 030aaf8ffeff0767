"""Small models and attacks compiled once, for every test of the attacks."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.threats.adversarial.budgets import BUDGETS
from threats import adversarial, outcomes
from threats.adversarial import objectives

SIDE, CLASSES, BATCH = 8, 4, 6


class Problem(NamedTuple):
    """A model with images, labels that most of its decisions agree with, and labels that none does."""

    apply: Any
    variables: Any
    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray


class Verdict(NamedTuple):
    """What the model makes of some images, in NumPy."""

    correct: np.ndarray
    loss: np.ndarray
    decisions: np.ndarray


@jax.jit
def cnn(variables, images):
    """Strided convolution, tanh, dense. Row i of the logits depends on image i only."""
    features = jax.lax.conv_general_dilated(
        images, variables["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(features).reshape(images.shape[0], -1) @ variables["dense"]


@functools.cache
def make_problem(task="multi-class"):
    outputs = 2 if task == "binary" else CLASSES
    draws = np.random.default_rng(0)
    variables = {
        "conv": (0.4 * draws.normal(size=(3, 3, 3, 5))).astype(np.float32),
        "dense": (0.3 * draws.normal(size=((SIDE // 2) ** 2 * 5, outputs))).astype(np.float32),
    }
    images = draws.uniform(size=(BATCH, SIDE, SIDE, 3)).astype(np.float32)
    decided = np.array(outcomes.decisions(cnn(variables, images), task))
    targets = 1 - decided if task == "multi-label" else (decided + 1) % outputs
    labels = decided.copy()
    labels[0] = targets[0]  # One image is wrong from the start.
    return Problem(cnn, variables, images, labels, targets)


@functools.cache
def compile_attack(name, task="multi-class", targeted=False):
    entry = adversarial.get_attack(name)
    options = ({"steps": 5} if entry.iterative else {}) | BUDGETS.get(name, {})
    if "objective" in inspect.signature(entry.fn).parameters:
        # One objective for all, so that what they report compares with one verdict.
        options["objective"] = objectives.cross_entropy(task)
    return jax.jit(functools.partial(entry.fn, cnn, task=task, targeted=targeted, **options))


@functools.cache
def make_trained(count=300):
    """Three noisy patterns and a small network that tells them apart."""
    draws = np.random.default_rng(1)
    labels = np.arange(count, dtype=np.int32) % 3
    patterns = 0.5 + 0.03 * np.kron(draws.normal(size=(3, 4, 4, 3)), np.ones((1, 2, 2, 1)))
    images = patterns[labels] + 0.15 * draws.normal(size=(count, SIDE, SIDE, 3))
    images = np.clip(images, 0.0, 1.0).astype(np.float32)

    def loss(variables):
        return outcomes.loss(mlp(variables, images), labels, "multi-class").mean()

    def step(variables, _):
        return jax.tree.map(lambda v, g: v - 0.3 * g, variables, jax.grad(loss)(variables)), None

    shapes = ((SIDE * SIDE * 3, 16), (16, 3))
    start = tuple((draws.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32) for shape in shapes)
    variables = jax.tree.map(np.asarray, jax.jit(lambda v: jax.lax.scan(step, v, length=100)[0])(start))
    return Problem(mlp, variables, images, labels, (labels + 1) % 3)


def mlp(variables, images, xp=jnp):
    """Dense, tanh, dense, of images around 1/2; with xp=np it is NumPy all through."""
    flat = images.reshape(images.shape[0], -1) - 0.5
    return xp.tanh(flat @ variables[0]) @ variables[1]


@functools.partial(jax.jit, static_argnames=("task", "objective"))
def judge(variables, images, labels, task, objective=objectives.cross_entropy):
    logits = cnn(variables, images)
    return Verdict(
        outcomes.correct(logits, labels, task), objective(task)(logits, labels), outcomes.decisions(logits, task)
    )


@pytest.fixture(scope="session")
def problem():
    """problem(task) -> Problem."""
    return make_problem


@pytest.fixture(scope="session")
def trained():
    """trained() -> Problem; its apply takes xp=np."""
    return make_trained


@pytest.fixture(scope="session")
def compiled():
    """compiled(name, task, targeted) -> jitted (variables, images, labels, *, key, epsilon) -> AttackResult."""
    return compile_attack


@pytest.fixture(scope="session")
def verdict():
    """verdict(variables, images, labels, task, objective factory) -> Verdict."""
    return lambda *arguments: jax.tree.map(np.asarray, judge(*arguments))
