"""The command line: absl flags with their help, read into a configuration and into what does not decide numbers.

The flags are kept apart from absl's global ones, so that the program can be called again in one process.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments import processes
from experiments.settings import config, flag_table, flagfiles
from mamba_jax import training
from threats import campaigns, corruptions

USAGE = """Measures how reliable a model is: trains it, then attacks its images and flips its bits.

  python -m experiments.run --flagfile=bloodmnist.flags
  python -m experiments.run --dataset=breastmnist --data_dir=DIR --epochs=40 --stages=train,clean,report

Each flag may be written as --flag=value or --flag value; lists are written with commas."""


class RunOptions(NamedTuple):
    """What may change between two calls on one folder: where files lie, which stages to run, how trials are batched.

    `debug` says whether an error is to be shown with its place in the program, `devices` how many of this machine train
    (None: see `processes.mesh`), `cluster` how several processes train together (None: there is one). Of a campaign:
    `plan` asks for its size only, `replay` for one trial again, and `shard` (i, n) for the i-th of n parts.
    `trials_at_once` and `images_at_once` are None where `trial_strategy` decides, or a measurement (`measure`).
    """

    stages: tuple[str, ...]
    output: str
    data_dir: str | None
    trial_strategy: str
    measure: bool
    trials_at_once: int | None
    images_at_once: int | None
    debug: bool
    devices: int | None
    cluster: processes.Cluster | None
    plan: bool
    replay: int | None
    shard: tuple[int, int]


class HelpRequested(Exception):
    """The command line asks for help; the text is the first argument."""


def parse(arguments: Sequence[str]) -> tuple[config.ExperimentConfig, RunOptions]:
    """Reads the command line, flag files included.

    Args:
      arguments: without the program's name.

    Raises:
      HelpRequested: `--help` or `-h` is among them.
      ValueError, FileNotFoundError: a flag, a value or an argument is refused; the message is one line.
    """
    values = flag_table.define()
    if any(argument in ("-h", "--help", "-help", "--helpfull", "--helpshort") for argument in arguments):
        raise HelpRequested(f"{USAGE}\n{values.get_help()}")
    try:
        leftover = values(["experiments.run", *flagfiles.expand(arguments)])[1:]
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if leftover:
        raise ValueError(f"unexpected argument {leftover[0]!r}: every option is written as --flag=value")
    chosen = _config(values)
    return chosen, _run_options(values, chosen)


def _config(values: flags.FlagValues) -> config.ExperimentConfig:
    return config.ExperimentConfig(
        data=_data(values),
        model=_model(values),
        train=training.TrainConfig(
            **{field.name: values[field.name].value for field in dataclasses.fields(training.TrainConfig)}
        ),
        adversarial=config.AdversarialConfig(
            attacks=tuple(values.attacks),
            epsilons=_numbers(values, "epsilons", float),
            epsilons_l2=_numbers(values, "epsilons_l2", float),
            pgd_steps=values.pgd_steps,
            restarts=values.restarts,
            images=values.attack_images,
        ),
        occlusion=config.OcclusionConfig(
            modes=tuple(values.occlusion_modes),
            fills=tuple(values.occlusion_fills),
            information_losses=_numbers(values, "information_losses", float),
            draws=values.occlusion_draws,
            grid=values.occlusion_grid,
            images=values.occlusion_images,
        ),
        corruption=config.CorruptionConfig(
            corruptions=_corruptions(values),
            severities=_numbers(values, "severities", int),
            preset=values.corruption_preset,
            images=values.corruption_images,
        ),
        fault=config.FaultConfig(
            targets=tuple(values.fault_targets),
            modes=tuple(values.fault_modes),
            trials=values.fault_trials,
            flips=_numbers(values, "fault_flips", int),
            layer_trials=values.layer_trials,
            worst_flips=values.worst_flips,
            worst_candidates=values.worst_candidates,
            worst_restarts=values.worst_restarts,
            worst_magnitude=values.worst_magnitude,
            **_sites_of_worst(values),
            allow_nonfinite=values.allow_nonfinite,
            images=values.fault_images,
            campaign=_campaign(values),
            number_formats=tuple(values.number_formats),
        ),
        eval_batch_size=values.eval_batch_size,
        seed=values.seed,
    )


def _corruptions(values: flags.FlagValues) -> tuple[str, ...]:
    """The names given; for "all", every corruption that has the preset given."""
    if values.corruptions != ["all"]:
        return tuple(values.corruptions)
    preset = values.corruption_preset
    known = corruptions.CORRUPTIONS.items()
    # An unknown preset has no corruption, and is refused by name.
    return tuple(name for name, entry in known if preset in (None, *entry.presets)) or tuple(corruptions.CORRUPTIONS)


def _campaign(values: flags.FlagValues) -> campaigns.CampaignSpec | None:
    given = [name for name in flag_table.CAMPAIGN_FLAGS if not values[name].using_default_value]
    if "campaign" not in values.fault_modes:
        taken = flag_table.WORST_FLAGS if "worst" in values.fault_modes else ()
        for name in (name for name in given if name not in taken):
            if name in flag_table.WORST_FLAGS:
                raise ValueError(f"{name} is of a campaign or the worst case: add campaign or worst to --fault_modes")
            raise ValueError(f"{name} is of a campaign: add campaign to --fault_modes")
        return None
    if values.half_width is not None and values.shard is not None:
        raise ValueError("shard cannot be given with half_width, whose end depends on all trials: give fault_trials")
    flips = _numbers(values, "fault_flips", int)
    if len(flips) > 1:
        raise ValueError(f"fault_flips must be one number in a campaign, got {','.join(map(str, flips))}")
    counted = values.half_width is None and values.fault_drawing != "exhaustive"
    if not counted and not values["fault_trials"].using_default_value:
        raise ValueError("fault_trials cannot be given with half_width, nor with an exhaustive drawing: they say it")
    return campaigns.CampaignSpec(
        kinds=tuple(values.fault_kinds),
        include=tuple(values.fault_include),
        exclude=tuple(values.fault_exclude),
        field=values.fault_field,
        bits=_numbers(values, "fault_bits", int) if values.fault_bits else None,
        action=values.fault_action,
        flips=flips[0],
        burst=values.fault_burst,
        bit_error_rate=values.bit_error_rate,
        one_shot=values.one_shot,
        drawing=values.fault_drawing,
        allocation=values.allocation,
        pilot=values.pilot,
        trials=values.fault_trials if counted else None,
        half_width=values.half_width,
        confidence=values.confidence,
        metric=values.fault_metric,
    )


def _measure(values: flags.FlagValues) -> bool:
    for name in ("trials_at_once", "images_at_once"):
        if values[name].value is not None and values[name].value < 1:
            raise ValueError(f"{name} must be at least 1, got {values[name].value}")
    if values.trial_strategy != "measure":
        return False
    if "campaign" not in values.fault_modes or values.one_shot:
        raise ValueError("trial_strategy=measure is of a campaign that is not one-shot: choose auto, map or vmap")
    if values.shard is not None or values.distributed:
        raise ValueError(
            "trial_strategy=measure is of one machine, another may choose otherwise: give trials_at_once and "
            "images_at_once instead"
        )
    return True


def _sites_of_worst(values: flags.FlagValues) -> dict[str, tuple[str, ...]]:
    if "worst" not in values.fault_modes:
        return {}
    return {"worst_include": tuple(values.fault_include), "worst_exclude": tuple(values.fault_exclude)}


def _shard(values: flags.FlagValues) -> tuple[int, int]:
    if values.shard is None:
        return 1, 1
    number, _, of = values.shard.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise ValueError(f"shard must be I/N with 1 <= I <= N, such as 3/16, got {values.shard!r}")
    return int(number), int(of)


def _data(values: flags.FlagValues) -> config.DataConfig:
    if (values.dataset is None) == (values.npz is None):
        raise ValueError(
            "give the images: either --dataset=NAME (such as breastmnist) or --npz=FILE in MedMNIST layout"
        )
    name = values.dataset or os.path.basename(values.npz).removesuffix(".npz")
    return config.DataConfig(
        dataset=name,
        npz=values.npz,
        task=values.task,
        num_classes=values.num_classes,
        class_names=tuple(values.class_names) if values.class_names else None,
        image_size=values.image_size,
    )


def _model(values: flags.FlagValues) -> config.ModelConfig:
    own_weights = values.init_from is not None
    for flag in ("model", "depths", "dims"):
        if own_weights and not values[flag].using_default_value:
            raise ValueError(f"--{flag} cannot be given with --init_from: the weights say which model they belong to")
    return config.ModelConfig(
        name=None if own_weights else values.model,
        patch_size=values.patch_size,
        depths=_numbers(values, "depths", int) if values.depths else None,
        dims=_numbers(values, "dims", int) if values.dims else None,
        scan_method=values.scan_method,
        dtype=values.dtype,
        remat=values.remat,
        init_from=values.init_from,
    )


def _run_options(values: flags.FlagValues, chosen: config.ExperimentConfig) -> RunOptions:
    if not values.stages:
        raise ValueError(f"stages must name at least one of {', '.join(config.STAGES)}")
    for name in values.stages:
        if name not in config.STAGES:
            raise ValueError(f"stages must be among {', '.join(config.STAGES)}; got {name!r}")
    model = chosen.model.name or os.path.basename(chosen.model.init_from).split(".")[0]
    return RunOptions(
        stages=tuple(name for name in config.STAGES if name in values.stages),
        output=values.output or os.path.join("runs", f"{chosen.data.dataset}-{model}-s{chosen.seed}"),
        data_dir=values.data_dir or os.environ.get("MEDMNIST_ROOT"),
        trial_strategy="auto" if _measure(values) else values.trial_strategy,
        measure=_measure(values),
        trials_at_once=values.trials_at_once,
        images_at_once=values.images_at_once,
        debug=values.debug,
        devices=values.devices,
        cluster=_cluster(values),
        plan=values.plan,
        replay=values.replay_trial,
        shard=_shard(values),
    )


def _cluster(values: flags.FlagValues) -> processes.Cluster | None:
    given = [name for name in processes.Cluster._fields if values[name].value is not None]
    if not values.distributed:
        if given:
            raise ValueError(f"{given[0]} is of several processes that work together: add --distributed")
        return None
    for name in ("shard", "plan", "replay_trial"):
        if not values[name].using_default_value:
            raise ValueError(f"{name} is of one process by itself: it cannot be given with distributed")
    if "train" not in values.stages and not ("fault" in values.stages and "campaign" in values.fault_modes):
        raise ValueError(
            "distributed is for training and for campaigns, the rest is done by one process: add train to --stages, or "
            "fault with --fault_modes=campaign"
        )
    return processes.Cluster(*(values[name].value for name in processes.Cluster._fields))


def _numbers(values: flags.FlagValues, name: str, number: Callable[[str], Any]) -> tuple:
    try:
        return tuple(number(entry) for entry in values[name].value)
    except ValueError:
        kind = "whole numbers" if number is int else "numbers"
        raise ValueError(f"{name} must be {kind} with commas, got {','.join(values[name].value)!r}") from None
