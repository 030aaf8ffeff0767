"""`create_model`: a named architecture as a pair of pure functions over a nested dict of arrays.

    model = create_model("medmamba_t", num_classes=8)
    variables = model.init(jax.random.key(0))
    logits = model.apply(variables, images)

`apply` is what the threats take: it is differentiable in images and variables and can be vmapped over either.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamba_jax import identity, scan, types
from mamba_jax.models import medmamba, preprocess, resnet, vit

# Depths and widths of the published code, which each name's options can change. The nano model is ours, sized for two
# CPU cores.
MEDMAMBA_PRESETS = {
    "medmamba": ((2, 2, 4, 2), (96, 192, 384, 768)),
    "medmamba_n": ((1, 1, 2, 1), (32, 64, 128, 256)),
    "medmamba_t": ((2, 2, 4, 2), (96, 192, 384, 768)),
    "medmamba_s": ((2, 2, 8, 2), (96, 192, 384, 768)),
    "medmamba_b": ((2, 2, 12, 2), (128, 256, 512, 1024)),
}
MODELS = (*MEDMAMBA_PRESETS, "resnet18", "vit_ti")

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # None: images are float32 already

_MEDMAMBA_OPTIONS = frozenset({"patch_size", "depths", "dims", "d_state", "drop_path_rate", "scan_method"})
_OPTIONS = {
    **dict.fromkeys(MEDMAMBA_PRESETS, _MEDMAMBA_OPTIONS),
    "resnet18": frozenset(),
    "vit_ti": frozenset({"patch_size"}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that `create_model` needs to build the same model again; every field is plain JSON data.

    The fields are the arguments of `create_model`; None means the architecture's own value.
    """

    name: str
    num_classes: int
    image_size: int = 28
    in_channels: int = 3
    normalize: preprocess.Normalize = (0.5, 0.5)
    patch_size: int | None = None
    depths: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None
    d_state: int | None = None
    drop_path_rate: float | None = None
    scan_method: types.ScanMethod | None = None
    dtype: str = identity.later("float32")
    remat: bool = identity.later(False)

    def __post_init__(self):
        if self.name not in MODELS:
            raise ValueError(f"model must be one of {MODELS}, got {self.name!r}")
        given = {option for option in _MEDMAMBA_OPTIONS if getattr(self, option) is not None}
        if unknown := given - _OPTIONS[self.name]:
            taken = ", ".join(sorted(_OPTIONS[self.name])) or "none"
            raise ValueError(f"{self.name} takes no {', '.join(sorted(unknown))}; its options: {taken}")
        for field in ("normalize", "depths", "dims"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, tuple(getattr(self, field)))
        self._check_ranges()

    def _check_ranges(self) -> None:
        for field in ("num_classes", "image_size", "patch_size", "d_state"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {tuple(DTYPES)}, got {self.dtype!r}")
        if self.in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 or 3, got {self.in_channels}")
        if self.normalize is not None and (len(self.normalize) != 2 or not self.normalize[1] > 0):
            raise ValueError(f"normalize must be (mean, std) with std above 0, or None, got {self.normalize}")
        if self.depths is not None and (len(self.depths) != 4 or min(self.depths) < 0):
            raise ValueError(f"depths must be four numbers of blocks, got {self.depths}")
        if self.dims is not None and not _are_dims(self.dims):
            raise ValueError(f"dims must be four even numbers, each twice the one before, got {self.dims}")
        if self.drop_path_rate is not None and not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}")
        if self.scan_method is not None:
            scan.resolve_method(self.scan_method)


# `init` is hundreds of small draws and runs once: unoptimised, it compiles in less than half the time and still runs in
# a fraction of a second.
_INIT_OPTIONS = {"xla_backend_optimization_level": "0"}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as two pure functions.

    Attributes:
      config: what it was built from.
      init: `init(key) -> variables`, a nested dict with `params` and, where the model has batch norms, `batch_stats`.
      apply: `apply(variables, images, *, train=False) -> logits`, images [b, h, w, c] float32 in [0, 1], logits
        [b, num_classes] float32. Further keyword arguments and the returned pair are those of Flax Linen's `apply`:
        `train=True, rngs={"drop_path": key}, mutable=["batch_stats"]` returns (logits, updated collections).
    """

    config: ModelConfig
    init: Callable[[jax.Array], types.Variables]
    apply: Callable[..., Any]

    @property
    def name(self) -> str:
        return self.config.name


def create_model(
    name: str,
    *,
    num_classes: int,
    image_size: int = 28,
    in_channels: int = 3,
    normalize: preprocess.Normalize = (0.5, 0.5),
    patch_size: int | None = None,
    depths: tuple[int, ...] | None = None,
    dims: tuple[int, ...] | None = None,
    d_state: int | None = None,
    drop_path_rate: float | None = None,
    scan_method: types.ScanMethod | None = None,
    dtype: str = "float32",
    remat: bool = False,
) -> Model:
    """Builds a model by name; nothing is computed until `init`.

    Args:
      name: one of `MODELS`: `medmamba_n` (nano), `medmamba_t`, `_s`, `_b`, `medmamba` (to be given depths and dims),
        `resnet18`, `vit_ti`.
      num_classes: outputs; for multi-label tasks the number of labels.
      image_size: side in pixels that the model is made for. Fully convolutional models run on others too.
      in_channels: of the images it is made for, 1 or 3; one channel is repeated inside the model.
      normalize: (mean, std) applied to pixels in [0, 1], or None.
      patch_size: MedMamba and ViT; default the largest of the usual sizes that the image allows.
      depths, dims: MedMamba's blocks and channels per stage.
      d_state: MedMamba's states per inner channel; default 16, and 8 in the nano model.
      drop_path_rate: MedMamba's stochastic depth in training; default 0.1.
      scan_method: MedMamba's selective scan, see `mamba_jax.scan.selective_scan`; default `auto`.
      dtype: of the computation, "float32" or "bfloat16"; parameters, the statistics of norms, MedMamba's step sizes and
        recurrence, and the logits are float32 in any case.
      remat: whether gradients keep only the activations between blocks and compute the others again: less memory, more
        time, the same numbers.

    Raises:
      ValueError: an unknown name, an option that the architecture does not have or out of its range, or a patch size
        that the image is too small for.
    """
    return from_config(
        ModelConfig(
            name=name,
            num_classes=num_classes,
            image_size=image_size,
            in_channels=in_channels,
            normalize=normalize,
            patch_size=patch_size,
            depths=depths,
            dims=dims,
            d_state=d_state,
            drop_path_rate=drop_path_rate,
            scan_method=scan_method,
            dtype=dtype,
            remat=remat,
        )
    )


@functools.lru_cache(maxsize=64)
def from_config(config: ModelConfig) -> Model:
    """The model that `config` describes: the same object for the same config, so that it compiles once."""
    module = _module(config)
    init_plain, init_quick = jax.jit(module.init), jax.jit(module.init, compiler_options=_INIT_OPTIONS)

    def init(key: jax.Array) -> types.Variables:
        image = jnp.zeros((1, config.image_size, config.image_size, config.in_channels), jnp.float32)
        traced = isinstance(key, jax.core.Tracer) or isinstance(image, jax.core.Tracer)  # options are for the outermost
        return (init_plain if traced or jax.default_backend() != "cpu" else init_quick)(key, image)

    return Model(config, init, module.apply)


def _module(config: ModelConfig) -> nn.Module:
    common = {"num_classes": config.num_classes, "normalize": config.normalize, "remat": config.remat}
    common["dtype"] = DTYPES[config.dtype]
    if config.name == "resnet18":
        return resnet.ResNet18(**common, small_stem=config.image_size < 64)
    if config.name == "vit_ti":
        vit.check_image_size(config.image_size, config.patch_size)
        return vit.ViTTiny(**common, patch_size=config.patch_size)
    depths, dims = MEDMAMBA_PRESETS[config.name]
    patch_size = config.patch_size or next((p for p in (4, 2) if 8 * p <= config.image_size), 1)
    medmamba.check_image_size(config.image_size, patch_size)
    return medmamba.MedMamba(
        **common,
        patch_size=patch_size,
        depths=config.depths or depths,
        dims=config.dims or dims,
        d_state=config.d_state or (8 if config.name == "medmamba_n" else 16),
        drop_path_rate=0.1 if config.drop_path_rate is None else config.drop_path_rate,
        scan_method=config.scan_method or "auto",
    )


def _are_dims(dims: tuple[int, ...]) -> bool:
    return len(dims) == 4 and dims[0] > 0 and dims[0] % 2 == 0 and all(b == 2 * a for a, b in itertools.pairwise(dims))
