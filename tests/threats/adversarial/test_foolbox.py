"""Foolbox as an oracle: the same iterates, step by step, when the last one is asked for without a random start."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import adversarial
from threats.adversarial import norms

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    foolbox = pytest.importorskip("foolbox")

STEPS, STEP_SIZE, EPSILON = 7, {"linf": 0.013, "l2": 0.21}, {"linf": 0.04, "l2": 0.7}


def foolbox_images(attack, p, criterion, epsilon):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.JAXModel(functools.partial(p.apply, p.variables), bounds=(0, 1))
        return np.asarray(attack(model, jnp.asarray(p.images), criterion, epsilons=epsilon)[1])


def compare(ours, theirs, p, norm):
    np.testing.assert_allclose(ours.images, theirs, atol=1e-6, rtol=0)
    lengths = norms.NORMS[norm].length(ours.images - p.images)
    assert np.all(lengths > 0.5 * EPSILON[norm]), "the comparison must be of images that moved"


@pytest.mark.parametrize("norm", norms.NORMS)
def test_fgsm(problem, norm):
    p = problem()
    attack = {"linf": foolbox.attacks.LinfFastGradientAttack, "l2": foolbox.attacks.L2FastGradientAttack}[norm]
    theirs = foolbox_images(attack(random_start=False), p, jnp.asarray(p.labels), EPSILON[norm])
    ours = adversarial.fgsm(p.apply, p.variables, p.images, p.labels, epsilon=EPSILON[norm], norm=norm, keep="last")
    compare(ours, theirs, p, norm)


@pytest.mark.parametrize(
    ("norm", "attack_name", "targeted"),
    [
        ("linf", "LinfProjectedGradientDescentAttack", False),
        ("linf", "LinfBasicIterativeAttack", True),
        ("l2", "L2ProjectedGradientDescentAttack", True),
        ("l2", "L2BasicIterativeAttack", False),
    ],
)
def test_pgd(problem, norm, attack_name, targeted):
    p = problem()
    attack = getattr(foolbox.attacks, attack_name)(abs_stepsize=STEP_SIZE[norm], steps=STEPS, random_start=False)
    criterion = (
        foolbox.criteria.TargetedMisclassification(jnp.asarray(p.targets)) if targeted else jnp.asarray(p.labels)
    )
    theirs = foolbox_images(attack, p, criterion, EPSILON[norm])
    ours = jax.jit(
        functools.partial(
            adversarial.pgd, p.apply, key=None, random_start=False, keep="last", norm=norm,
            steps=STEPS, step_size=STEP_SIZE[norm], targeted=targeted,
        )
    )(p.variables, p.images, p.targets if targeted else p.labels, epsilon=EPSILON[norm])  # fmt: skip
    compare(ours, theirs, p, norm)


@pytest.mark.parametrize(("norm", "candidates"), [("l2", None), ("linf", 2)])
def test_deepfool(problem, norm, candidates):
    """The same steps; Foolbox counts the class itself among the candidates."""
    p = problem()
    attack = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[norm]
    theirs = foolbox_images(
        attack(steps=10, candidates=candidates and candidates + 1), p, jnp.asarray(p.labels), epsilon=None
    )
    attack = functools.partial(adversarial.deepfool.attack, p.apply, norm=norm, steps=10, candidates=candidates)
    ours = jax.jit(attack)(p.variables, p.images, p.labels)
    assert bool(ours.success.all())
    np.testing.assert_allclose(ours.images, theirs, atol=1e-6, rtol=0)
    np.testing.assert_allclose(ours.distance, norms.NORMS[norm].length(theirs - p.images), atol=1e-6)
    assert float(ours.distance[0]) == 0.0, "wrong from the start"
    assert float(ours.distance[1:].min()) > 0.0


@pytest.mark.parametrize(("targeted", "confidence"), [(False, 0.0), (True, 0.3)])
def test_carlini_wagner(problem, targeted, confidence):
    """The same iterates of the same searches, where Foolbox is kept from stopping early."""
    p = problem()
    options = {"steps": 15, "confidence": confidence}
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=3, stepsize=0.05, initial_const=0.5, abort_early=False, **options
    )
    criterion = (
        foolbox.criteria.TargetedMisclassification(jnp.asarray(p.targets)) if targeted else jnp.asarray(p.labels)
    )
    theirs = foolbox_images(attack, p, criterion, epsilon=None)
    ours = jax.jit(
        functools.partial(
            adversarial.carlini_wagner.attack, p.apply, searches=3, learning_rate=0.05, initial_c=0.5,
            targeted=targeted, **options,
        )
    )(p.variables, p.images, p.targets if targeted else p.labels)  # fmt: skip
    assert bool(ours.success.all())
    np.testing.assert_allclose(ours.images, theirs, atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours.distance, norms.NORMS["l2"].length(theirs - p.images), rtol=1e-5, atol=1e-5)
