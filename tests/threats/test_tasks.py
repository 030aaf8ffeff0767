"""Outputs that are no `[b, classes]`: a class per pixel, under every attack, an evaluation and a fault campaign."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import threats
from tests.threats.adversarial.conftest import BUDGETS
from threats import adversarial, faults, outcomes, tasks

SIDE, LEAST = 4, 0.75
PIXELS = tasks.pixels(LEAST)
EXACT = ("fgsm", "bim", "mi_fgsm", "pgd", "apgd_ce", "deepfool", "fab_l2", "square", "autoattack")
NEEDED = 5  # wrong pixels of 16 make an image wrong: 11 right ones are fewer than 12


def threshold(variables, images):
    """[b, h, w, c] -> [b, h, w, 2]: two classes, cut at 1/2. What a pixel says depends on that pixel only."""
    return (images - 0.5) * variables["params"]["slope"].reshape(1, 1, 1, 2)


@pytest.fixture(scope="module")
def problem():
    draws = np.random.default_rng(0)
    images = draws.uniform(0.1, 0.9, (6, SIDE, SIDE, 1)).astype(np.float32)
    variables = {"params": {"slope": jnp.array([-8.0, 8.0])}}
    return variables, jnp.asarray(images), jnp.asarray((images[..., 0] > 0.5).astype(np.int32))


def nearest(images, norm):
    """[b] float64, in closed form: the five pixels nearest to 1/2 have to cross it."""
    away = np.sort(np.abs(np.asarray(images, np.float64) - 0.5).reshape(len(images), -1), axis=1)[:, :NEEDED]
    return away[:, -1] if norm == "linf" else np.sqrt((away**2).sum(axis=1))


def test_an_image_is_right_where_enough_of_its_pixels_are():
    labels = jnp.zeros((1, SIDE, SIDE), jnp.int32)
    for wrong in range(SIDE * SIDE + 1):
        margin = np.where(np.arange(SIDE * SIDE) < wrong, 0.3, -0.7).reshape(1, SIDE, SIDE)
        outputs = jnp.asarray(np.stack([np.zeros_like(margin), margin], -1), jnp.float32)
        right = wrong < NEEDED
        assert bool(outcomes.correct(outputs, labels, PIXELS)[0]) == right
        assert float(outcomes.accuracy(outputs, labels, PIXELS)[0]) == pytest.approx(1 - wrong / 16)
        lacking = -0.7 * max(0, NEEDED - wrong) / NEEDED
        assert float(PIXELS.gaps(outputs, labels)[0, 0]) == pytest.approx(lacking if right else 0.3)
        expected = (wrong * np.log1p(np.exp(0.3)) + (16 - wrong) * np.log1p(np.exp(-0.7))) / 16
        assert float(outcomes.loss(outputs, labels, PIXELS)[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", adversarial.ATTACKS)
def test_every_attack_breaks_what_can_be_broken_and_nothing_else(problem, name):
    variables, images, masks = problem
    entry = adversarial.ATTACKS[name]
    options = ({"steps": 30} if entry.iterative else {}) | BUDGETS.get(name, {})
    options |= {"queries": 400} if name.startswith("square") else {}
    attack = jax.jit(functools.partial(entry.fn, threshold, task=PIXELS, **options))
    limit = nearest(images, entry.norm)

    def success(share):
        radius = jnp.asarray(share * limit, jnp.float32)
        return np.asarray(attack(variables, images, masks, key=jax.random.key(0), epsilon=radius).success)

    assert not success(0.97).any()
    # Others spend their steps on pixels that are wrong already, or on ones too far away, and need more than the least.
    assert success(1.05).all() if name in EXACT else success(5.0).mean() >= 0.5


@pytest.mark.parametrize("name", ["deepfool", "fab", "deepfool_l2", "fab_l2"])
def test_the_smallest_perturbation_is_near_the_closed_form(problem, name):
    variables, images, masks = problem
    search = adversarial.deepfool.attack if name.startswith("deepfool") else adversarial.fab.attack
    norm = adversarial.ATTACKS[name].norm
    found = jax.jit(functools.partial(search, threshold, norm=norm, steps=50, task=PIXELS))(variables, images, masks)
    assert bool(found.success.all())
    ratio = np.asarray(found.distance) / nearest(images, norm)
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.5


def test_evaluation_and_fault_campaigns_take_them(problem):
    variables, images, masks = problem
    found = threats.evaluate(
        threshold, variables, images, masks, ["pgd"], [0.5], key=jax.random.key(0), task=PIXELS, check=False
    )
    assert found.robust_accuracy("pgd", 0.5).value == 0.0
    # Both classes fall together, so that every pixel is called dark.
    flip = faults.Faults(*jnp.array([[[0]], [[1]], [[31]]], jnp.int32))
    result = faults.run_trials(threshold, variables, images, masks, faults.weight_sites(variables), flip, task=PIXELS)
    np.testing.assert_allclose(result.accuracy, [1 - masks.mean()], rtol=1e-6)
    np.testing.assert_array_equal(result.sdc, [1.0])
    assert np.isnan(result.auc).all()


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"task must be one of .*'multi-class'.* or tasks\.Rules, got 'segment'"):
        outcomes.decisions(jnp.zeros((1, 2)), "segment")
    with pytest.raises(ValueError, match=r"least must be in \(0, 1\], got 0"):
        tasks.pixels(0)
