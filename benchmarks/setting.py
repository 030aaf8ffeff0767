"""What every benchmark is given: sizes (full, or small to see that all of it runs), the machine's rates, a voice."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, timing
from mamba_jax import models, zoo

_TINY = {"name": "medmamba", "depths": (1, 0, 0, 0), "dims": (4, 8, 16, 32), "d_state": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes and repeats of the suite; the defaults are what the names of the figures say.

    Attributes:
      rounds: of each comparison.
      matrix_side, copied_bytes: see `machine.measure`.
      model, model_n, resnet: options of `create_model` for MedMamba-T, the nano model and ResNet-18.
      zoo: name of a trained nano model for attacks; None for `model_n` untrained.
      batch: images at 28 px. batch_224: at 224 px.
      side_28, side_224: pixels. patch_28, patch_224: pixels.
      batches: for the time per image.
      scan_stages: (l, d) of the scan in each stage at 28 px. scan_states: n.
      scan_lengths: tokens, for the scaling; scan_scaling_batch: b.
      attacked: models, see `attacked`. attacked_t: MedMamba-T, whose gradients take long to compile; none in the small
        form.
      attack_images, attack_images_n: images attacked, for the nano model more. attack_steps: of PGD, a short and a long
        run.
      foolbox_steps: of PGD against Foolbox on a jitted model. foolbox_plain_steps, _rounds: on a plain one.
      campaign_images, campaign_rounds: of the fault trials. campaign_trials_n, campaign_trials_t: in a round, with and
        without reuse.
      starts: cold and warm starts of a fresh process.
    """

    rounds: timing.Rounds = dataclasses.field(default_factory=timing.Rounds)
    matrix_side: int = 2048
    copied_bytes: int = 2**29
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "medmamba_t"})
    model_n: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "medmamba_n"})
    resnet: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "resnet18"})
    zoo: str | None = "pneumoniamnist/medmamba_n"
    batch: int = 32
    batch_224: int = 4
    side_28: int = 28
    side_224: int = 224
    patch_28: int = 2
    patch_224: int = 4
    batches: tuple[int, ...] = (8, 32, 128)
    scan_stages: tuple[tuple[int, int], ...] = ((196, 96), (49, 192), (9, 384), (1, 768))
    scan_states: int = 16
    scan_lengths: tuple[int, ...] = (49, 196, 784, 3136)
    scan_scaling_batch: int = 8
    attack_images: int = 16
    attack_images_n: int = 64
    attack_steps: tuple[int, int] = (1, 4)
    attacked: tuple[str, ...] = ("medmamba_n", "resnet18")
    attacked_t: tuple[str, ...] = ("medmamba_t",)
    foolbox_steps: int = 20
    foolbox_plain_steps: int = 4
    foolbox_plain_rounds: timing.Rounds = dataclasses.field(default_factory=lambda: timing.Rounds(least=3, most=3))
    campaign_images: int = 1000
    campaign_rounds: int = 3
    campaign_trials_n: tuple[int, int] = (96, 4)
    campaign_trials_t: tuple[int, int] = (24, 2)
    starts: int = 1


FULL = Sizes()
SMALL = Sizes(
    rounds=timing.Rounds(least=2, most=2, seconds=0.0),
    matrix_side=64,
    copied_bytes=2**16,
    model=_TINY,
    model_n=_TINY,
    resnet=_TINY,
    zoo=None,
    batch=2,
    batch_224=1,
    side_224=32,
    batches=(1, 2),
    scan_stages=((16, 4),),
    scan_states=2,
    scan_lengths=(4, 8),
    scan_scaling_batch=2,
    attack_images=2,
    attack_images_n=2,
    attack_steps=(1, 2),
    attacked=("medmamba_n",),
    attacked_t=(),
    foolbox_steps=2,
    foolbox_plain_steps=1,
    foolbox_plain_rounds=timing.Rounds(least=1, most=1, seconds=0.0),
    campaign_images=2,
    campaign_rounds=2,
    campaign_trials_n=(2, 1),
    campaign_trials_t=(2, 1),
    starts=1,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a benchmark runs with.

    Attributes:
      sizes: shapes and repeats.
      rates: the machine's measured limits.
      say: shows a line of progress.
    """

    sizes: Sizes
    rates: machine.Rates
    say: Callable[[str], None]

    def compare(
        self, what: str, functions: Mapping[str, Callable[[], Any]], rounds: timing.Rounds | None = None
    ) -> dict[str, np.ndarray]:
        """`timing.interleave` with a line of progress before it; `rounds` are those of the sizes unless given."""
        self.say(f"{what}: {', '.join(functions)}")
        return timing.interleave(functions, rounds or self.sizes.rounds)


def progress() -> Callable[[str], None]:
    """A function that prints a line on standard error, with the seconds since this call."""
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {line}", file=sys.stderr, flush=True)

    return say


def images(count: int, side: int, channels: int = 3) -> jax.Array:
    """[count, side, side, channels] float32, uniform in [0, 1], always the same."""
    return jnp.asarray(np.random.default_rng(0).random((count, side, side, channels), np.float32))


def labels(count: int) -> jax.Array:
    """[count] int32: 0 and 1 in turn, classes that every model here has."""
    return jnp.arange(count, dtype=jnp.int32) % 2


class Attacked(NamedTuple):
    """A model with its variables, and images [b, 28, 28, c] with labels [b] to attack it at."""

    model: models.Model
    variables: Any
    images: jax.Array
    labels: jax.Array


def attacked(sizes: Sizes, name: str) -> Attacked:
    """medmamba_n, medmamba_t or resnet18: the nano one trained, if the sizes name one, the others drawn."""
    count = sizes.attack_images_n if name == "medmamba_n" else sizes.attack_images
    if name == "medmamba_n" and sizes.zoo is not None:
        model, variables = zoo.load_pretrained(sizes.zoo)
    else:
        options = {
            "medmamba_n": sizes.model_n,
            "medmamba_t": {**sizes.model, "patch_size": sizes.patch_28},
            "resnet18": sizes.resnet,
        }[name]
        model = models.create_model(**options, num_classes=8, image_size=sizes.side_28)
        variables = model.init(jax.random.key(0))
    return Attacked(model, variables, images(count, model.config.image_size, model.config.in_channels), labels(count))
