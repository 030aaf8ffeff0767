"""A finished run's model as one safetensors file with its card: configuration, data hash, command, test figures.

    python -m experiments.pack RUN_FOLDER FILE.safetensors

The file can be given to `--init_from`, and read by `mamba_jax.zoo.load`.
"""

import pathlib
import sys
from typing import Any

import jax
import pandas as pd

from experiments.storage import folder
from mamba_jax import models, training, zoo

_FIGURES = ("accuracy", "auc", "balanced_accuracy", "ece", "nonfinite")


def write(run: folder.RunFolder, path: pathlib.Path) -> pathlib.Path:
    """Writes the model of the best epoch.

    Args:
      run: folder of a run whose stages `train` and `clean` are finished.
      path: ends in `.safetensors`.

    Raises:
      ValueError: the folder holds no such run, or the file has another ending.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"the file must end in .safetensors, got {path}")
    about = run.about()
    trained = folder.finished(run, "train")
    if trained is None or folder.finished(run, "clean") is None:
        raise ValueError(f"{run.root} must have the stages train and clean finished: run them first")
    model = models.from_config(models.ModelConfig(**about["data"]["model"]))
    variables = training.load_best(run.checkpoints, jax.eval_shape(model.init, jax.random.key(0)))
    zoo.save(path, model, variables, card(about, run.rows(), trained))
    return path


def card(about: dict[str, Any], rows: pd.DataFrame, trained: dict[str, Any]) -> dict[str, Any]:
    """What is kept of how a model was made.

    Args:
      about: the run's `config.json`.
      rows: its `rows.csv`.
      trained: the note of its stage `train`.

    Returns:
      JSON data; each figure of `test` is {"value", "low", "high", "count"}, the interval at 95 %.
    """
    data, identity = about["data"], about["identity"]
    clean = rows[(rows["stage"] == "clean") & (rows["method"] == "test")]
    test = {
        row.metric: {"value": row.value, "low": row.low, "high": row.high, "count": int(row.count)}
        for row in clean.itertuples(index=False)
        if row.metric in _FIGURES
    }
    return {
        "dataset": data["name"],
        "source": data["source"],
        "licence": data["licence"],
        "dataset_sha256": data["sha256"],
        "task": data["task"],
        "class_names": data["class_names"],
        "init_from": identity["model"]["init_from"],
        "train": identity["train"],
        "seed": identity["seed"],
        "command": trained["command"],
        "commit": trained["commit"],
        "versions": about["made"]["versions"],
        "test": test,
    }


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    if len(arguments) != 2 or arguments[0].startswith("-"):
        print("usage: python -m experiments.pack RUN_FOLDER FILE.safetensors", file=sys.stderr)
        return 2
    try:
        print(write(folder.RunFolder(pathlib.Path(arguments[0])), pathlib.Path(arguments[1])))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
