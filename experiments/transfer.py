"""How attacks transfer: images made on each model, tried on all of them, as a matrix of success rates.

    python -m experiments.transfer --dataset=pneumoniamnist --epsilons=2,8 \
      --weights=zoo:pneumoniamnist/medmamba_n,resnet18.safetensors,vit_ti.safetensors

Each rate is among the test images that both models get right, with Wilson's interval; the diagonal is the white-box
rate. Exit codes as of `experiments.run`.
"""

import functools
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tqdm
from absl import flags

from experiments import commands, loading
from experiments.settings import config
from experiments.stages import adversarial as stage
from experiments.stages import batched
from experiments.storage import records
from mamba_jax import data, tuning
from threats import adversarial, evaluation, statistics
from threats.adversarial import transfer


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    values = _flags()

    def body(rest: list[str]) -> Iterator[str]:
        commands.no_arguments(rest)
        found = _run(values)
        if values.output:
            records.write(found, pathlib.Path(values.output))
        return _lines(found, values.weights)

    return commands.call("experiments.transfer", __doc__, values, body, arguments)


def matrices(
    models: Sequence[tuple[Any, Any]],
    split: data.Split,
    *,
    attack: str,
    epsilons: Sequence[float],
    task: str,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 100,
    bar: tqdm.tqdm | None = None,
) -> list[list[list[statistics.Interval]]]:
    """`rates[e][i][j]`: success at radius e of images made on model i and tried on model j, see `adversarial.transfer`.

    Compiled once for all radii.

    Args:
      models: m of them, each with its variables.
      split: n images.
      attack: a name in `threats.ATTACKS`.
      epsilons: radii in the unit of images in [0, 1].
      task: one of `outcomes.TASKS`.
      options: of the attack, {"steps": 40} for instance.
      seed: of what the attack draws.
      batch_size: images attacked together, at most.
      bar: moved forward by the images done.

    Raises:
      ValueError: the attack is unknown, or as it raises.
    """
    applies, variables = [model.apply for model, _ in models], [own for _, own in models]
    fn = functools.partial(adversarial.get_attack(attack).fn, **(options or {}))
    size = evaluation.even_size(len(split), batch_size)

    @jax.jit
    def attacked(variables, images, labels, key, radius):
        found = transfer.evaluate(fn, applies, variables, images, labels, key=key, epsilon=radius, task=task)
        return found.right.T, jnp.moveaxis(found.success, -1, 0)

    def at(epsilon: float) -> list[list[statistics.Interval]]:
        def of_batch(key, images, labels):
            return attacked(variables, images, labels, key, jnp.float32(epsilon))

        key = jax.random.key(seed)
        right, success = batched.map_batches(of_batch, split, batch_size=size, key=key, bar=bar)
        return transfer.rates(transfer.TransferResult(right.T, np.moveaxis(success, 0, -1)))

    return [at(epsilon) for epsilon in epsilons]


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text = functools.partial(flags.DEFINE_string, flag_values=values)
    text("dataset", None, "a MedMNIST set by name")
    text("npz", None, "or a file of images in MedMNIST layout")
    text("data_dir", os.environ.get("MEDMNIST_ROOT"), "directory of MedMNIST files")
    flags.DEFINE_list("weights", [], "two models or more: .pth or .safetensors files, or zoo:NAME", flag_values=values)
    text("attack", "pgd", f"one of {', '.join(adversarial.ATTACKS)}")
    flags.DEFINE_list("epsilons", ["2", "8"], "radii: L-inf in units of 1/255, L2 as they are", flag_values=values)
    flags.DEFINE_integer("steps", None, "of the attack, where it takes steps", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("attack_images", 400, "test images; 0 for all", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("eval_batch_size", 100, "images attacked together", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the choice of images and of what the attack draws", flag_values=values)
    text("output", None, "CSV file to write")
    return values


def _run(values: flags.FlagValues) -> pd.DataFrame:
    if (values.dataset is None) == (values.npz is None):
        raise ValueError("give the images: either --dataset=NAME or --npz=FILE in MedMNIST layout")
    if len(values.weights) < 2:
        raise ValueError(f"weights must name two models or more, got {len(values.weights)}")
    entry = adversarial.get_attack(values.attack)
    if values.steps is not None and not entry.iterative:
        raise ValueError(f"steps cannot be given for {values.attack}, which has a budget of its own or a single step")
    epsilons = [_radius(text) for text in values.epsilons]
    tuning.tune_cpu()
    tuning.keep_programs()
    name = values.dataset or pathlib.Path(values.npz).stem
    images = loading.dataset(config.DataConfig(dataset=name, npz=values.npz), values.data_dir)
    chosen = [config.ModelConfig(init_from=weights) for weights in values.weights]
    models = [loading.model_and_weights(one, images, adapt=False, seed=values.seed) for one in chosen]
    test = images.splits["test"]
    split = data.stratified_subset(test, min(values.attack_images or len(test), len(test)), seed=values.seed)
    with tqdm.tqdm(total=len(split) * len(epsilons), desc="transfer", unit=" images", leave=False) as bar:
        found = matrices(
            models, split, attack=values.attack, epsilons=[epsilon * stage.UNITS[entry.norm] for epsilon in epsilons],
            task=images.task, options={} if values.steps is None else {"steps": values.steps}, seed=values.seed,
            batch_size=values.eval_batch_size, bar=bar,
        )  # fmt: skip
    rows = [
        (values.attack, entry.norm, epsilon, source, target, *rate)
        for epsilon, rates in zip(epsilons, found, strict=True)
        for source, of_source in zip(values.weights, rates, strict=True)
        for target, rate in zip(values.weights, of_source, strict=True)
    ]
    columns = ["attack", "norm", "epsilon", "made_on", "tried_on", *statistics.Interval._fields]
    return pd.DataFrame(rows, columns=columns)


def _radius(text: str) -> float:
    try:
        radius = float(text)
    except ValueError:
        raise ValueError(f"epsilons must be numbers, got {text!r}") from None
    if not radius > 0:
        raise ValueError(f"epsilons must be above 0, got {text}")
    return radius


def _lines(found: pd.DataFrame, weights: Sequence[str]) -> Iterator[str]:
    width = max(map(len, weights)) + 2
    for (attack, norm, epsilon), rows in found.groupby(["attack", "norm", "epsilon"], sort=False):
        unit = f"{epsilon:g}/255" if norm == "linf" else f"{epsilon:g}"
        yield f"{attack}, {norm}, epsilon {unit}: success (%) among images that both models get right (their number)"
        yield f"{'made on / tried on':{width + 2}}" + "".join(f"{name:{max(width, 28)}}" for name in weights).rstrip()
        for source in weights:
            cells = (records.select(rows, made_on=source, tried_on=target).iloc[0] for target in weights)
            texts = (f"{_percent(cell)} ({int(cell['count']):,})" for cell in cells)
            yield f"{source:{width + 2}}" + "".join(f"{text:{max(width, 28)}}" for text in texts).rstrip()
        yield ""


def _percent(cell: pd.Series) -> str:
    return records.interval_text(cell["value"], cell["low"], cell["high"], percent=True)


if __name__ == "__main__":
    sys.exit(main())
