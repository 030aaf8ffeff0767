"""Every flag of the program with its default and its help text, in one table per subject."""

from collections.abc import Callable
from typing import Any

from absl import flags

from experiments.settings import config
from mamba_jax import data, models, scan, training
from threats import adversarial, campaigns, corruptions, faults, occlusion, outcomes
from threats.faults import batching

_ATTACK, _OCCLUSION = config.AdversarialConfig(), config.OcclusionConfig()
_TRAIN = training.TrainConfig()
_CORRUPTION, _FAULT, _SPEC = config.CorruptionConfig(), config.FaultConfig(), campaigns.CampaignSpec(trials=2)

Entry = tuple[Callable[..., Any], str, Any, str]

_RUN: tuple[Entry, ...] = (
    (flags.DEFINE_list, "stages", config.STAGES, "what to do, always in this order; finished stages are kept"),
    (flags.DEFINE_string, "output", None, "the run's folder [runs/DATASET-MODEL-sSEED]"),
    (flags.DEFINE_integer, "seed", 0, "fixes everything random: weights, order, attacks, faults"),
    (flags.DEFINE_integer, "eval_batch_size", 128, "images evaluated at once"),
    (flags.DEFINE_integer, "devices", None, "of this machine that train and run trials [all; of a CPU, 1]"),
    (
        flags.DEFINE_bool,
        "distributed",
        False,
        "train, and run a campaign's trials, over several processes, each started with this command and --output on a "
        "disk that all see; the rest is done by process 0 alone",
    ),
    (flags.DEFINE_string, "coordinator_address", None, "host:port of process 0, with --distributed [by JAX]"),
    (flags.DEFINE_integer, "num_processes", None, "started with --distributed [by JAX]"),
    (flags.DEFINE_integer, "process_id", None, "of this process, from 0, with --distributed [by JAX]"),
    (flags.DEFINE_bool, "debug", False, "show where in the program an error arose"),
    (flags.DEFINE_string, "flagfile", None, "reads flags from a file; found by bare name among the package's own too"),
)

_DATA: tuple[Entry, ...] = (
    (flags.DEFINE_string, "dataset", None, "a MedMNIST set such as bloodmnist, or synthetic_blood"),
    (
        flags.DEFINE_string,
        "data_dir",
        None,
        "directory of MedMNIST files; missing ones are downloaded [$MEDMNIST_ROOT]",
    ),
    (flags.DEFINE_string, "npz", None, "your own file in MedMNIST layout, instead of --dataset"),
    (flags.DEFINE_string, "task", None, f"of an own file: {', '.join(outcomes.TASKS)} [inferred]"),
    (flags.DEFINE_integer, "num_classes", None, "of an own file [inferred]"),
    (flags.DEFINE_list, "class_names", None, "of an own file, with commas [class 0, class 1, ...]"),
    (flags.DEFINE_integer, "image_size", None, "side in pixels; images are resized where the data has no such size"),
)

_MODEL: tuple[Entry, ...] = (
    (flags.DEFINE_string, "model", "medmamba_n", f"one of {', '.join(models.MODELS)}"),
    (flags.DEFINE_integer, "patch_size", None, "side of the first patches in pixels [by image size or weights]"),
    (flags.DEFINE_list, "depths", None, "MedMamba's blocks per stage, four numbers [by name]"),
    (flags.DEFINE_list, "dims", None, "MedMamba's channels per stage, four numbers [by name]"),
    (flags.DEFINE_string, "scan_method", "auto", f"selective scan: {', '.join(scan.METHODS)}; faults depend on it"),
    (flags.DEFINE_string, "dtype", None, "of the computation: float32 or bfloat16 [that of --init_from, or float32]"),
    (
        flags.DEFINE_bool,
        "remat",
        False,
        "compute activations inside blocks again for the gradient: less memory (not on a CPU)",
    ),
    (
        flags.DEFINE_string,
        "init_from",
        None,
        "weights to start from: a .pth or .safetensors file, or zoo:NAME; without the stage train, used as they are",
    ),
)

_TRAINING: tuple[Entry, ...] = (
    (flags.DEFINE_integer, "epochs", _TRAIN.epochs, "passes over the training images"),
    (flags.DEFINE_integer, "batch_size", _TRAIN.batch_size, "images per training step"),
    (flags.DEFINE_integer, "accumulate", _TRAIN.accumulate, "micro-batches per step, one after the other: less memory"),
    (flags.DEFINE_float, "learning_rate", _TRAIN.learning_rate, "highest rate of AdamW, reached after the warm-up"),
    (flags.DEFINE_float, "warmup_epochs", _TRAIN.warmup_epochs, "epochs in which the learning rate rises from 0"),
    (flags.DEFINE_float, "weight_decay", _TRAIN.weight_decay, "of AdamW, on kernels"),
    (flags.DEFINE_float, "label_smoothing", _TRAIN.label_smoothing, "target spread over the classes, in [0, 1)"),
    (flags.DEFINE_float, "clip_norm", _TRAIN.clip_norm, "largest norm of a gradient; 0 leaves it as it is"),
    (
        flags.DEFINE_string,
        "augmentation",
        _TRAIN.augmentation,
        f"auto, by data set, or one of {', '.join(data.POLICIES)}",
    ),
    (flags.DEFINE_string, "select", _TRAIN.select, "validation figure that chooses the epoch: accuracy, auc or loss"),
)

_IMAGE_THREATS: tuple[Entry, ...] = (
    (flags.DEFINE_list, "attacks", _ATTACK.attacks, f"any of {', '.join(adversarial.ATTACKS)}"),
    (flags.DEFINE_list, "epsilons", _ATTACK.epsilons, "L-inf radii in units of 1/255 (8 means 8/255)"),
    (flags.DEFINE_list, "epsilons_l2", _ATTACK.epsilons_l2, "L2 radii over all pixels of an image in [0, 1]"),
    (flags.DEFINE_integer, "pgd_steps", _ATTACK.pgd_steps, "steps of iterated attacks"),
    (flags.DEFINE_integer, "restarts", _ATTACK.restarts, "random starts of iterated attacks; the worst counts"),
    (flags.DEFINE_integer, "attack_images", _ATTACK.images, "test images attacked; 0 for all"),
    (flags.DEFINE_list, "occlusion_modes", _OCCLUSION.modes, f"any of {', '.join(config.OCCLUSION_MODES)}"),
    (
        flags.DEFINE_list,
        "occlusion_fills",
        _OCCLUSION.fills,
        f"of dropped patches: any of {', '.join(occlusion.FILLS)}",
    ),
    (flags.DEFINE_list, "information_losses", _OCCLUSION.information_losses, "shares of patches dropped, in [0, 1]"),
    (flags.DEFINE_integer, "occlusion_draws", _OCCLUSION.draws, "draws per image, where patch order or fill is random"),
    (flags.DEFINE_integer, "occlusion_grid", None, "patches per side [7 at 28 px, 14 at 224 px]"),
    (flags.DEFINE_integer, "occlusion_images", _OCCLUSION.images, "test images occluded; 0 for all"),
    (
        flags.DEFINE_list,
        "corruptions",
        _CORRUPTION.corruptions,
        f"all (that have the preset), or any of {', '.join(corruptions.CORRUPTIONS)}",
    ),
    (flags.DEFINE_list, "severities", _CORRUPTION.severities, "of 1 to 5; the clean image is always measured"),
    (
        flags.DEFINE_string,
        "corruption_preset",
        None,
        "published parameter column, such as imagenet-c or medmnist-c/derma [by image size]",
    ),
    (flags.DEFINE_integer, "corruption_images", _CORRUPTION.images, "test images corrupted; 0 for all"),
)

_FAULTS: tuple[Entry, ...] = (
    (flags.DEFINE_list, "fault_targets", _FAULT.targets, f"any of {', '.join(config.FAULT_TARGETS)}"),
    (flags.DEFINE_list, "fault_modes", _FAULT.modes, f"any of {', '.join(config.FAULT_MODES)}"),
    (flags.DEFINE_integer, "fault_trials", _FAULT.trials, "random trials per target, drawing and number of flips"),
    (flags.DEFINE_list, "fault_flips", _FAULT.flips, "bits that one random trial flips; a campaign for each entry"),
    (flags.DEFINE_integer, "layer_trials", _FAULT.layer_trials, "trials per layer and bit field, layer by layer"),
    (flags.DEFINE_integer, "worst_flips", _FAULT.worst_flips, "bits that the worst-case search flips"),
    (flags.DEFINE_integer, "worst_candidates", _FAULT.worst_candidates, "bits evaluated exactly for each of them"),
    (flags.DEFINE_integer, "worst_restarts", _FAULT.worst_restarts, "starts of that search, of which the worst counts"),
    (flags.DEFINE_float, "worst_magnitude", None, "largest magnitude of a value that the worst case may make [any]"),
    (flags.DEFINE_bool, "allow_nonfinite", False, "let the worst case choose flips whose outputs are NaN or infinite"),
    (flags.DEFINE_integer, "fault_images", _FAULT.images, "test images that measure each fault; 0 for all"),
    (
        flags.DEFINE_enum,
        "trial_strategy",
        "auto",
        "how trials are batched: auto goes by the backend, measure (of a campaign) tries some ways first",
    ),
    (flags.DEFINE_integer, "trials_at_once", None, "trials in a group, on each device [by trial_strategy]"),
    (flags.DEFINE_integer, "images_at_once", None, "images per forward pass of a trial [by trial_strategy]"),
)

_CAMPAIGN: tuple[Entry, ...] = (
    (flags.DEFINE_list, "fault_kinds", _SPEC.kinds, f"where: any of {', '.join(campaigns.KINDS)}"),
    (flags.DEFINE_list, "fault_include", _SPEC.include, "sites of campaign and worst case, by path, such as */kernel"),
    (flags.DEFINE_list, "fault_exclude", [], "path patterns of sites that campaign and worst case leave out"),
    (flags.DEFINE_string, "fault_field", None, "bits of one field: sign, exponent, mantissa or magnitude [all]"),
    (flags.DEFINE_list, "fault_bits", None, "bit positions, 0 the least significant [all]"),
    (flags.DEFINE_string, "fault_action", _SPEC.action, f"what happens to a bit: {', '.join(faults.ACTIONS)}"),
    (flags.DEFINE_integer, "fault_burst", _SPEC.burst, "adjacent bits that one fault hits"),
    (flags.DEFINE_float, "bit_error_rate", None, "chance of every bit, instead of --fault_flips"),
    (flags.DEFINE_bool, "one_shot", False, "each fault is there for the inference of one image, drawn with it"),
    (flags.DEFINE_list, "number_formats", _FAULT.number_formats, f"of the weights: any of {', '.join(faults.FORMATS)}"),
    (flags.DEFINE_string, "fault_drawing", _SPEC.drawing, f"one of {', '.join(campaigns.DRAWINGS)}"),
    (flags.DEFINE_string, "allocation", _SPEC.allocation, f"of strata: {', '.join(campaigns.ALLOCATIONS)}"),
    (flags.DEFINE_integer, "pilot", _SPEC.pilot, "trials per stratum before a neyman allocation"),
    (flags.DEFINE_float, "half_width", None, "of the interval of --fault_metric, instead of --fault_trials"),
    (flags.DEFINE_float, "confidence", _SPEC.confidence, "of the campaign's intervals"),
    (flags.DEFINE_string, "fault_metric", _SPEC.metric, f"what --half_width is of: {', '.join(campaigns.METRICS)}"),
    (flags.DEFINE_bool, "plan", False, "say how many trials the campaign has, and how long they take, and stop"),
    (flags.DEFINE_integer, "replay_trial", None, "run this trial again, compare it with its row, and stop"),
    (flags.DEFINE_string, "shard", None, "run a part of the campaign by itself, such as 3/16; see experiments.merge"),
)
CAMPAIGN_FLAGS = tuple(name for _, name, *_ in _CAMPAIGN)
# Of them, those that the worst case takes too.
WORST_FLAGS = ("fault_include", "fault_exclude", "number_formats")


def define() -> flags.FlagValues:
    """All flags, not yet parsed."""
    values = flags.FlagValues()
    subjects = {"run": _RUN, "data": _DATA, "model": _MODEL, "training": _TRAINING, "threats to images": _IMAGE_THREATS}
    for subject, entries in {**subjects, "faults": _FAULTS, "campaigns": _CAMPAIGN}.items():
        for kind, name, default, text in entries:
            options = {"enum_values": (*batching.STRATEGIES, "measure")} if kind is flags.DEFINE_enum else {}
            if isinstance(default, tuple):
                default = [str(entry) for entry in default]
            kind(name, default, help=text, flag_values=values, module_name=subject, **options)
    return values
