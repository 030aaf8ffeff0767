"""MedMamba-T: forward pass and gradient, forward pass at 224 px, scan left out, time per image, memory of a gradient.

The gradient is of the mean loss with respect to all parameters, with the batch norms' running statistics and no drop
path (`train=False`); `training` measures whole steps. "Scan left out" has a product of the scan's inputs in its place,
so that everything around it stays.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import children, figures, floors, setting, timing
from mamba_jax import models, training

NUM_CLASSES = 8


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """All figures of the model."""
    sizes = given.sizes
    at_28 = options(sizes.model, sizes.side_28, sizes.patch_28)
    # With the associative scan the gradient takes long to compile, and at 224 px the forward pass gigabytes for each
    # intermediate; `scan` compares the methods' gradients.
    yield from _side(given, "28", at_28, sizes.batch, kinds=("forward",), other="associative")
    yield from _side(given, "28", at_28, sizes.batch, kinds=("grad",), other=None)
    at_224 = options(sizes.model, sizes.side_224, sizes.patch_224)
    yield from _side(given, "224", at_224, sizes.batch_224, kinds=("forward",), other=None)
    yield from _per_image(given, at_28)
    yield from _memory(given, at_224)


def options(model: Mapping[str, Any], side: int, patch: int) -> dict[str, Any]:
    """Arguments of `create_model` for images of `side` px in patches of `patch` px."""
    return {**model, "num_classes": NUM_CLASSES, "image_size": side, "patch_size": patch}


def forward(chosen: Mapping[str, Any], method: str) -> Callable[..., jax.Array]:
    """`(variables, images, labels) -> logits` of the model with that scan method; the labels are not used."""
    model = models.create_model(**chosen, scan_method=method)
    return lambda variables, images, labels: model.apply(variables, images)


def grad(chosen: Mapping[str, Any], method: str) -> Callable[..., Any]:
    """`(variables, images, labels) -> gradients` of the mean loss with respect to `params`."""
    model = models.create_model(**chosen, scan_method=method)

    def objective(params, variables, images, labels):
        logits = model.apply({**variables, "params": params}, images)
        return jnp.mean(training.loss(logits, labels, "multi-class"))

    return lambda variables, images, labels: jax.grad(objective)(variables["params"], variables, images, labels)


_KINDS = {"forward": forward, "grad": grad}


def _side(
    given: setting.Setting,
    side: str,
    chosen: Mapping[str, Any],
    batch: int,
    *,
    kinds: tuple[str, ...],
    other: str | None,
) -> Iterator[figures.Figure]:
    """Each kind as a model takes it by default, with the other scan method, and with the scan left out."""
    variables = models.create_model(**chosen).init(jax.random.key(0))
    arguments = variables, setting.images(batch, chosen["image_size"]), setting.labels(batch)
    for kind in kinds:
        name = f"medmamba_t_{side}_{kind}"
        given.say(f"model, {name}: compiling")
        made = functools.partial(_KINDS[kind], chosen)
        rest = floors.without_scan(made, *arguments, gradient=kind == "grad")
        compared = {"auto": functools.partial(jax.jit(made("auto")), *arguments)}
        compared |= {other: functools.partial(jax.jit(made(other)), *arguments)} if other else {}
        compared["scan left out"] = functools.partial(rest.compiled, *arguments)
        seconds = given.compare(f"model, {name}", compared)
        against = {"other": other, "other_ratio": timing.ratio(seconds[other], seconds["auto"])} if other else {}
        floor = rest.work.seconds(given.rates)
        whole, without = timing.median(seconds["auto"]), timing.median(seconds["scan left out"])
        yield figures.Figure(name=f"model/{name}", unit="s", interval=whole, floor=floor, **against)
        floor = floors.counted_work(rest.compiled).seconds(given.rates)
        yield figures.Figure(name=f"model/{name}_scan_left_out", unit="s", interval=without, floor=floor)


def _per_image(given: setting.Setting, chosen: Mapping[str, Any]) -> Iterator[figures.Figure]:
    """Forward time per image by batch size, and of the largest batch over the smallest: 1 is flat."""
    variables = models.create_model(**chosen).init(jax.random.key(0))
    apply = jax.jit(forward(chosen, "auto"))
    batches = given.sizes.batches
    compared = {
        f"batch {batch}": functools.partial(
            apply, variables, setting.images(batch, chosen["image_size"]), setting.labels(batch)
        )
        for batch in batches
    }
    seconds = given.compare("model, time per image", compared)
    per_image = {batch: seconds[f"batch {batch}"] / batch for batch in batches}
    for batch, samples in per_image.items():
        interval = timing.median(samples * 1e3)
        yield figures.Figure(name=f"model/medmamba_t_28_per_image_batch_{batch}", unit="ms", interval=interval)
    least, most = min(batches), max(batches)
    interval = timing.ratio(per_image[most], per_image[least])
    yield figures.Figure(name=f"model/medmamba_t_28_per_image_batch_{most}_over_{least}", unit="x", interval=interval)


def _memory(given: setting.Setting, chosen: Mapping[str, Any]) -> Iterator[figures.Figure]:
    """What forward and backward at 224 px take in a fresh process; see `memory`."""
    name = "model/medmamba_t_224_grad_memory"
    given.say(f"{name}: a fresh process")
    found = children.run("benchmarks.memory", {"options": chosen, "batch": given.sizes.batch_224})
    # Floor: the weights and their gradients, which no program can do without.
    floor = found["floor"] / 1e9
    for suffix, key in (("", "peak"), ("_planned", "planned")):
        interval = timing.median([found[key] / 1e9])
        yield figures.Figure(name=f"{name}{suffix}", unit="GB", interval=interval, floor=floor)
