"""One study on one data set: train a model, measure how it breaks, and report.

    python -m experiments.run --flagfile=bloodmnist.flags

Exit codes: 0 done, 2 something that the user can put right (one line on standard error says what), 130 interrupted.
"""

import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import jax

from experiments import loading, report, stages
from experiments.settings import config, options
from experiments.stages import context
from experiments.storage import folder, provenance, records
from mamba_jax import training


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        chosen, run = options.parse(arguments)
        _run(chosen, run, arguments)
    except options.HelpRequested as text:
        print(text)
    except KeyboardInterrupt:
        print("\ninterrupted: what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        message = _message(error)
        if message is None or "--debug" in arguments:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def _run(chosen: config.ExperimentConfig, run: options.RunOptions, arguments: Sequence[str]) -> None:
    _keep_compiled_programs()
    ctx = _open(chosen, run, arguments)
    for name, stage in stages.STAGES.items():
        if name not in run.stages:
            continue
        note = folder.finished(ctx.folder, name)
        if note is None:
            ctx = _with_weights(ctx, before_training=name == "train")
            note = _measure(ctx, name, stage, arguments)
            _say(f"{name}: finished in {note['seconds']:.0f} s")
        else:
            _say(f"{name}: finished before, in {note['seconds']:.0f} s")
    if "report" in run.stages:
        _say(f"report: {report.write(ctx.folder)}")


def _open(chosen: config.ExperimentConfig, run: options.RunOptions, arguments: Sequence[str]) -> context.Context:
    """Loads what the configuration names, and opens or makes the run's folder."""
    images = loading.dataset(chosen.data, run.data_dir)
    loading.check(chosen, images)
    to_train = "train" in run.stages or folder.finished(folder.RunFolder(pathlib.Path(run.output)), "train") is not None
    model, variables = loading.model_and_weights(chosen.model, images, new_head=to_train)
    if variables is None and not to_train and run.stages != ("report",):
        raise ValueError("there are no trained weights: add train to --stages, or name weights with --init_from")
    facts = loading.facts(images, model)
    about = {"data": facts, "made": provenance.describe(arguments)}
    opened = folder.start(run.output, loading.identity(chosen, images, variables), about)
    sizes = " / ".join(f"{count:,}" for count in facts["images"].values())
    _say(f"{images.name}: {sizes} train / val / test images of {images.image_size} px, {images.task} ({images.source})")
    _say(f"{model.name}: {facts['parameters']:,} parameters, on {provenance.device()}")
    return context.Context(
        config=chosen, run=run, folder=opened, dataset=images, model=model, variables=variables, trained=False
    )


def _with_weights(ctx: context.Context, *, before_training: bool) -> context.Context:
    """The context with the weights that the next stage is to see."""
    if before_training:
        given = [name for name in stages.STAGES if (folder.finished(ctx.folder, name) or {}).get("trained") is False]
        if given:
            raise ValueError(
                f"{ctx.folder.root} holds results of weights as they were given ({', '.join(given)}): "
                "choose another --output to train them further"
            )
        return ctx
    if ctx.trained:
        return ctx
    if folder.finished(ctx.folder, "train") is not None:
        variables = training.load_best(ctx.folder.checkpoints, jax.eval_shape(ctx.model.init, jax.random.key(0)))
        return dataclasses.replace(ctx, variables=variables, trained=True)
    if ctx.folder.checkpoints.exists():
        raise ValueError(f"the training in {ctx.folder.root} is not finished: add train to --stages")
    return ctx


def _measure(ctx: context.Context, name: str, stage: context.Stage, arguments: Sequence[str]) -> dict:
    begun = time.monotonic()
    names = {"dataset": ctx.dataset.name, "model": ctx.model.name, "seed": ctx.config.seed}
    rows = records.table(stage(ctx), **names, stage=name)
    note = {
        "seconds": time.monotonic() - begun,
        "trained": ctx.trained or name == "train",
        "command": provenance.command(arguments),
        "commit": provenance.commit(),
        "device": provenance.device(),
    }
    folder.finish(ctx.folder, name, rows, note, order=tuple(stages.STAGES))
    return note


def _keep_compiled_programs() -> None:
    """Compiled programs are kept between runs, in `$JAX_COMPILATION_CACHE_DIR` or the user's cache directory."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mamba_reliability" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _message(error: Exception) -> str | None:
    """One line for the user, or None where the error is none of theirs."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        full = "RESOURCE_EXHAUSTED" in str(error)
        return "out of memory: lower --eval_batch_size, --batch_size or --fault_images" if full else None
    return " ".join(str(error).split())


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
