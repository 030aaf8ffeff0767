"""What one experiment is, as data: which images, which model, how it is trained, and how hard each threat presses.

Everything here decides numbers in the rows. Where files lie and which stages to run does not, and is kept apart in
`options.RunOptions`. `serial` takes a configuration to JSON and back.
"""

import dataclasses

from mamba_jax import identity, training
from threats import adversarial, campaigns, corruptions, faults, occlusion, outcomes

STAGES = ("train", "clean", "adversarial", "occlusion", "corruption", "fault", "report")
OCCLUSION_MODES = ("random", "salient", "non_salient", *(f"scan_{name}" for name in occlusion.SCAN_DIRECTIONS))
FAULT_TARGETS = ("weights", "activations")
FAULT_MODES = ("random", "layerwise", "worst", "campaign")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images.

    Attributes:
      dataset: name of a MedMNIST set or of a synthetic one; of a user's own file, its name without `.npz`.
      npz: path of the user's own file, or None.
      task, num_classes, class_names: None where the data says; otherwise they override what an own file is taken for.
      image_size: side in pixels, or None for the side that the data has (28 in MedMNIST).
    """

    dataset: str
    npz: str | None = None
    task: str | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.task is not None:
            outcomes.check_task(self.task)
        overrides = [name for name in ("task", "num_classes", "class_names") if getattr(self, name) is not None]
        if overrides and self.npz is None:
            raise ValueError(f"{overrides[0]} can be given for an own file only (--npz): {self.dataset} states its own")
        _at_least("num_classes", self.num_classes, 2)
        _at_least("image_size", self.image_size, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: a name and its few choices, or the weights it comes from.

    Attributes:
      name: a name that `mamba_jax.create_model` knows; with `init_from` and None, the model those weights belong to.
      patch_size: None chooses by image size, or takes that of `init_from`, whose patch embedding is resized to another.
      depths, dims: blocks and channels per stage; None for those of the name.
      scan_method: how the selective scan is evaluated; fault results depend on it.
      dtype: of the computation; None for that of the weights it comes from, or float32.
      remat: whether gradients keep only the activations between blocks.
      init_from: a `.pth` or `.safetensors` file, or `zoo:NAME`; None starts from random weights.
    """

    name: str | None = None
    patch_size: int | None = None
    depths: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None
    scan_method: str = "auto"
    init_from: str | None = None
    dtype: str | None = identity.later(None)
    remat: bool = identity.later(False)

    def __post_init__(self) -> None:
        if self.name is None and self.init_from is None:
            raise ValueError("model must be named where init_from gives no weights")
        _at_least("patch_size", self.patch_size, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Attacks, each at every radius.

    Attributes:
      attacks: names in `threats.adversarial.ATTACKS`.
      epsilons: L-inf radii in units of 1/255; 0 is the clean image.
      epsilons_l2: L2 radii, the norm over all pixels of an image in [0, 1].
      pgd_steps, restarts: of the iterated attacks.
      images: how many test images are attacked; 0 for all.
    """

    attacks: tuple[str, ...] = ("fgsm", "pgd")
    epsilons: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    epsilons_l2: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
    pgd_steps: int = 20
    restarts: int = 1
    images: int = 1000

    def __post_init__(self) -> None:
        _each_known("attacks", self.attacks, tuple(adversarial.ATTACKS))
        _each_within("epsilons", self.epsilons, 0.0, 255.0)
        _each_within("epsilons_l2", self.epsilons_l2, 0.0, float("inf"))
        _at_least("pgd_steps", self.pgd_steps, 1)
        _at_least("restarts", self.restarts, 1)
        _at_least("attack_images", self.images, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OcclusionConfig:
    """Patches dropped and filled.

    Attributes:
      modes: of `OCCLUSION_MODES`: in which order patches are dropped.
      fills: names in `threats.occlusion.FILLS`: what takes their place. Every mode is measured with every fill.
      information_losses: shares of patches dropped, in [0, 1].
      draws: how many draws each image is measured with, where the patch order or the fill is random.
      grid: patches per side, or None for the usual grid of the image size.
      images: how many test images; 0 for all.
    """

    modes: tuple[str, ...] = ("random", "salient")
    information_losses: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    draws: int = 5
    grid: int | None = None
    images: int = 1000
    fills: tuple[str, ...] = identity.later(("zero",))

    def __post_init__(self) -> None:
        _each_known("occlusion_modes", self.modes, OCCLUSION_MODES)
        _each_known("occlusion_fills", self.fills, tuple(occlusion.FILLS))
        _each_within("information_losses", self.information_losses, 0.0, 1.0)
        _at_least("occlusion_draws", self.draws, 1)
        _at_least("occlusion_grid", self.grid, 1)
        _at_least("occlusion_images", self.images, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """Everyday damage to images, in five severities.

    Attributes:
      corruptions: names in `threats.corruptions.CORRUPTIONS`.
      severities: of 1..5; severity 0, the clean image, is always measured.
      preset: the published parameter column, or None for the one of the image size.
      images: how many test images; 0 for all.
    """

    corruptions: tuple[str, ...] = ("gaussian_noise", "defocus_blur")
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    preset: str | None = None
    images: int = 1000

    def __post_init__(self) -> None:
        _each_known("corruptions", self.corruptions, tuple(corruptions.CORRUPTIONS))
        _each_within("severities", self.severities, 1, 5)
        presets = dict.fromkeys(preset for entry in corruptions.CORRUPTIONS.values() for preset in entry.presets)
        if self.preset is not None and self.preset not in presets:
            raise ValueError(f"corruption_preset must be one of {', '.join(presets)}, got {self.preset!r}")
        _at_least("corruption_images", self.images, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultConfig:
    """Bit flips in weights and activations.

    Attributes:
      targets, modes: of `FAULT_TARGETS` and `FAULT_MODES`.
      trials: random trials per target, drawing and number of flips. 384 bound a share within 5 points at 95 %.
      flips: how many bits a random trial flips; one campaign for each entry.
      layer_trials: trials per layer and bit field in the layer-wise sweep.
      worst_flips: bits that the worst-case search commits.
      worst_candidates: bits that the search evaluates exactly for each flip.
      allow_nonfinite: whether the worst-case search may choose flips whose outputs are NaN or infinite.
      worst_restarts: starts of the search, of which the worst end counts.
      worst_magnitude: largest magnitude of a value that the search may make, or None.
      worst_include, worst_exclude: path patterns of the sites that the search and its random control may hit, as in
        `faults.weight_sites`.
      images: how many test images measure each fault; 0 for all.
      campaign: what the mode "campaign" asks; None without that mode.
      number_formats: of `faults.FORMATS`, in which campaign and worst case hold the weights, one after another.
    """

    targets: tuple[str, ...] = FAULT_TARGETS
    modes: tuple[str, ...] = FAULT_MODES[:3]
    trials: int = 400
    flips: tuple[int, ...] = (1,)
    layer_trials: int = 20
    worst_flips: int = 5
    worst_candidates: int = 16
    allow_nonfinite: bool = False
    images: int = 256
    campaign: campaigns.CampaignSpec | None = identity.later(None)  # noqa: RUF009
    number_formats: tuple[str, ...] = identity.later(("float32",))
    worst_restarts: int = identity.later(1)
    worst_magnitude: float | None = identity.later(None)
    worst_include: tuple[str, ...] = identity.later(("*",))
    worst_exclude: tuple[str, ...] = identity.later(())

    def __post_init__(self) -> None:
        if ("campaign" in self.modes) != (self.campaign is not None):
            raise ValueError("a campaign is described if, and only if, fault_modes names it")
        _each_known("number_formats", self.number_formats, faults.FORMATS)
        _each_known("fault_targets", self.targets, FAULT_TARGETS)
        _each_known("fault_modes", self.modes, FAULT_MODES)
        _each_within("fault_flips", self.flips, 1, float("inf"))
        _at_least("fault_trials", self.trials, 2)
        _at_least("layer_trials", self.layer_trials, 2)
        _at_least("worst_flips", self.worst_flips, 1)
        _at_least("worst_candidates", self.worst_candidates, 1)
        _at_least("worst_restarts", self.worst_restarts, 1)
        if self.worst_magnitude is not None and not self.worst_magnitude > 0:
            raise ValueError(f"worst_magnitude must be positive, got {self.worst_magnitude}")
        if self.restricts and "worst" not in self.modes:
            raise ValueError("worst_include and worst_exclude are of the worst case: add worst to fault_modes")
        _at_least("fault_images", self.images, 0)

    @property
    def restricts(self) -> bool:
        """Whether the worst case is searched among some sites only."""
        return self.worst_include != ("*",) or bool(self.worst_exclude)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """All that decides the numbers of one run; `batch_size` is that of evaluation (random draws are made per batch)."""

    data: DataConfig
    model: ModelConfig
    train: training.TrainConfig
    adversarial: AdversarialConfig = dataclasses.field(default_factory=AdversarialConfig)
    occlusion: OcclusionConfig = dataclasses.field(default_factory=OcclusionConfig)
    corruption: CorruptionConfig = dataclasses.field(default_factory=CorruptionConfig)
    fault: FaultConfig = dataclasses.field(default_factory=FaultConfig)
    eval_batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("eval_batch_size", self.eval_batch_size, 1)
        _at_least("seed", self.seed, 0)


def _at_least(name: str, value: int | None, low: int) -> None:
    if value is not None and value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def _each_known(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"{name} must be among {', '.join(known)}; got {value!r}")
    if len(set(values)) < len(values) or not values:
        raise ValueError(f"{name} must name each entry once and at least one of {', '.join(known)}; got {values}")


def _each_within(name: str, values: tuple[float, ...], low: float, high: float) -> None:
    if not values or list(values) != sorted(set(values)):
        raise ValueError(f"{name} must be increasing numbers, at least one; got {values}")
    for value in values:
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value:g}")
