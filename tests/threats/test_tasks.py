"""Outputs that are no `[b, classes]`: a class per pixel, under every attack, an evaluation and a fault campaign."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import threats
from tests.threats.adversarial.budgets import BUDGETS
from threats import adversarial, faults, outcomes, tasks

SIDE, LEAST = 4, 0.75
PIXELS = tasks.pixels(LEAST)
# Least radii, over the closed form, at which an attack broke every image when this was written; 5 where none is named.
# Others spend their steps on pixels that are wrong already, or on ones too far away.
REACH = {
    **dict.fromkeys(("fgsm", "bim", "mi_fgsm", "pgd", "apgd_ce", "deepfool", "fab_l2", "square", "autoattack"), 1.05),
    **dict.fromkeys(("deepfool_l2", "cw_l2", "autoattack_l2", "apgd_dlr_l2", "apgd_t_l2", "fab"), 1.5),
}
ONE_LENGTH_FOR_ALL = ("fgsm_l2", "mi_fgsm_l2", "r_fgsm")
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
        lacking, beyond = -0.7 * (NEEDED - wrong) / NEEDED, 0.3 * (wrong - NEEDED + 1) / (16 - NEEDED + 1)
        assert float(PIXELS.gaps(outputs, labels)[0, 0]) == pytest.approx(lacking if right else beyond)
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
    assert success(REACH.get(name, 5.0)).mean() >= (0.5 if name in ONE_LENGTH_FOR_ALL else 1.0)


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


@pytest.mark.parametrize(("name", "share", "least"), [("pgd", 1.05, 1.0), ("apgd_dlr", 3.0, 0.5), ("fab", 1.5, 0.5)])
def test_a_mask_that_is_asked_for(problem, name, share, least):
    variables, images, masks = problem
    attack = functools.partial(adversarial.ATTACKS[name].fn, threshold, task=PIXELS, targeted=True, steps=30)
    away = np.sort(np.abs(np.asarray(images, np.float64) - 0.5).reshape(len(images), -1), axis=1)
    limit = away[:, 16 - NEEDED]  # 12 pixels have to cross

    def success(share):
        radius = jnp.asarray(share * limit, jnp.float32)
        return np.asarray(jax.jit(attack)(variables, images, 1 - masks, key=jax.random.key(0), epsilon=radius).success)

    assert not success(0.97).any()
    assert success(share).mean() >= least


def test_rules_of_your_own():
    """A number is asked for, to a tolerance: in a model that takes the mean, the closed form is tolerance - error."""
    tolerance = 0.1

    def missed(outputs, labels):
        return jnp.abs(outputs - labels) - tolerance

    own = tasks.Rules(
        decisions=lambda outputs: jnp.round(outputs / tolerance).astype(jnp.int32),
        accuracy=lambda outputs, labels: missed(outputs, labels) <= 0,
        correct=lambda outputs, labels: missed(outputs, labels) <= 0,
        loss=lambda outputs, labels: jnp.square(outputs - labels),
        gaps=lambda outputs, labels: missed(outputs, labels)[:, None],
    )
    images = jnp.asarray(np.random.default_rng(0).uniform(0.3, 0.7, (5, 4, 4, 1)), jnp.float32)
    labels = jnp.mean(images, (1, 2, 3)) + jnp.array([-0.06, -0.02, 0.01, 0.05, 0.2])
    needed = np.maximum(tolerance - np.abs(np.asarray([-0.06, -0.02, 0.01, 0.05, 0.2])), 0)
    for name in ("pgd", "apgd_t", "deepfool", "square"):
        attack = functools.partial(adversarial.ATTACKS[name].fn, lambda variables, x: jnp.mean(x, (1, 2, 3)), None)
        run = jax.jit(functools.partial(attack, task=own))
        radii = [jnp.asarray(share * needed, jnp.float32) for share in (0.95, 1.06)]
        near, far = (run(images, labels, key=jax.random.key(0), epsilon=radius).success for radius in radii)
        assert near.tolist() == [False] * 4 + [True], name
        assert far.all(), name


def test_evaluation_and_fault_campaigns_take_them(problem):
    variables, images, masks = problem
    found = threats.evaluate(
        threshold, variables, images, masks, ["pgd"], [0.5], key=jax.random.key(0), task=PIXELS, check=False
    )
    assert found.robust_accuracy("pgd", 0.5).value == 0.0
    # Both classes fall together, so that every pixel is called dark.
    flip = faults.Faults(*jnp.array([[[0]], [[1]], [[31]]], jnp.int32))
    table = faults.weight_sites(variables)
    for options in ({}, {"images_at_once": 4}):
        result = faults.run_trials(threshold, variables, images, masks, table, flip, task=PIXELS, **options)
        np.testing.assert_allclose(result.accuracy, [1 - masks.mean()], rtol=1e-6)
        np.testing.assert_array_equal(result.sdc, [1.0])
        assert np.isnan(result.auc).all()


def test_a_campaign_takes_them_but_not_with_a_metric_that_they_lack(problem):
    def run(metric):
        spec = threats.CampaignSpec(trials=64, metric=metric)
        return threats.run_campaign(threshold, *problem, spec, key=jax.random.key(0), task=PIXELS)

    found = run("sdc")
    assert 0 < found.overall("sdc").value < 1
    assert found.accuracy == 1.0
    with pytest.raises(ValueError, match=r"metric must not be 'auc'"):
        run("auc")


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"task must be one of .*'multi-class'.* or tasks\.Rules, got 'segment'"):
        outcomes.decisions(jnp.zeros((1, 2)), "segment")
    with pytest.raises(ValueError, match=r"got \['binary'\]"):
        outcomes.decisions(jnp.zeros((1, 2)), ["binary"])
    with pytest.raises(ValueError, match=r"labels must be \(1, 4, 4\), a class for each pixel, got \(1, 4, 4, 1\)"):
        outcomes.accuracy(jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 1), jnp.int32), PIXELS)
    with pytest.raises(ValueError, match=r"least must be in \(0, 1\], got 0"):
        tasks.pixels(0)
