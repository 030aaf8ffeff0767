"""MedMamba: four stages of blocks that join a convolution branch and a 2-D state-space branch (Yue and Li, 2024).

    patch embedding -> stage 0 -> merge -> stage 1 -> merge -> stage 2 -> merge -> stage 3 -> mean over h, w -> head

Every merge halves the sides and doubles the channels. The arithmetic is that of the published code, whose weights
`mamba_jax.torch_import` reads. Reference: "MedMamba: Vision Mamba for Medical Image Classification", arXiv 2403.03849.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamba_jax import types
from mamba_jax.models import convolution, norm, preprocess, remat, ssm, taps


class MedMamba(nn.Module):
    """Images [b, h, w, 1 or 3] in [0, 1] -> logits [b, num_classes] float32.

    Attributes:
      num_classes: outputs of the head.
      patch_size: side p of the patches that become tokens; each image side must be at least 8 p.
      depths: blocks per stage.
      dims: channels per stage, each twice the one before.
      d_state: states n of each inner channel.
      normalize: (mean, std) applied to the pixels, or None.
      drop_path_rate: the last block's chance to drop its state-space branch in training; earlier blocks' grow linearly.
      scan_method: see `mamba_jax.scan.selective_scan`.
      dtype: of the computation; None for that of the images. Parameters, the statistics of norms, step sizes, the
        recurrence and the head are float32 in any case.
      remat: whether gradients keep only what lies between blocks, see `remat.call`.
    """

    num_classes: int
    patch_size: int = 4
    depths: tuple[int, ...] = (2, 2, 4, 2)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    normalize: preprocess.Normalize = (0.5, 0.5)
    d_state: int = 16
    drop_path_rate: float = 0.1
    scan_method: types.ScanMethod = "auto"
    dtype: jax.typing.DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = preprocess.preprocess(images, self.normalize)
        check_image_size(min(images.shape[1:3]), self.patch_size)
        x = PatchEmbed(self.dims[0], self.patch_size, name="patch_embed")(x.astype(self.dtype or x.dtype))
        blocks = sum(self.depths)
        for i, depth in enumerate(self.depths):
            first = sum(self.depths[:i])
            rates = tuple(self.drop_path_rate * (first + j) / max(blocks - 1, 1) for j in range(depth))
            last = i == len(self.depths) - 1
            stage = Stage(rates, not last, self.d_state, self.scan_method, self.remat, name=f"stages_{i}")
            x = stage(x, train=train)
        x = jnp.mean(norm.widened(x), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=ssm.dense_init, name="head")(x).astype(jnp.float32)


def check_image_size(side: int, patch_size: int) -> None:
    """Raises ValueError if three merges of a `side` x `side` image in patches leave no token."""
    if side < 8 * patch_size:
        fitting = [p for p in (4, 2, 1) if 8 * p <= side]
        hint = f", or patch_size={fitting[0]} for {side} px" if fitting else ""
        raise ValueError(
            f"patch_size={patch_size} needs images of at least {8 * patch_size} x {8 * patch_size} px, "
            f"got {side} px: resize the images{hint}"
        )


class PatchEmbed(nn.Module):
    """[b, h, w, 3] -> [b, h / p, w / p, dim]: a p x p convolution of stride p, then LayerNorm; tap `out`."""

    dim: int
    patch_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p = self.patch_size
        x = _conv(x, self.dim, p, strides=p, padding="VALID", name="proj")
        return taps.tap(self, "out", norm.LayerNorm(name="norm")(x))


class Stage(nn.Module):
    """Blocks of one width, then the merge to the next.

    Attributes:
      drop_path_rates: one per block.
      merge: whether a patch merge follows (not in the last stage).
      d_state, scan_method, remat: as in `MedMamba`.
    """

    drop_path_rates: tuple[float, ...]
    merge: bool
    d_state: int
    scan_method: types.ScanMethod
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for j, rate in enumerate(self.drop_path_rates):
            block = Block(rate, self.d_state, self.scan_method, name=f"block_{j}")
            x = remat.call(block, x, remat=self.remat, train=train)
        return PatchMerge(name="merge")(x) if self.merge else x


class Block(nn.Module):
    """A convolution branch on the first half of the channels and a state-space branch on the second, shuffled together.

    Taps: `conv_branch` [b, h, w, c / 2], `out` [b, h, w, c], and those of `ssm.SS2D` under `ssm`.
    """

    drop_path_rate: float
    d_state: int
    scan_method: types.ScanMethod

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        left, right = jnp.split(x, 2, axis=-1)
        left = taps.tap(self, "conv_branch", ConvBranch(name="conv")(left, train=train))
        right = norm.LayerNorm(name="norm")(right)
        right = ssm.SS2D(d_state=self.d_state, scan_method=self.scan_method, name="ssm")(right)
        right = _drop_path(self, right, self.drop_path_rate if train else 0.0)
        shuffled = jnp.stack([left, right], axis=-1).reshape(x.shape)
        return taps.tap(self, "out", shuffled + x)


class ConvBranch(nn.Module):
    """BN, conv 3 x 3, BN, ReLU, conv 3 x 3, BN, ReLU, conv 1 x 1, ReLU, all of the input's width."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        c = x.shape[-1]
        x = norm.BatchNorm(name="bn_0")(x, use_running_average=not train)
        x = _conv(x, c, 3, name="conv_0")
        x = nn.relu(norm.BatchNorm(name="bn_1")(x, use_running_average=not train))
        x = _conv(x, c, 3, name="conv_1")
        x = nn.relu(norm.BatchNorm(name="bn_2")(x, use_running_average=not train))
        return nn.relu(_conv(x, c, 1, name="conv_2"))


class PatchMerge(nn.Module):
    """[b, h, w, c] -> [b, h // 2, w // 2, 2 c]: LayerNorm and a dense layer on 2 x 2 patches."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape((b, h // 2, 2, w // 2, 2, c))
        # Order of the four neighbours: (0, 0), (1, 0), (0, 1), (1, 1), row offset first.
        x = jnp.transpose(x, (0, 1, 3, 4, 2, 5)).reshape((b, h // 2, w // 2, 4 * c))
        x = norm.LayerNorm(name="norm")(x)
        return nn.Dense(2 * c, use_bias=False, dtype=x.dtype, kernel_init=ssm.dense_init, name="reduction")(x)


def _conv(x: jax.Array, features: int, size: int, *, strides: int = 1, padding: str = "SAME", name: str) -> jax.Array:
    """A dense convolution in x's dtype, drawn from a normal of variance 2 / (features * size^2)."""
    init = nn.initializers.normal(math.sqrt(2 / (features * size * size)))
    small = size == 3 and padding == "SAME" and max(x.shape[1:3]) <= convolution.SMALL_MAP
    layer = nn.Conv(
        features,
        (size, size),
        (strides, strides),
        padding,
        dtype=x.dtype,
        kernel_init=init,
        name=name,
        conv_general_dilated=convolution.on_small_map if small else None,
    )
    return layer(x)


def _drop_path(module: nn.Module, x: jax.Array, rate: float) -> jax.Array:
    """Zero for a share `rate` of the images, the others scaled up (Huang et al., "Stochastic Depth", 2016)."""
    if rate == 0.0:
        return x
    key = module.make_rng("drop_path")
    kept = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1, 1))
    return jnp.where(kept, x / (1.0 - rate), 0.0)
