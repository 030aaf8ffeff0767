"""Image threats' stages on a model that only adds up pixels: what they compute once, count, and call."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.settings import config
from experiments.stages import adversarial, batched, corruption, measures, occlusion
from experiments.storage import records
from mamba_jax import data
from threats import ATTACKS, corruptions, statistics


def _apply(variables, images):
    mean = images.mean(axis=(1, 2, 3))
    return jnp.stack([mean, 0.2 - mean], axis=-1)


class _Context:
    """The part of `context.Context` that these stages use."""

    task, variables = "multi-class", None

    def __init__(self, **options):
        pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
        self.split = data.Split(pixels, np.array([0, 1, 0, 0, 1, 0], np.int32))
        settings = {"information_losses": (0.0, 0.5, 1.0), "draws": 2, "grid": 4, **options}
        self.config = types.SimpleNamespace(
            occlusion=config.OcclusionConfig(**settings), corruption=config.CorruptionConfig(), seed=0
        )
        self.model = types.SimpleNamespace(apply=_apply)
        self.apply = jax.jit(_apply)

    def key(self, *names):
        return jax.random.key(len(names))

    def map(self, function, split, *, key, bar=None):
        return batched.map_batches(function, split, batch_size=4, key=key, bar=bar)


def test_the_salient_orders_take_one_gradient_per_batch(monkeypatch):
    ctx, ranked = _Context(), []
    order = jax.jit(lambda variables, images: jnp.tile(jnp.arange(16), (len(images), 1)))
    counted = lambda variables, images: ranked.append(len(images)) or order(variables, images)  # noqa: E731
    monkeypatch.setattr(occlusion, "_salient", lambda *arguments: counted)
    modes = ["salient", "non_salient"]
    found = ctx.map(occlusion._logits(ctx, modes), ctx.split, key=jax.random.key(0))
    assert ranked == [4, 4]
    pixels = np.asarray(data.to_float(ctx.split.images))
    for mode, half in (("salient", pixels[:, 4:]), ("non_salient", pixels[:, :4])):
        expected = np.stack([pixels.mean((1, 2, 3)), half.mean((1, 2, 3)) / 2, np.zeros(6)], axis=1)
        np.testing.assert_allclose(found[mode][..., 0], expected, atol=1e-6)


def test_the_gallery_shows_the_corruptions_that_cost_most():
    def row(name, severity, accuracy):
        return records.Measurement("corruption", name, severity, "accuracy", statistics.wilson(accuracy, 100))

    rows = [row(f"c{i}", severity, 90 - severity * i) for i in range(9) for severity in (0, 5)]
    assert corruption._shown(rows, 5) == [f"c{i}" for i in range(3, 9)]
    assert corruption._shown(rows[:6], 5) == ["c0", "c1", "c2"]


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_can_be_asked_for(name):
    settings = config.AdversarialConfig(attacks=(name,), pgd_steps=3, restarts=2)
    attack = adversarial._compiled(_apply, name, "multi-class", settings.pgd_steps, settings.restarts)
    images, labels = jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32)
    attacked, success = jax.eval_shape(attack, None, images, labels, jax.random.key(0), jnp.float32(0.1))
    assert (attacked.shape, success.shape) == (images.shape, labels.shape)


def test_draws_of_one_image_are_one_observation():
    split = data.Split(np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, np.int32))
    right, wrong, broken = [1.0, 0.0], [0.0, 1.0], [np.nan, 0.0]
    draws = [np.array(rows) for rows in ([right, right, wrong, broken], [right, wrong, wrong, broken])]
    found = occlusion._measure(draws, split, "multi-class")
    assert found["accuracy"] == statistics.mean([1.0, 0.5, 0.0, 0.0], bounds=(0, 1))
    assert found["nonfinite"] == statistics.wilson(1, 4)
    assert occlusion._measure(draws[:1], split, "multi-class")["accuracy"] == measures.of_images([1, 1, 0, 0])


@pytest.mark.parametrize(
    "name", [*(name for name, entry in corruptions.CORRUPTIONS.items() if entry.traceable), "defocus_blur", "pixelate"]
)
def test_corruptions_compile_once_where_the_severity_may_be_traced(name):
    corruption._compiled.cache_clear()
    ctx, key = _Context(), jax.random.key(1)
    images = jnp.asarray(np.random.default_rng(1).random((2, 32, 32, 3), np.float32))
    for severity in (1, 5, 5):
        found = corruption._corrupted(ctx, name, severity)(key, images, None)
        expected = corruptions.corrupt(key, images, name=name, severity=severity)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    programs = 1 if corruptions.CORRUPTIONS[name].traceable else 2
    assert corruption._compiled(name, None)._cache_size() == programs
