"""ResNet-18, the convolutional baseline that MedMNIST reports for every data set.

y = ReLU(x' + BN(conv3x3(ReLU(BN(conv3x3(x)))))), with x' = x, or BN(conv1x1(x)) where the shape changes.
References: He et al., "Deep Residual Learning for Image Recognition", 2016, table 1; Yang et al., "MedMNIST v2", 2023,
whose 28-pixel network keeps the resolution in the stem.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamba_jax.models import norm, preprocess, remat, taps

STAGE_DIMS = (64, 128, 256, 512)
STAGE_DEPTHS = (2, 2, 2, 2)

# He initialisation over the outputs, as the reference implementation has it.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet18(nn.Module):
    """Logits [b, num_classes] of images [b, h, w, c].

    Attributes:
      num_classes: number of logits.
      normalize: (mean, std) or None, see `preprocess.preprocess`.
      small_stem: 3x3 convolution of stride 1 (images of 28 or 32 pixels); otherwise 7x7 of stride 2 and a maximum pool.
      dtype: of the computation; None for that of the images. Parameters, the statistics of norms and the head are
        float32 in any case.
      remat: whether gradients keep only what lies between blocks, see `remat.call`.
    """

    num_classes: int
    normalize: preprocess.Normalize = (0.5, 0.5)
    small_stem: bool = True
    dtype: jax.typing.DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """images: [b, h, w, c] float32 in [0, 1]; `train` takes batch statistics and updates the running ones."""
        x = preprocess.preprocess(images, self.normalize)
        x = _Stem(STAGE_DIMS[0], self.small_stem, name="stem")(x.astype(self.dtype or x.dtype), train=train)
        for i, (dim, depth) in enumerate(zip(STAGE_DIMS, STAGE_DEPTHS, strict=True)):
            x = _Stage(dim, depth, 1 if i == 0 else 2, self.remat, name=f"stages_{i}")(x, train=train)
        x = jnp.mean(norm.widened(x), axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(x)


class _Stem(nn.Module):
    """[b, h, w, 3] to `dim` channels at full resolution, or at a quarter of it; tap `out`."""

    dim: int
    small: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel, stride = (3, 1) if self.small else (7, 2)
        x = _conv(x, self.dim, kernel, stride, "conv")
        x = nn.relu(norm.BatchNorm(name="bn")(x, use_running_average=not train))
        if not self.small:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return taps.tap(self, "out", x)


class _Stage(nn.Module):
    """`depth` blocks of `dim` channels, the first of the given stride."""

    dim: int
    depth: int
    stride: int
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for j in range(self.depth):
            block = _Block(self.dim, self.stride if j == 0 else 1, name=f"block_{j}")
            x = remat.call(block, x, remat=self.remat, train=train)
        return x


class _Block(nn.Module):
    """The basic block: two 3x3 convolutions beside a shortcut; taps `conv_branch` and `out`."""

    dim: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        branch = _conv(x, self.dim, 3, self.stride, "conv_0")
        branch = nn.relu(norm.BatchNorm(name="bn_0")(branch, use_running_average=not train))
        branch = _conv(branch, self.dim, 3, 1, "conv_1")
        branch = norm.BatchNorm(name="bn_1")(branch, use_running_average=not train)
        branch = taps.tap(self, "conv_branch", branch)
        if self.stride != 1 or x.shape[-1] != self.dim:
            x = _conv(x, self.dim, 1, self.stride, "shortcut_conv")
            x = norm.BatchNorm(name="shortcut_bn")(x, use_running_average=not train)
        return taps.tap(self, "out", nn.relu(x + branch))


def _conv(x: jax.Array, features: int, kernel: int, stride: int, name: str) -> jax.Array:
    """Padded by kernel // 2 on every side (SAME pads unevenly at stride 2); no bias, since a norm follows."""
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=kernel // 2,
        use_bias=False,
        dtype=x.dtype,
        kernel_init=_KERNEL_INIT,
        name=name,
    )(x)
