"""Small models and attacks compiled once, for every test of the attacks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    options = {"steps": 5} if entry.iterative else {}
    return jax.jit(functools.partial(entry.fn, cnn, task=task, targeted=targeted, **options))


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
def compiled():
    """compiled(name, task, targeted) -> jitted (variables, images, labels, *, key, epsilon) -> AttackResult."""
    return compile_attack


@pytest.fixture(scope="session")
def verdict():
    """verdict(variables, images, labels, task, objective factory) -> Verdict."""
    return lambda *arguments: jax.tree.map(np.asarray, judge(*arguments))
