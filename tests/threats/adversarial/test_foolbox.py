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
