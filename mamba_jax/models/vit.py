"""ViT-Ti, the attention baseline: a pre-norm transformer over square patches, read out at a class token.

x <- x + MHA(LN(x)),  x <- x + MLP(LN(x)),  logits = head(LN(x)[class token]).
References: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, equations 1 to 4; the tiny size is that of
Touvron et al., "Training data-efficient image transformers", 2021, table 1.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamba_jax.models import norm, preprocess, remat, taps

_LINEAR_INIT = nn.initializers.truncated_normal(0.02)
_NORM_EPSILON = 1e-6


def patch_size_for(side: int) -> int:
    """The patch side for images of `side` pixels: 4 below 64 (49 tokens at 28), 8 below 128, then 16 (196 at 224)."""
    if side < 64:
        return 4
    return 8 if side < 128 else 16


def check_image_size(side: int, patch_size: int | None) -> None:
    """Raises ValueError if the patches do not divide a `side` x `side` image."""
    p = patch_size or patch_size_for(side)
    if side % p:
        fitting = [q for q in range(min(side, 16), 0, -1) if side % q == 0]
        raise ValueError(f"patch_size must divide the image's side of {side} px, got {p}: {fitting[0]} would do")


class ViTTiny(nn.Module):
    """Logits [b, num_classes] of images [b, h, w, c], whose size is fixed by the learned positions.

    Attributes:
      num_classes: number of logits.
      normalize: (mean, std) or None, see `preprocess.preprocess`.
      patch_size: side of a patch, which must divide the image's; None chooses by `patch_size_for`.
      dim, depth, heads, mlp_dim: the tiny size by default.
      dtype: of the computation; None for that of the images. Parameters, the statistics of norms and the head are
        float32 in any case.
      remat: whether gradients keep only what lies between blocks, see `remat.call`.
    """

    num_classes: int
    normalize: preprocess.Normalize = (0.5, 0.5)
    patch_size: int | None = None
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_dim: int = 768
    dtype: jax.typing.DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """images: [b, h, w, c] float32 in [0, 1]; `train` changes nothing here (no dropout)."""
        del train
        x = preprocess.preprocess(images, self.normalize)
        patch_size = self.patch_size or patch_size_for(min(x.shape[1:3]))
        x = _PatchEmbed(self.dim, patch_size, name="patch_embed")(x.astype(self.dtype or x.dtype))
        token = self.param("class_token", nn.initializers.normal(1e-6), (1, 1, self.dim)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.dim)), x], axis=1)
        x = x + self.param("positions", _LINEAR_INIT, (1, x.shape[1], self.dim)).astype(x.dtype)
        for i in range(self.depth):
            x = remat.call(_Block(self.heads, self.mlp_dim, name=f"block_{i}"), x, remat=self.remat)
        x = norm.LayerNorm(epsilon=_NORM_EPSILON, name="norm")(norm.widened(x[:, 0]))
        return nn.Dense(self.num_classes, kernel_init=_LINEAR_INIT, name="head")(x)


class _PatchEmbed(nn.Module):
    """[b, h, w, 3] -> [b, tokens, dim]; tap `out`."""

    dim: int
    patch_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p = self.patch_size
        for side in x.shape[1:3]:
            check_image_size(side, p)
        x = nn.Conv(self.dim, (p, p), (p, p), "VALID", dtype=x.dtype, kernel_init=_LINEAR_INIT, name="proj")(x)
        return taps.tap(self, "out", x.reshape(x.shape[0], -1, self.dim))


class _Block(nn.Module):
    """One pre-norm transformer layer on [b, tokens, dim]; taps `attention_branch`, `mlp_branch` and `out`."""

    heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attention = nn.MultiHeadDotProductAttention(
            self.heads, dtype=x.dtype, kernel_init=_LINEAR_INIT, name="attention"
        )
        branch = attention(norm.LayerNorm(epsilon=_NORM_EPSILON, name="norm_0")(x))
        x = x + taps.tap(self, "attention_branch", branch)
        branch = norm.LayerNorm(epsilon=_NORM_EPSILON, name="norm_1")(x)
        branch = nn.Dense(self.mlp_dim, dtype=x.dtype, kernel_init=_LINEAR_INIT, name="mlp_in")(branch)
        branch = nn.gelu(branch, approximate=False)
        branch = nn.Dense(x.shape[-1], dtype=x.dtype, kernel_init=_LINEAR_INIT, name="mlp_out")(branch)
        x = x + taps.tap(self, "mlp_branch", branch)
        return taps.tap(self, "out", x)
