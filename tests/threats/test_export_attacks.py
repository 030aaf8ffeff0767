"""Attacks and occlusion lower for TPU and CUDA on a machine that has neither, and their docstrings' examples run."""

import doctest
import functools

import jax
import jax.export
import jax.numpy as jnp
import pytest

from threats import adversarial, draws, occlusion
from threats.adversarial import (
    autopgd,
    carlini_wagner,
    deepfool,
    ensembles,
    fab,
    gradient,
    hop_skip_jump,
    norms,
    objectives,
    spsa,
    square,
    stochastic,
    universal,
)

PLATFORMS = ("tpu", "cuda")


def cnn(variables, images):
    features = jax.lax.conv_general_dilated(
        images, variables["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(features).mean(axis=(1, 2)) @ variables["dense"]


VARIABLES = {"conv": jnp.ones((3, 3, 3, 4)), "dense": jnp.ones((4, 5))}
IMAGES, LABELS = jnp.zeros((2, 8, 8, 3)), jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pgd", {"restarts": 2}),
        ("pgd_l2", {"restarts": 2}),
        ("apgd_t_l2", {"restarts": 2}),
        ("autoattack", {"queries": 5}),
        ("deepfool_l2", {}),
        ("cw_l2", {}),
        ("fab", {"restarts": 2}),
        ("fab_l2", {}),
    ],
)
def test_attacks_lower_for_accelerators(name, options):
    attack = jax.jit(functools.partial(adversarial.ATTACKS[name].fn, cnn, steps=3, **options))
    exported = jax.export.export(attack, platforms=PLATFORMS)(
        VARIABLES, IMAGES, LABELS, key=jax.random.key(0), epsilon=jnp.float32(0.1)
    )
    assert exported.platforms == PLATFORMS
    assert [out.shape for out in exported.out_avals] == [(2, 8, 8, 3), (2,), (2,)]


def test_occlusion_lowers_for_accelerators():
    def occlude(variables, key, images, share):
        salient = occlusion.salient_order(cnn, variables, images, grid=4)
        drop = functools.partial(occlusion.patch_drop, images, information_loss=share, grid=4)
        fills = [occlusion.make_fill(key, images, name=name) for name in occlusion.FILLS]
        scan = occlusion.scan_order(2, direction="columns_reversed", grid=4)
        return drop(salient), drop(occlusion.random_order(key, 2, grid=4)), [drop(scan, fill=fill) for fill in fills]

    exported = jax.export.export(jax.jit(occlude), platforms=PLATFORMS)(
        VARIABLES, jax.random.key(0), IMAGES, jnp.float32(0.5)
    )
    assert exported.platforms == PLATFORMS


MODULES = [autopgd, carlini_wagner, deepfool, draws, ensembles, fab, gradient, hop_skip_jump, norms, objectives]
MODULES += [occlusion, spsa, square, stochastic, universal]


@pytest.mark.parametrize("module", [*MODULES, occlusion.fills, occlusion.orders, occlusion.patches])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0 or module is norms
