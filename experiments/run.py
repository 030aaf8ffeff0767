"""One study on one data set: train a model, measure how it breaks, and report.

    python -m experiments.run --flagfile=bloodmnist.flags

Exit codes: 0 done, 2 something that the user can put right (one line on standard error says what), 130 interrupted.
"""

import contextlib
import dataclasses
import errno
import linecache
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Sequence

import jax

from experiments import loading, processes, report, stages
from experiments.settings import config, options
from experiments.stages import campaign, context, train
from experiments.storage import folder, provenance, records
from mamba_jax import data, models, training, tuning, types

_INTERRUPTED = "\ninterrupted: what is finished is kept, and the same command goes on from there"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    try:
        code = _main(sys.argv[1:] if arguments is None else list(arguments))
    except BaseException:
        if processes.joined():
            traceback.print_exc()
            processes.end(1)
        raise
    if code and processes.joined():
        processes.end(code)
    return code


def _main(arguments: Sequence[str]) -> int:
    debug = False
    try:
        chosen, run = options.parse(arguments)
        debug = run.debug
        _run(chosen, run, arguments)
    except options.HelpRequested as text:
        print(text)
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
        return 130
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        message = _message(error)
        if message is None or debug:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def _run(chosen: config.ExperimentConfig, run: options.RunOptions, arguments: Sequence[str]) -> None:
    tuning.tune_cpu()
    tuning.keep_programs()
    if run.cluster is not None:
        processes.join(run.cluster)
    with processes.together():
        images, model, variables = _load(chosen, run)
    ctx = context.Context(
        config=chosen,
        run=run,
        folder=folder.RunFolder(pathlib.Path(run.output)),
        dataset=images,
        model=model,
        variables=variables,
        trained=False,
    )
    if run.plan or run.replay is not None:
        _ask(ctx)
        return
    with contextlib.ExitStack() as stack:
        with processes.together():
            if processes.is_main():
                stack.enter_context(folder.lock(run.output))
                _open(ctx, arguments)
        if run.cluster is not None:
            ctx = _together(ctx, arguments)
        if not processes.is_main():
            return
        for name in (name for name in stages.STAGES if name in run.stages):
            if name != "train" or ctx.fitted is None:
                ctx = _stage(ctx, name, arguments)
        if "report" in run.stages:
            _say(f"report: {report.write(ctx.folder)}")


def _ask(ctx: context.Context) -> None:
    """Says what a campaign would take, or how one of its trials went; the run's folder stays as it is."""
    if ctx.config.fault.campaign is None:
        raise ValueError("plan and replay_trial are of a campaign: add campaign to --fault_modes")
    ctx = _with_weights(ctx, before_training=False)
    replay = ctx.run.replay
    for line in campaign.plan(ctx) if replay is None else campaign.replay(ctx, replay):
        _say(line)


def _together(ctx: context.Context, arguments: Sequence[str]) -> context.Context:
    """What all processes do, the training and a campaign's trials; then they part. Returns it with the weights."""
    to_train = "train" in ctx.run.stages
    with processes.together():
        if not processes.is_main():
            _check_shared(ctx)
        elif to_train and folder.finished(ctx.folder, "train") is None:
            _with_weights(ctx, before_training=True)
    if to_train:
        ctx = dataclasses.replace(ctx, fitted=train.fit(ctx))
    with processes.together():
        if to_train and processes.is_main():
            _stage(ctx, "train", arguments)  # marked as finished before there are trials of its weights
    with processes.together():
        ctx = _with_weights(ctx, before_training=False)
    if "fault" in ctx.run.stages and ctx.config.fault.campaign and folder.finished(ctx.folder, "fault") is None:
        campaign.run_together(ctx)
    processes.leave()
    return ctx


def _check_shared(ctx: context.Context) -> None:
    """Refuses the folder if process 0 has not opened it, or for another configuration than this process's."""
    if not (ctx.folder.root / "config.json").is_file():
        raise ValueError(f"process 0 has opened another {ctx.folder.root}: --output must be on a disk that all see")
    folder.check(ctx.folder, loading.identity(ctx.config, ctx.dataset, ctx.model, ctx.variables))


def _load(
    chosen: config.ExperimentConfig, run: options.RunOptions
) -> tuple[data.Dataset, models.Model, types.Variables | None]:
    """What the configuration names; nothing is written."""
    images = loading.dataset(chosen.data, run.data_dir)
    loading.check(chosen, images)
    to_train = "train" in run.stages or folder.finished(folder.RunFolder(pathlib.Path(run.output)), "train") is not None
    model, variables = loading.model_and_weights(chosen.model, images, adapt=to_train, seed=chosen.seed)
    if variables is None and not to_train and run.stages != ("report",):
        raise ValueError("there are no trained weights: add train to --stages, or name weights with --init_from")
    return images, model, variables


def _open(ctx: context.Context, arguments: Sequence[str]) -> None:
    """Opens or makes the run's folder, and says what is measured."""
    images, model = ctx.dataset, ctx.model
    facts = loading.facts(images, model)
    about = {"data": facts, "made": provenance.describe(arguments)}
    folder.start(ctx.folder.root, loading.identity(ctx.config, images, model, ctx.variables), about)
    sizes = " / ".join(f"{count:,}" for count in facts["images"].values())
    _say(f"{images.name}: {sizes} train / val / test images of {images.image_size} px, {images.task} ({images.source})")
    _say(f"{model.name}: {facts['parameters']:,} parameters, on {provenance.device()}")


def _stage(ctx: context.Context, name: str, arguments: Sequence[str]) -> context.Context:
    """Runs a stage that has not finished; returns the context with the weights that were measured."""
    note = folder.finished(ctx.folder, name)
    if note is not None:
        _say(f"{name}: finished before, in {note['seconds']:.0f} s")
        return ctx
    ctx = _with_weights(ctx, before_training=name == "train")
    note = _measure(ctx, name, arguments)
    if note is None:
        _say(f"{name}: this shard's trials are done; bring all shards together with python -m experiments.merge")
        return ctx
    _say(f"{name}: finished in {note['seconds']:.0f} s")
    return ctx


def _with_weights(ctx: context.Context, *, before_training: bool) -> context.Context:
    """The context with the weights that the next stage is to see."""
    if before_training:
        given = [name for name in stages.STAGES if (folder.finished(ctx.folder, name) or {}).get("trained") is False]
        # Training comes first, so parts of a stage that are there before it are of the weights as they were given.
        kept = {
            "adversarial": ctx.folder.attack_parts,
            "corruption": ctx.folder.corruption_parts,
            "fault": ctx.folder.fault_parts,
        }
        begun = [name for name, parts in kept.items() if any(parts.glob("[!.]*"))]
        given += [f"{name}, unfinished" for name in begun if name not in given]
        if given:
            raise ValueError(
                f"{ctx.folder.root} holds results of weights as they were given ({', '.join(given)}): "
                "choose another --output to train them further"
            )
        return ctx
    if ctx.trained:
        return ctx
    if ctx.fitted is not None:
        return dataclasses.replace(ctx, variables=ctx.fitted.variables, trained=True)
    if folder.finished(ctx.folder, "train") is not None:
        variables = training.load_best(ctx.folder.checkpoints, jax.eval_shape(ctx.model.init, jax.random.key(0)))
        return dataclasses.replace(ctx, variables=variables, trained=True)
    if ctx.folder.checkpoints.exists():
        raise ValueError(f"the training in {ctx.folder.root} is not finished: add train to --stages")
    return ctx


def _measure(ctx: context.Context, name: str, arguments: Sequence[str]) -> dict | None:
    begun = time.monotonic()
    names = {"dataset": ctx.dataset.name, "model": ctx.model.name, "seed": ctx.config.seed}
    found = stages.STAGES[name](ctx)
    if found is None:
        return None
    rows = records.table(found, **names, stage=name)
    together = ctx.fitted.history if name == "train" and ctx.fitted is not None else []
    note = {
        "seconds": time.monotonic() - begun + sum(epoch["seconds"] for epoch in together),
        "trained": ctx.trained or name == "train",
        "command": provenance.command(arguments),
        "commit": provenance.commit(),
        "device": provenance.device(),
        "environment": provenance.environment(),
        "scan_method": loading.scan_method(ctx.model),
    }
    folder.finish(ctx.folder, name, rows, note)
    return note


def _message(error: Exception) -> str | None:
    """One line for the user, or None where the error is none of theirs."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        if "RESOURCE_EXHAUSTED" in str(error):
            return "out of memory: lower --eval_batch_size, --batch_size or --fault_images, or raise --accumulate"
        # Of several processes it is most likely a connection that was lost.
        return f"{processes.STOPPED} ({' '.join(str(error).split())})" if processes.joined() else None
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the device: free some; what is finished is kept, and the same command goes on from it"
    line = " ".join(str(error).split())
    return line if isinstance(error, OSError) or _is_refusal(error) else f"{line} (--debug shows where)"


def _is_refusal(error: Exception) -> bool:
    """Whether this code raised the error itself, to refuse something, rather than a library that it called."""
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    ours = frame.f_globals.get("__name__", "").partition(".")[0] in ("experiments", "mamba_jax", "threats")
    return ours and linecache.getline(frame.f_code.co_filename, number).lstrip().startswith("raise")


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(*_) -> None:
    """Ends the process at once: an exception could be lost in a library's callback, or wait for a checkpoint."""
    os.write(2, f"{_INTERRUPTED}\n".encode())  # not through a stream that the signal may have found half-way
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(main())
