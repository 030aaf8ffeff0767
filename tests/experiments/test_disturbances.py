"""Image threats' stages on a model that only adds up pixels: what they compute once, count, and call."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tqdm

from experiments.settings import config
from experiments.stages import adversarial, batched, corruption, measures, occlusion
from experiments.storage import records
from mamba_jax import data
from threats import ATTACKS, corruptions, statistics
from threats import occlusion as library


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
        self.dataset = types.SimpleNamespace(name="cells", image_size=28)
        self.apply = jax.jit(_apply)

    def bar(self, total, what):
        return tqdm.tqdm(total=total, disable=True)

    def test_images(self, count):
        return self.split

    def key(self, *names):
        return jax.random.key(len(names))

    def map(self, function, split, *, key, bar=None):
        return batched.map_batches(function, split, batch_size=4, key=key, bar=bar)


def test_the_salient_orders_take_one_gradient_per_batch(monkeypatch):
    ctx, ranked = _Context(), []
    order = jax.jit(lambda variables, images: jnp.tile(jnp.arange(16), (len(images), 1)))
    counted = lambda variables, images: ranked.append(len(images)) or order(variables, images)  # noqa: E731
    monkeypatch.setattr(occlusion, "_salient", lambda *arguments: counted)
    methods = [occlusion.Method(mode, fill) for mode in ("salient", "non_salient") for fill in ("zero", "mean")]
    found = ctx.map(occlusion._logits(ctx, methods), ctx.split, key=jax.random.key(0))
    assert ranked == [4, 4]
    pixels = np.asarray(data.to_float(ctx.split.images))
    clean = pixels.mean((1, 2, 3))
    for mode, half in (("salient", pixels[:, 4:]), ("non_salient", pixels[:, :4])):
        kept = half.mean((1, 2, 3)) / 2
        for name, fill in ((mode, np.zeros(6)), (f"{mode}/mean", clean)):
            expected = np.stack([clean, kept + fill / 2, fill], axis=1)
            np.testing.assert_allclose(found[name][..., 0], expected, atol=1e-6)


def test_a_scan_hides_the_half_that_it_meets_first():
    ctx = _Context()
    methods = [occlusion.Method(mode, "zero") for mode in config.OCCLUSION_MODES[3:]]
    found = ctx.map(occlusion._logits(ctx, methods), ctx.split, key=jax.random.key(0))
    pixels = np.asarray(data.to_float(ctx.split.images))
    left = {"rows": pixels[:, 4:], "columns": pixels[:, :, 4:]}
    left |= {"rows_reversed": pixels[:, :4], "columns_reversed": pixels[:, :, :4]}
    assert set(found) == {f"scan_{name}" for name in left}
    for name, half in left.items():
        np.testing.assert_allclose(found[f"scan_{name}"][:, 1, 0], half.mean((1, 2, 3)) / 2, atol=1e-6)


def test_what_is_random_is_drawn_again_and_nothing_else(monkeypatch):
    ctx, passes, kept = _Context(modes=("random", "scan_rows"), fills=("zero", "blur", "noise")), [], []
    original = occlusion._logits
    monkeypatch.setattr(occlusion, "_logits", lambda _, methods: passes.append(methods) or original(ctx, methods))
    monkeypatch.setattr(occlusion.pictures, "keep", lambda ctx, stage, columns: kept.extend(columns))
    rows = occlusion.run(ctx)
    names = ["random", "scan_rows", "random/blur", "scan_rows/blur", "random/noise", "scan_rows/noise"]
    assert [[method.name for method in methods] for methods in passes] == [names, [*names[:1], *names[2::2], names[5]]]
    assert list(dict.fromkeys(row.method for row in rows)) == names
    assert {row.interval.count for row in rows} == {6}
    shown = ["random", "scan rows", "random, blur", "random, noise"]
    assert kept == [f"{title}\n50 % of patches" for title in shown]


def test_draws_of_noise_differ_and_leave_the_patch_orders_as_they_were():
    ctx = _Context(information_losses=(0.5,))
    noise, black = occlusion.Method("scan_rows", "noise"), occlusion.Method("random", "zero")
    keys = [jax.random.key(draw) for draw in range(2)]
    found = [ctx.map(occlusion._logits(ctx, [black, noise]), ctx.split, key=key) for key in keys]
    assert np.all(found[0][noise.name] != found[1][noise.name]), "every image has noise of its own in each draw"
    for key, both in zip(keys, found, strict=True):
        alone = ctx.map(occlusion._logits(ctx, [black]), ctx.split, key=key)
        np.testing.assert_array_equal(alone[black.name], both[black.name])
        batch = np.asarray(data.to_float(ctx.split.images[:4]))
        ranks = library.random_order(jax.random.fold_in(key, 0), 4, grid=4)
        expected = _apply(None, library.patch_drop(batch, ranks, information_loss=0.5, grid=4))
        np.testing.assert_allclose(both[black.name][:4, 0], expected, atol=1e-6)


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
    found = occlusion._measure(draws, split, "multi-class", 0)
    assert found["accuracy"] == statistics.mean([1.0, 0.5, 0.0, 0.0], bounds=(0, 1))
    assert found["nonfinite"] == statistics.wilson(1, 4)
    assert occlusion._measure(draws[:1], split, "multi-class", 0)["accuracy"] == measures.of_images([1, 1, 0, 0])


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
    assert corruption._compiled(name, corruption.preset(ctx, name))._cache_size() == programs
