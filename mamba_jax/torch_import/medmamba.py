"""Maps a published MedMamba checkpoint onto `mamba_jax.models`: names, layouts, and packed weights taken apart.

The published state_dict keeps convolutions as [out, in, h, w] and dense weights as [out, in]; ours are
[h, w, in, out] and [in, out]. It packs x and z in one `in_proj`, and dt, B and C in one `x_proj_weight`; ours are
separate arrays, so that each quantity has an address of its own.
Reference: Yue and Li, "MedMamba: Vision Mamba for Medical Image Classification", arXiv 2403.03849, class `VSSM`.
"""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mamba_jax import types
from mamba_jax.models import model as models
from mamba_jax.models import preprocess
from mamba_jax.torch_import import state_dict

_STAGES = 4
_STATES = 16
_DIRECTIONS = 4
_MEDMNIST_SIDES = (28, 64, 128, 224)


def load_medmamba(
    path: str | os.PathLike[str],
    *,
    normalize: preprocess.Normalize = (0.5, 0.5),
    image_size: int | None = None,
    in_channels: int = 3,
    drop_path_rate: float | None = None,
    scan_method: types.ScanMethod | None = None,
) -> tuple[models.Model, types.Variables]:
    """The model and variables of a published checkpoint; depths, dims, patch size and classes come from its shapes.

    Args:
      path: a `.pth` or `.safetensors` file, see `read_state_dict`.
      normalize: (mean, std) of the pixels in [0, 1], (0.5, 0.5) in the published script; None leaves them as they are.
      image_size: side that the model is made for; None takes the smallest MedMNIST size that the patches allow.
      in_channels: 1 or 3; one channel is repeated inside the model.
      drop_path_rate: for further training; None takes the model's default.
      scan_method: see `mamba_jax.scan.selective_scan`.

    Returns:
      (model, variables): the pair that `mamba_jax.create_model` and its `init` give, float32.

    Raises:
      ValueError: the file cannot be read, or is not of the published architecture.
    """
    tensors = _checked_names(state_dict.read_state_dict(path), path)
    depths = _depths(tensors)
    patches = tensors["patch_embed.proj.weight"]
    if patches.ndim != 4:
        raise ValueError(f"cannot load {path}: patch_embed.proj.weight has shape {patches.shape}, not [out, in, p, p]")
    patch_size = patches.shape[-1]
    fitting = (side for side in _MEDMNIST_SIDES if side >= 8 * patch_size)
    try:
        model = models.create_model(
            "medmamba",
            num_classes=tensors["head.bias"].size,
            image_size=next(fitting, 8 * patch_size) if image_size is None else image_size,
            in_channels=in_channels,
            normalize=normalize,
            patch_size=patch_size,
            depths=depths,
            dims=tuple(2 * tensors[f"layers.{i}.blocks.0.ln_1.weight"].size for i in range(_STAGES)),
            drop_path_rate=drop_path_rate,
            scan_method=scan_method,
        )
    except ValueError as error:
        raise ValueError(f"cannot load {path}: {error}") from error
    return model, _mapped(tensors, depths, model, path)


class _Leaf(NamedTuple):
    """One array of ours: `layout(tensors[source])` goes to `path`, collection first."""

    source: str
    path: str
    layout: Callable[[np.ndarray], np.ndarray] = lambda w: w


def _depths(names: Iterable[str]) -> tuple[int, ...]:
    """Blocks per stage; at least one, so that a file without any misses the first."""
    found = {match.groups() for match in map(re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.").match, names) if match}
    return tuple(max(1, sum(int(stage) == i for stage, _ in found)) for i in range(_STAGES))


def _checked_names(tensors: dict[str, np.ndarray], path: Any) -> dict[str, np.ndarray]:
    """The tensors under their published names, none missing and none left over."""
    if any("finalconv11" in name for name in tensors):
        raise ValueError(
            f"cannot load {path}: it has `finalconv11` weights, the MedMamba architecture before April 2024, which "
            "differs from the published one; give a checkpoint trained with the code of April 2024 or later"
        )
    # `DataParallel` writes the prefix; the counters have no use, since the momentum is a constant.
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    expected = {leaf.source for leaf in _leaves(_depths(tensors))}
    missing, unknown = sorted(expected - tensors.keys()), sorted(tensors.keys() - expected)
    if missing or unknown:
        raise ValueError(
            f"cannot load {path}: not the published MedMamba; missing: {_listed(missing)}; unknown: {_listed(unknown)}"
        )
    return tensors


def _listed(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _mapped(tensors: dict[str, np.ndarray], depths: tuple[int, ...], model: models.Model, path: Any) -> types.Variables:
    """The variables of `model`, each leaf's shape checked."""
    wanted = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0)), sep="/")
    mapped = {}
    for leaf in _leaves(depths):
        tensor = tensors[leaf.source]
        try:
            value = leaf.layout(tensor)
        except (ValueError, IndexError):
            value = tensor
        if value.shape != wanted[leaf.path].shape or not jnp.issubdtype(value.dtype, np.floating):
            raise ValueError(
                f"cannot load {path}: {leaf.source} is {tensor.dtype} {list(tensor.shape)}, which does not become "
                f"{leaf.path}, float {list(wanted[leaf.path].shape)}"
            )
        mapped[leaf.path] = jnp.asarray(value, jnp.float32)
    return traverse_util.unflatten_dict(mapped, sep="/")


def _leaves(depths: tuple[int, ...]) -> list[_Leaf]:
    """Every array of ours, in the order of the published state_dict."""
    leaves = [*_conv("patch_embed.proj", "patch_embed/proj"), *_norm("patch_embed.norm", "patch_embed/norm")]
    for i, depth in enumerate(depths):
        for j in range(depth):
            leaves += _block(f"layers.{i}.blocks.{j}", f"stages_{i}/block_{j}")
        if i < len(depths) - 1:
            leaves += _dense(f"layers.{i}.downsample.reduction", f"stages_{i}/merge/reduction")
            leaves += _norm(f"layers.{i}.downsample.norm", f"stages_{i}/merge/norm")
    return [*leaves, *_dense("head", "head"), _Leaf("head.bias", "params/head/bias")]


def _block(source: str, path: str) -> list[_Leaf]:
    branch = f"{source}.conv33conv33conv11"
    leaves = [*_norm(f"{source}.ln_1", f"{path}/norm"), *_ssm(f"{source}.self_attention", f"{path}/ssm")]
    for index, name in (("0", "bn_0"), ("2", "bn_1"), ("5", "bn_2")):
        leaves += _norm(f"{branch}.{index}", f"{path}/conv/{name}")
        leaves += [
            _Leaf(f"{branch}.{index}.running_mean", f"batch_stats/{path}/conv/{name}/mean"),
            _Leaf(f"{branch}.{index}.running_var", f"batch_stats/{path}/conv/{name}/var"),
        ]
    for index, name in (("1", "conv_0"), ("4", "conv_1"), ("7", "conv_2")):
        leaves += _conv(f"{branch}.{index}", f"{path}/conv/{name}")
    return leaves


def _ssm(source: str, path: str) -> list[_Leaf]:
    """The packed weights: `in_proj` [2 d, c] is (x, z); `x_proj_weight` [4, r + 2 n, d] is (dt, B, C)."""
    n = _STATES

    def leaf(name: str, ours: str, layout: Callable[[np.ndarray], np.ndarray]) -> _Leaf:
        return _Leaf(f"{source}.{name}", f"params/{path}/{ours}", layout)

    return [
        leaf("in_proj.weight", "in_proj/kernel", lambda w: np.split(w, 2)[0].T),
        leaf("in_proj.weight", "gate_proj/kernel", lambda w: np.split(w, 2)[1].T),
        leaf("x_proj_weight", "dt_down", lambda w: np.swapaxes(w[:, : -2 * n], 1, 2)),
        leaf("x_proj_weight", "B_proj", lambda w: np.swapaxes(w[:, -2 * n : -n], 1, 2)),
        leaf("x_proj_weight", "C_proj", lambda w: np.swapaxes(w[:, -n:], 1, 2)),
        leaf("dt_projs_weight", "dt_up", lambda w: np.swapaxes(w, 1, 2)),
        leaf("dt_projs_bias", "dt_bias", lambda w: w),
        leaf("A_logs", "A_log", lambda w: w.reshape(_DIRECTIONS, -1, n)),
        leaf("Ds", "D", lambda w: w.reshape(_DIRECTIONS, -1)),
        *_conv(f"{source}.conv2d", f"{path}/conv"),
        *_norm(f"{source}.out_norm", f"{path}/out_norm"),
        *_dense(f"{source}.out_proj", f"{path}/out_proj"),
    ]


def _conv(source: str, path: str) -> list[_Leaf]:
    """[out, in, h, w] to [h, w, in, out]."""
    kernel = _Leaf(f"{source}.weight", f"params/{path}/kernel", lambda w: np.transpose(w, (2, 3, 1, 0)))
    return [kernel, _Leaf(f"{source}.bias", f"params/{path}/bias")]


def _dense(source: str, path: str) -> list[_Leaf]:
    """[out, in] to [in, out], without a bias."""
    return [_Leaf(f"{source}.weight", f"params/{path}/kernel", np.transpose)]


def _norm(source: str, path: str) -> list[_Leaf]:
    return [_Leaf(f"{source}.weight", f"params/{path}/scale"), _Leaf(f"{source}.bias", f"params/{path}/bias")]
