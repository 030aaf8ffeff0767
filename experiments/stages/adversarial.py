"""Gradient attacks over a grid of radii, with noise of the same size as a control.

An image counts as robust if no attack of its norm succeeds: `any_of_linf` is that worst case over attacks, per image.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import context, measures, records
from experiments.stages import pictures
from mamba_jax import data
from threats import adversarial, outcomes, statistics

# Radii are given in 1/255 in the maximum norm and as they are in the Euclidean one.
UNITS = {"linf": 1 / 255, "l2": 1.0}
CONTROL = "uniform_noise"


def run(ctx: context.Context) -> list[records.Measurement]:
    """Accuracy and success rate of every attack at every radius of its norm."""
    chosen = ctx.config.adversarial
    split = ctx.test_images(chosen.images)
    radii = {"linf": chosen.epsilons, "l2": chosen.epsilons_l2}
    norms = {name: adversarial.ATTACKS[name].norm for name in chosen.attacks}
    steps = sum(len(radii[norms[name]]) for name in chosen.attacks)
    steps += sum(len(radii[norm]) for norm in set(norms.values()))
    clean = ctx.clean_logits(split)
    rows = _gradients(ctx, split)
    with ctx.bar(len(split) * steps, "attacks") as bar:
        for norm in dict.fromkeys(norms.values()):
            names = [name for name in chosen.attacks if norms[name] == norm]
            for epsilon in radii[norm]:
                rows += _at_radius(ctx, norm, names, epsilon, split, clean, bar)
    _pictures(ctx, norms)
    return rows


def _at_radius(ctx, norm: str, names: list[str], epsilon: float, split: data.Split, clean: np.ndarray, bar) -> list:
    wrong_before = ~np.asarray(outcomes.correct(clean, split.labels, ctx.task))
    rows, fooled = [], wrong_before
    for name in (*names, CONTROL):
        logits, success = clean, wrong_before
        if epsilon > 0:
            key = ctx.key("adversarial", name, round(1000 * epsilon))
            attack = _attack(ctx, norm, name)
            outputs = ctx.map(functools.partial(_attacked, ctx, attack, epsilon * UNITS[norm]), split, key=key, bar=bar)
            logits, success = outputs
        else:
            bar.update(len(split))
        fooled = fooled | success if name != CONTROL else fooled
        rows += _rows(norm, name, epsilon, ctx.task, logits, split.labels, success, wrong_before)
    if len(names) > 1:
        robust = statistics.wilson(int((~fooled).sum()), len(fooled))
        metric = "exact_match" if ctx.task == "multi-label" else "accuracy"
        rows.append(records.Measurement(norm, f"any_of_{norm}", epsilon, metric, robust))
    return rows


def _rows(norm, name, epsilon, task, logits, labels, success, wrong_before) -> list[records.Measurement]:
    found = measures.accuracy(logits, labels, task)
    # What an attack reports of itself is what counts: the decision may tie, and it was made by the same program.
    robust = statistics.wilson(int((~success).sum()), len(success))
    found["exact_match" if task == "multi-label" else "accuracy"] = robust
    attackable = ~wrong_before
    found["success_rate"] = statistics.wilson(int((success & attackable).sum()), int(attackable.sum()))
    found["nonfinite"] = measures.nonfinite(logits)
    return [records.Measurement(norm, name, epsilon, metric, interval) for metric, interval in found.items()]


def _attacked(ctx, attack: Callable, radius: float, key, images, labels):
    images, success = attack(ctx.variables, images, labels, key, jnp.float32(radius))
    return ctx.apply(ctx.variables, images), success


def _attack(ctx: context.Context, norm: str, name: str) -> Callable:
    """`(variables, images, labels, key, radius) -> (images, success)`, compiled once per attack."""
    chosen = ctx.config.adversarial
    if name == CONTROL:
        return _noise(ctx.model.apply, norm, ctx.task)
    return _compiled(ctx.model.apply, name, ctx.task, chosen.pgd_steps, chosen.restarts)


@functools.cache
def _compiled(apply: Callable, name: str, task: str, steps: int, restarts: int) -> Callable:
    entry = adversarial.ATTACKS[name]
    options = {"steps": steps} if entry.iterative else {}
    options |= {"restarts": restarts} if entry.iterative and entry.random else {}

    def attack(variables, images, labels, key, radius):
        result = entry.fn(apply, variables, images, labels, key=key, epsilon=radius, task=task, **options)
        return result.images, result.success

    return jax.jit(attack)


@functools.cache
def _noise(apply: Callable, norm: str, task: str) -> Callable:
    def control(variables, images, labels, key, radius):
        noisy = adversarial.norms.get_norm(norm).random_point(key, images, radius)
        return noisy, ~outcomes.correct(apply(variables, noisy), labels, task)

    return jax.jit(control)


def _gradients(ctx: context.Context, split: data.Split) -> list[records.Measurement]:
    """The share of images whose loss gradient is zero: gradient attacks say nothing of those."""

    @jax.jit
    def vanishes(variables, images, labels):
        gradient = jax.grad(lambda x: jnp.sum(outcomes.loss(ctx.model.apply(variables, x), labels, ctx.task)))(images)
        return jnp.all(gradient == 0, axis=(1, 2, 3))

    zero = ctx.map(lambda key, images, labels: vanishes(ctx.variables, images, labels), split, key=ctx.key("gradients"))
    return [records.Measurement("none", "gradient", 0, "zero_gradient", statistics.wilson(int(zero.sum()), len(zero)))]


def _pictures(ctx: context.Context, norms: dict[str, str]) -> None:
    chosen = ctx.config.adversarial
    columns = {}
    for name, norm in norms.items():
        epsilon = (chosen.epsilons if norm == "linf" else chosen.epsilons_l2)[-1]
        attack = _attack(ctx, norm, name)
        size = f"{epsilon:g}/255" if norm == "linf" else f"{epsilon:g}"

        def disturb(key, images, labels, attack=attack, radius=epsilon * UNITS[norm]):
            return attack(ctx.variables, images, labels, key, jnp.float32(radius))[0]

        columns[f"{name.replace('_', ' ')}\nepsilon {size}"] = disturb
    pictures.keep(ctx, "adversarial", columns)
