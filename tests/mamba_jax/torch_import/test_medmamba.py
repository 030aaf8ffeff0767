"""The published names and layouts against ours, on a checkpoint in which every number occurs once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mamba_jax import torch_import

DEPTHS, DIM, PATCH, CLASSES, STATES = (1, 2, 1, 1), 8, 2, 5, 16


def published_shapes():
    """Names and shapes of the published network with `DEPTHS` blocks."""
    shapes = {"patch_embed.proj.weight": (DIM, 3, PATCH, PATCH), "patch_embed.proj.bias": (DIM,)}
    shapes |= norm_shapes("patch_embed.norm", DIM)
    for i, depth in enumerate(DEPTHS):
        dim = DIM * 2**i
        for j in range(depth):
            shapes |= block_shapes(f"layers.{i}.blocks.{j}", dim // 2)
        if i < 3:
            shapes[f"layers.{i}.downsample.reduction.weight"] = (2 * dim, 4 * dim)
            shapes |= norm_shapes(f"layers.{i}.downsample.norm", 4 * dim)
    return shapes | {"head.weight": (CLASSES, 8 * DIM), "head.bias": (CLASSES,)}


def norm_shapes(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def block_shapes(name, c):
    d, rank = 2 * c, math.ceil(c / 16)
    ssm, branch = f"{name}.self_attention", f"{name}.conv33conv33conv11"
    shapes = {
        f"{ssm}.x_proj_weight": (4, rank + 2 * STATES, d),
        f"{ssm}.dt_projs_weight": (4, d, rank),
        f"{ssm}.dt_projs_bias": (4, d),
        f"{ssm}.A_logs": (4 * d, STATES),
        f"{ssm}.Ds": (4 * d,),
        f"{ssm}.in_proj.weight": (2 * d, c),
        f"{ssm}.conv2d.weight": (d, 1, 3, 3),
        f"{ssm}.conv2d.bias": (d,),
        f"{ssm}.out_proj.weight": (c, d),
    }
    shapes |= norm_shapes(f"{name}.ln_1", c) | norm_shapes(f"{ssm}.out_norm", d)
    for index, size in (("1", 3), ("4", 3), ("7", 1)):
        shapes |= {f"{branch}.{index}.weight": (c, c, size, size), f"{branch}.{index}.bias": (c,)}
    for index in ("0", "2", "5"):
        shapes |= norm_shapes(f"{branch}.{index}", c)
        shapes |= {f"{branch}.{index}.{s}": (c,) for s in ("running_mean", "running_var")}
        shapes[f"{branch}.{index}.num_batches_tracked"] = ()
    return shapes


@pytest.fixture(scope="module")
def published():
    """Every weight is another integer; the counters, which are dropped, are -1."""
    tensors, count = {}, 0
    for name, shape in published_shapes().items():
        size = math.prod(shape)
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.full(shape, -1, np.int64)
        else:
            tensors[name] = np.arange(count, count + size, dtype=np.float32).reshape(shape)
            count += size
    return tensors


@pytest.fixture
def save(tmp_path):
    def save(tensors):
        path = tmp_path / "net.safetensors"
        safetensors.numpy.save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path)
        return path

    return save


def test_the_configuration_is_inferred_and_every_number_used_once(published, save):
    model, variables = torch_import.load_medmamba(save(published))
    config = model.config
    assert (config.depths, config.dims) == (DEPTHS, (8, 16, 32, 64))
    assert (config.patch_size, config.num_classes, config.image_size) == (PATCH, CLASSES, 28)
    assert config.normalize == (0.5, 0.5)

    expected = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), dict(expected)
    )
    numbers = np.sort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)]))
    np.testing.assert_array_equal(numbers, np.arange(numbers.size))
    assert numbers.size == sum(tensor.size for tensor in published.values() if np.all(tensor >= 0))


def test_packed_weights_are_taken_apart_and_layouts_turned(published, save):
    _, variables = torch_import.load_medmamba(save(published))
    block = variables["params"]["stages_1"]["block_1"]
    source = {
        n.removeprefix("layers.1.blocks.1."): t for n, t in published.items() if n.startswith("layers.1.blocks.1")
    }
    ssm = {name.removeprefix("self_attention."): tensor for name, tensor in source.items()}
    x_proj, d, rank = ssm["x_proj_weight"], 16, 1
    pairs = [
        (block["ssm"]["in_proj"]["kernel"], ssm["in_proj.weight"][:d].T),
        (block["ssm"]["gate_proj"]["kernel"], ssm["in_proj.weight"][d:].T),
        (block["ssm"]["dt_down"][2], x_proj[2, :rank].T),
        (block["ssm"]["B_proj"][2], x_proj[2, rank : rank + STATES].T),
        (block["ssm"]["C_proj"][2], x_proj[2, rank + STATES :].T),
        (block["ssm"]["dt_up"][3], ssm["dt_projs_weight"][3].T),
        (block["ssm"]["A_log"][1, 5], ssm["A_logs"][1 * d + 5]),
        (block["ssm"]["D"][3, 7], ssm["Ds"][3 * d + 7]),
        (block["ssm"]["conv"]["kernel"][0, 2, 0], ssm["conv2d.weight"][:, 0, 0, 2]),
        (block["conv"]["conv_1"]["kernel"][2, 0], source["conv33conv33conv11.4.weight"][:, :, 2, 0].T),
        (block["conv"]["bn_2"]["scale"], source["conv33conv33conv11.5.weight"]),
        (variables["params"]["head"]["kernel"], published["head.weight"].T),
    ]
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
    statistics = variables["batch_stats"]["stages_1"]["block_1"]["conv"]["bn_1"]
    np.testing.assert_array_equal(statistics["var"], source["conv33conv33conv11.2.running_var"])


def test_options_and_a_parallel_prefix_and_half_precision_are_taken(published, save):
    halved = {n: np.minimum(t, 1000).astype(np.float16) for n, t in published.items() if t.dtype == np.float32}
    tensors = {f"module.{name}": tensor for name, tensor in (published | halved).items()}
    model, variables = torch_import.load_medmamba(
        save(tensors), normalize=None, image_size=64, in_channels=1, scan_method="associative", drop_path_rate=0.0
    )
    assert (model.config.normalize, model.config.image_size, model.config.in_channels) == (None, 64, 1)
    assert (model.config.scan_method, model.config.drop_path_rate) == ("associative", 0.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_missing_and_unknown_tensors_are_listed_in_one_line(published, save):
    tensors = without(published, "layers.2.blocks.0.self_attention.Ds") | {"classifier.weight": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        torch_import.load_medmamba(save(tensors))
    message = str(caught.value)
    assert "missing: layers.2.blocks.0.self_attention.Ds; unknown: classifier.weight" in message
    with pytest.raises(ValueError, match=r"missing: .*, .* and \d+ more; unknown: w$"):
        torch_import.load_medmamba(save({"w": np.zeros(3, np.float32)}))


def test_the_architecture_before_april_2024_is_named(published, save):
    tensors = published | {"layers.0.blocks.0.finalconv11.weight": np.zeros((8, 8, 1, 1), np.float32)}
    with pytest.raises(ValueError, match=r"finalconv11.* before April 2024"):
        torch_import.load_medmamba(save(tensors))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("layers.0.blocks.0.self_attention.A_logs", np.zeros((32, 8), np.float32)),
        ("layers.0.blocks.0.self_attention.in_proj.weight", np.zeros((15, 4), np.float32)),
        ("layers.3.blocks.0.conv33conv33conv11.1.weight", np.zeros((32, 32), np.float32)),
        ("head.weight", np.zeros((CLASSES, 8 * DIM), np.int8)),
        ("patch_embed.proj.weight", np.zeros((DIM, 1, PATCH, PATCH), np.float32)),
        ("patch_embed.proj.weight", np.zeros(DIM, np.float32)),
        ("layers.1.blocks.0.ln_1.weight", np.zeros(7, np.float32)),
        ("patch_embed.proj.weight", np.zeros((DIM, 3, PATCH, 0), np.float32)),
    ],
)
def test_a_tensor_of_another_shape_or_dtype_is_refused(published, save, name, tensor):
    with pytest.raises(ValueError, match=r"^cannot load [^\n]*net\.safetensors: [^\n]*$"):
        torch_import.load_medmamba(save(published | {name: tensor}))


def test_an_image_size_too_small_for_the_patches_is_refused(published, save):
    with pytest.raises(ValueError, match=r"net\.safetensors: patch_size=2 needs images of at least 16 x 16 px"):
        torch_import.load_medmamba(save(published), image_size=12)
