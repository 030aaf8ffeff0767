"""ResNet-18 and ViT-Ti: the published sizes, the reference padding, and the arithmetic against NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mamba_jax.models import resnet, vit


def run(module, variables, images, **options):
    apply = jax.jit(lambda v, x: module.apply(v, x, **options))
    return apply(variables, images)


def drawn(module, images, *, scale):
    """Variables and images at random, running variances positive: at initial values, some parts hardly speak."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=images), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=scale, size=leaf.shape), jnp.float32), shapes)
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(lambda leaf: 0.5 + jnp.abs(leaf), variables["batch_stats"])
    return variables, images


def abstract(module, side, channels=3, **options):
    """Shapes of the variables, and of what `apply` returns for two images."""
    images = jnp.zeros((2, side, side, channels))
    variables = jax.eval_shape(module.init, jax.random.key(0), images[:1])
    return variables, jax.eval_shape(lambda v, x: module.apply(v, x, **options), variables, images)


@pytest.mark.parametrize(
    ("module", "side", "parameters"),
    [
        # Without the biases of the convolutions, at 10 classes: the usual network for 32 px.
        (resnet.ResNet18(10, small_stem=True), 32, 11_173_962),
        (resnet.ResNet18(1000, small_stem=False), 224, 11_689_512),
        (vit.ViTTiny(1000), 224, 5_717_416),
    ],
)
def test_parameter_counts_are_the_published_ones(module, side, parameters):
    variables, logits = abstract(module, side)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert logits.shape == (2, module.num_classes)


@pytest.mark.parametrize(("side", "sides"), [(28, (28, 28, 14, 7, 4)), (224, (56, 56, 28, 14, 7))])
def test_resnet_keeps_the_resolution_of_small_images(side, sides):
    module = resnet.ResNet18(8, small_stem=side < 64)
    _, (logits, sown) = abstract(module, side, channels=1, mutable=["tap_values"])
    values = sown["tap_values"]
    assert logits.shape == (2, 8)
    maps = [values["stem"]["out"][0], *(values[f"stages_{i}"]["block_1"]["out"][0] for i in range(4))]
    assert [value.shape for value in maps] == [
        (2, s, s, c) for s, c in zip(sides, (64, 64, 128, 256, 512), strict=True)
    ]
    assert values["stages_3"]["block_0"]["conv_branch"][0].shape == maps[-1].shape


def test_resnet_block_matches_numpy():
    """Stride 2 with one pixel of padding on each side, the shortcut's own convolution, batch statistics."""
    module = resnet.ResNet18(2)
    variables, images = drawn(module, (3, 8, 8, 3), scale=0.05)
    _, state = run(module, variables, images, train=True, mutable=["tap_values", "batch_stats"])
    values = state["tap_values"]
    x = np.asarray(values["stages_0"]["block_1"]["out"][0], np.float64)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["stages_1"]["block_0"])
    first = convolved(x, p["conv_0"]["kernel"], 2)
    branch = convolved(np.maximum(normalised(first, p["bn_0"]), 0), p["conv_1"]["kernel"], 1)
    shortcut = normalised(convolved(x, p["shortcut_conv"]["kernel"], 2), p["shortcut_bn"])
    expected = np.maximum(normalised(branch, p["bn_1"]) + shortcut, 0)
    np.testing.assert_allclose(values["stages_1"]["block_0"]["out"][0], expected, rtol=1e-4, atol=1e-5)

    before, after = (v["batch_stats"]["stages_1"]["block_0"]["bn_0"]["var"] for v in (variables, state))
    moved = 0.9 * before + 0.1 * first.var((0, 1, 2), ddof=0) * 48 / 47
    np.testing.assert_allclose(after, moved, rtol=1e-4)


def convolved(x, kernel, stride):
    """Cross-correlation of [b, h, w, c] with [k, k, c, d], zero-padded by k // 2."""
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows[:, ::stride, ::stride], kernel, optimize=True)


def normalised(x, p):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]


def test_vit_matches_numpy():
    module = vit.ViTTiny(5, normalize=None, patch_size=4, dim=12, depth=1, heads=3, mlp_dim=20)
    variables, images = drawn(module, (2, 8, 8, 1), scale=0.5)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

    patches = np.asarray(images, np.float64).repeat(3, -1).reshape(2, 2, 4, 2, 4, 3).swapaxes(2, 3).reshape(2, 4, 48)
    x = patches @ p["patch_embed"]["proj"]["kernel"].reshape(48, 12) + p["patch_embed"]["proj"]["bias"]
    x = np.concatenate([np.broadcast_to(p["class_token"], (2, 1, 12)), x], 1) + p["positions"]
    block = p["block_0"]
    x = x + attended(layer_normed(x, block["norm_0"]), block["attention"])
    hidden = layer_normed(x, block["norm_1"]) @ block["mlp_in"]["kernel"] + block["mlp_in"]["bias"]
    hidden = hidden * scipy.special.ndtr(hidden)
    x = x + hidden @ block["mlp_out"]["kernel"] + block["mlp_out"]["bias"]
    expected = layer_normed(x[:, 0], p["norm"]) @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(run(module, variables, images), expected, rtol=1e-4, atol=1e-4)


def layer_normed(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def attended(x, p):
    q, k, v = (np.einsum("btc,chd->bhtd", x, p[n]["kernel"]) + p[n]["bias"][:, None] for n in ("query", "key", "value"))
    weights = scipy.special.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), axis=-1)
    return np.einsum("bhtd,hdc->btc", weights @ v, p["out"]["kernel"]) + p["out"]["bias"]


def test_vit_patches_follow_the_image_side():
    tokens = {}
    for side in (28, 64, 128, 224):
        _, (_, sown) = abstract(vit.ViTTiny(8, depth=1), side, mutable=["tap_values"])
        tokens[side] = sown["tap_values"]["patch_embed"]["out"][0].shape[1]
        assert set(sown["tap_values"]["block_0"]) == {"attention_branch", "mlp_branch", "out"}
    assert tokens == {28: 49, 64: 64, 128: 64, 224: 196}
    with pytest.raises(ValueError, match=r"patch_size must divide the image's .*30 px, got 4"):
        abstract(vit.ViTTiny(8, depth=1), 30)


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (vit.ViTTiny(4, dim=12, depth=1, heads=2, mlp_dim=8), ("block_0", "out")),
        (resnet.ResNet18(4), ("stages_3", "block_1", "out")),
    ],
    ids=["vit_ti", "resnet18"],
)
def test_a_tap_replaces_its_activation_and_rows_stay_apart(module, path):
    variables, images = drawn(module, (3, 8, 8, 3), scale=0.1)
    entry = jax.tree_util.Partial(lambda row, x: x.at[row].set(0.0), 1)
    for name in reversed(path):
        entry = {name: entry}
    clean = run(module, variables, images)
    faulty = run(module, {**variables, "taps": entry}, images)
    changed = np.max(np.abs(faulty - clean), axis=-1) > 1e-4 * np.max(np.abs(clean))
    np.testing.assert_array_equal(changed, [False, True, False])
    swapped = run(module, variables, images[::-1])
    np.testing.assert_allclose(swapped[::-1], clean, rtol=1e-4)
