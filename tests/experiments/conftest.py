"""A user's own images, the program's refusals, and a finished run's folder made of invented rows."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from experiments import run
from experiments.reporting import gallery
from experiments.storage import folder, records
from mamba_jax import data
from threats import statistics

STAGES = ("train", "clean", "adversarial", "occlusion", "corruption", "fault")
LAYERS = (
    "patch_embed/proj",
    "stages_0/block_0/ssm/A_log",
    "stages_0/block_1/conv/conv_0",
    "stages_0/merge/norm",
    "head",
)


@pytest.fixture(scope="session")
def cells(tmp_path_factory) -> pathlib.Path:
    """A user's own file: 64 / 16 / 24 drawn cells."""
    drawn = data.synthetic_blood(train=64, val=16, test=24, size=28, seed=3)
    path = tmp_path_factory.mktemp("data") / "cells.npz"
    arrays = {f"{name}_images": split.images for name, split in drawn.splits.items()}
    np.savez(path, **arrays, **{f"{name}_labels": split.labels[:, None] for name, split in drawn.splits.items()})
    return path


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def refused(capsys):
    """Runs the program on arguments that it must refuse with exit code 2 and one line, which is returned."""

    def refuse(arguments) -> str:
        assert run.main(arguments) == 2
        out, err = capsys.readouterr()
        line = err.splitlines()[-1]
        assert line.startswith("error: ")
        assert err.count("error: ") == 1, err
        assert "Traceback" not in out + err
        return line

    return refuse


@pytest.fixture(scope="session")
def rows() -> dict[str, pd.DataFrame]:
    """Rows of every stage."""
    names = {"dataset": "cells", "model": "tiny", "seed": 0}
    return {stage: records.table(_measurements()[stage], **names, stage=stage) for stage in STAGES}


@pytest.fixture(scope="session")
def faults() -> pd.DataFrame:
    """One row per trial: random, layer by layer, in weights and activations."""
    rng = np.random.default_rng(0)
    trials = [
        _trial(rng, target, "random", "bits", LAYERS[i % 5], i % 32)
        for target in ("weights", "activations")
        for i in range(64)
    ]
    trials += [
        _trial(rng, "weights", "layerwise", "field", layer, bit)
        for layer in LAYERS
        for bit in (31, 30, 5)
        for _ in range(2)
    ]
    return pd.DataFrame(trials)


@pytest.fixture
def finished(tmp_path, rows, faults) -> folder.RunFolder:
    """The folder, with a gallery."""
    about = {
        "data": {
            "name": "cells", "source": "file cells.npz", "licence": None, "task": "multi-class",
            "class_names": ["a", "b"], "image_size": 8, "channels": 3, "sha256": "0" * 64,
            "images": {"train": 9, "val": 5, "test": 200},
            "majority": 0.55, "model": {"name": "tiny"}, "parameters": 1234,
        },
        "made": {
            "command": "python -m experiments.run --npz=cells.npz", "commit": "abc", "device": "1 x cpu",
            "python": "3.11", "system": "Linux", "versions": {"jax": "0.10"},
        },
    }  # fmt: skip
    run = folder.start(tmp_path / "run", {"seed": 0, "model": {"scan_method": "sequential"}}, about)
    for stage in STAGES:
        note = {"seconds": 1.0, "trained": True, "command": "", "commit": "abc", "device": "1 x cpu"}
        folder.finish(run, stage, rows[stage], note)
    records.write(faults, run.root / "faults.csv")
    images, labels = np.linspace(0, 1, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3), np.array([0, 1])
    for stage in ("clean", "adversarial", "occlusion", "corruption"):
        gallery.save(run.gallery, stage, {f"{stage}\n1": (images, np.array([0, -1]))}, ("a", "b"), labels)
    return run


def _measurements() -> dict[str, list[records.Measurement]]:
    def accuracy(threat, method, strength, value):
        return records.Measurement(threat, method, strength, "accuracy", statistics.wilson(round(200 * value), 200))

    success = records.Measurement("linf", "pgd", 8.0, "success_rate", statistics.wilson(150, 160))
    unmoved = records.Measurement("linf", "pgd", 8.0, "unmoved", statistics.wilson(3, 160))
    auc = records.Measurement("none", "test", 0.0, "auc", statistics.Interval(0.91, 0.88, 0.93, 200))
    loss = records.Measurement(
        "weights", "layerwise/exponent/head", 1, "accuracy_loss", statistics.Interval(0.4, 0.3, 0.5, 20)
    )
    campaign = [
        records.Measurement("weights", "random_bits", 1, metric, statistics.wilson(round(64 * value), 64))
        for metric, value in (
            ("accuracy", 0.78),
            ("critical_1", 0.11),
            ("critical_5", 0.05),
            ("critical_10", 0.02),
            ("sdc", 0.1),
        )
    ]
    return {
        "train": [
            *(accuracy("none", split, epoch, 0.5 + 0.1 * epoch) for split in ("train", "val") for epoch in (1, 2)),
            accuracy("none", "chosen_by_auc", 1, 0.6),
            records.Measurement("none", "chosen_by_auc", 1, "auc", statistics.Interval(0.87, 0.82, 0.92, 200)),
        ],
        "clean": [accuracy("none", "val", 0, 0.79), accuracy("none", "test", 0, 0.8), auc],
        "adversarial": [
            unmoved, success,
            *(accuracy("linf", method, e, 0.8 / (1 + e)) for method in ("fgsm", "pgd") for e in (0.0, 0.5, 1.0, 8.0)),
            *(accuracy("l2", "pgd_l2", e, 0.8 / (1 + e)) for e in (0.0, 0.25, 1.0)),
            *(by_class for e in (0.0, 0.5, 1.0, 8.0) for by_class in _by_class(e)),
        ],
        "occlusion": [
            accuracy("occlusion", mode, e, 0.8 - e / 2) for mode in ("random", "salient") for e in (0.0, 0.5, 0.9)
        ],
        "corruption": [accuracy("corruption/cifar-c", "gaussian_noise", s, 0.8 - s / 20) for s in (0, 1, 5)],
        "fault": [
            *campaign, loss,
            *(accuracy("weights", "worst", k, 0.8 - k / 5) for k in (0, 1, 2)),
            *(accuracy("weights", "random_control", k, 0.8) for k in (0, 1, 2)),
            *_campaign(),
        ],
    }  # fmt: skip


def _by_class(epsilon: float) -> list[records.Measurement]:
    """Of PGD in the maximum norm, on 150 images of class a and 50 of class b, of which a is taken for b ever more."""
    wrong = round(15 * epsilon)
    decided = {"a > a": (150 - wrong, 150), "a > b": (wrong, 150), "b > a": (5, 50), "b > b": (45, 50)}
    shares = {f"confusion/{pair}": count for pair, count in decided.items()}
    shares |= {f"recall/{name}": decided[f"{name} > {name}"] for name in "ab"}
    return [records.Measurement("linf", "pgd", epsilon, name, statistics.wilson(*n)) for name, n in shares.items()]


def _campaign() -> list[records.Measurement]:
    """Of a campaign in two number formats, the first with bits and the second with cells, as if it were stratified."""

    def of(method, metric, value, count):
        return records.Measurement("campaign", method, 1, metric, statistics.wilson(round(count * value), count))

    metrics = ("accuracy", "auc", "sdc", "sdc_trial", "due_trial", "critical_1", "critical_5", "critical_10")
    found = [of(name, metric, 0.7, 400) for name in ("float32", "int8") for metric in metrics]
    found += [of(name, "clean_accuracy", 0.8, 200) for name in ("float32", "int8")]
    found += [of(f"float32/bit/{bit}", "accuracy", 0.8 if bit < 30 else 0.3, 12) for bit in range(32)]
    found += [
        of(f"float32/cell/{layer}:{field}", "accuracy", 0.8 - 0.1 * place, 20)
        for place, layer in enumerate(LAYERS)
        for field in ("sign", "exponent", "mantissa")
    ]
    found += [of(f"int8/layer/{layer}", "accuracy", 0.8 - 0.1 * place, 20) for place, layer in enumerate(LAYERS)]
    return [*found, of("int8 - float32", "accuracy", 0.1, 400)]


def _trial(rng, target, mode, drawing, layer, bit) -> dict:
    field = "sign" if bit == 31 else "exponent" if bit > 22 else "mantissa"
    accuracy = 0.8 - (0.6 * rng.random() if bit == 30 else 0.0)
    return {
        "dataset": "cells", "model": "tiny", "images": 50, "target": target, "mode": mode, "drawing": drawing,
        "flips": 1, "layer": layer, "bit": str(bit), "field": field, "accuracy_before": 0.8, "accuracy": accuracy,
    }  # fmt: skip
