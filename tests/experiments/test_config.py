"""Configurations: what they refuse, and that they go to JSON and back."""

import dataclasses
import json

import pytest

from experiments.settings import config, serial
from mamba_jax import training


def _config(**changes):
    parts = {
        "data": config.DataConfig(dataset="synthetic_blood"),
        "model": config.ModelConfig(name="medmamba_n", depths=(1, 1, 1, 1)),
        "train": training.TrainConfig(epochs=3),
        "fault": config.FaultConfig(trials=7, flips=(1, 4), targets=("weights",)),
    }
    return config.ExperimentConfig(**{**parts, **changes})


def test_a_configuration_comes_back_from_json_as_it_was():
    chosen = _config(seed=5, adversarial=config.AdversarialConfig(epsilons=(0.0, 0.5), attacks=("pgd",)))
    text = json.dumps(serial.to_json(chosen))
    assert serial.from_json(config.ExperimentConfig, json.loads(text)) == chosen


def test_json_with_an_unknown_name_is_refused():
    values = serial.to_json(_config())
    values["fault"]["trails"] = 3
    with pytest.raises(ValueError, match=r"FaultConfig has no 'trails'; it has targets, modes, trials"):
        serial.from_json(config.ExperimentConfig, values)


def test_the_difference_names_what_changed_and_nothing_else():
    old, new = _config(), _config(fault=config.FaultConfig(trials=9, flips=(1, 4), targets=("weights",)), seed=1)
    lines = serial.difference(serial.to_json(old), serial.to_json(new))
    assert lines == ["fault.trials: 7 -> 9", "seed: 0 -> 1"]
    assert serial.difference(serial.to_json(old), serial.to_json(_config())) == []


def test_the_sites_of_the_worst_case_are_told_only_where_they_are_chosen():
    assert not any(name.startswith("worst_") and name.endswith("clude") for name in serial.to_json(_config())["fault"])
    chosen = _config(fault=config.FaultConfig(trials=7, flips=(1, 4), targets=("weights",), worst_include=("head/*",)))
    lines = serial.difference(serial.to_json(_config()), serial.to_json(chosen))
    assert lines == ["fault.worst_include: None -> ['head/*']"]
    assert serial.from_json(config.ExperimentConfig, json.loads(json.dumps(serial.to_json(chosen)))) == chosen


def test_the_fills_are_told_only_where_they_are_chosen():
    assert "fills" not in serial.to_json(_config())["occlusion"]
    chosen = _config(occlusion=config.OcclusionConfig(fills=("zero", "noise")))
    assert serial.to_json(chosen)["occlusion"]["fills"] == ["zero", "noise"]
    assert serial.from_json(config.ExperimentConfig, json.loads(json.dumps(serial.to_json(chosen)))) == chosen


def test_a_configuration_is_hashable_and_frozen():
    chosen = _config()
    assert hash(chosen) == hash(_config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.seed = 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config.AdversarialConfig(attacks=("pdg",)), r"attacks must be among fgsm, .*; got 'pdg'"),
        (lambda: config.AdversarialConfig(attacks=("pgd", "pgd")), "each entry once"),
        (lambda: config.AdversarialConfig(epsilons=(2.0, 1.0)), "epsilons must be increasing"),
        (lambda: config.AdversarialConfig(epsilons=(-1.0,)), r"epsilons must lie in \[0, 255\], got -1"),
        (lambda: config.AdversarialConfig(pgd_steps=0), "pgd_steps must be at least 1, got 0"),
        (lambda: config.OcclusionConfig(information_losses=(0.5, 1.5)), r"must lie in \[0, 1\], got 1.5"),
        (
            lambda: config.OcclusionConfig(modes=("rows",)),
            "occlusion_modes must be among random, .*, scan_columns_reversed; got 'rows'",
        ),
        (
            lambda: config.OcclusionConfig(fills=("black",)),
            "occlusion_fills must be among zero, mean, blur, noise; got 'black'",
        ),
        (lambda: config.OcclusionConfig(fills=()), "occlusion_fills must name each entry once and at least one of"),
        (lambda: config.CorruptionConfig(corruptions=("fog_of_war",)), "among gaussian_noise, shot_noise"),
        (lambda: config.CorruptionConfig(severities=(0, 1)), r"severities must lie in \[1, 5\], got 0"),
        (
            lambda: config.CorruptionConfig(preset="mine"),
            "corruption_preset must be one of cifar-c, tiny-c, imagenet-c, medmnist-c/",
        ),
        (lambda: config.FaultConfig(targets=("gradients",)), "among weights, activations; got 'gradients'"),
        (lambda: config.FaultConfig(flips=()), "fault_flips must be increasing numbers, at least one"),
        (lambda: config.FaultConfig(trials=1), "fault_trials must be at least 2, got 1"),
        (
            lambda: config.FaultConfig(modes=("random",), worst_exclude=("head/*",)),
            "worst_include and worst_exclude are of the worst case: add worst to fault_modes",
        ),
        (lambda: config.ModelConfig(), "model must be named"),
        (lambda: config.DataConfig(dataset="x", task="multi"), "task must be one of"),
        (
            lambda: config.DataConfig(dataset="bloodmnist", num_classes=3),
            "num_classes can be given for an own file only",
        ),
        (lambda: _config(eval_batch_size=0), "eval_batch_size must be at least 1, got 0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_would_work(make, message):
    with pytest.raises(ValueError, match=message):
        make()
