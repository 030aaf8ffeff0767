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


def wanted(p, targeted):
    labels = jnp.asarray(p.targets if targeted else p.labels)
    return foolbox.criteria.TargetedMisclassification(labels) if targeted else labels


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
    theirs = foolbox_images(attack, p, wanted(p, targeted), EPSILON[norm])
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


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", norms.NORMS)
def test_mi_fgsm(problem, norm, targeted):
    """Foolbox's loop with the paper's momentum: of itself foolbox accumulates s(gradient), not gradient / mean."""
    names = {"linf": "LinfMomentumIterativeFastGradientMethod", "l2": "L2MomentumIterativeFastGradientMethod"}

    class Published(getattr(foolbox.attacks.mi_fgsm, names[norm])):
        def normalize(self, gradients, *, x, bounds):
            return gradients / gradients.abs().mean(axis=(1, 2, 3), keepdims=True)

    p = problem()
    attack = Published(momentum=1.0, abs_stepsize=STEP_SIZE[norm], steps=STEPS)
    theirs = foolbox_images(attack, p, wanted(p, targeted), EPSILON[norm])
    options = {"norm": norm, "keep": "last", "steps": STEPS, "step_size": STEP_SIZE[norm], "targeted": targeted}
    attack = jax.jit(functools.partial(adversarial.mi_fgsm, p.apply, **options))
    labels = p.targets if targeted else p.labels
    compare(attack(p.variables, p.images, labels, epsilon=EPSILON[norm]), theirs, p, norm)
    plain = jax.jit(functools.partial(attack, decay=0.0))(p.variables, p.images, labels, epsilon=EPSILON[norm])
    assert not np.allclose(plain.images, theirs, atol=1e-4), "the comparison must be of what momentum changes"
