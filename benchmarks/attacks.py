"""Projected gradient descent: a step of it against one gradient with respect to the images, and the whole of it against
Foolbox's on the same model.

    python -m benchmarks.attacks           # with MedMamba-T and Foolbox, which the suite leaves out: over half an hour

A step's time is the difference of a long and a short attack over the difference of their steps, in the same round; so
the passes before the first step and after the last do not count.

Against Foolbox both do the same: a uniform start in the ball, as many gradients of the summed cross-entropy, the last
iterate, and one forward pass that says which images are misclassified. Ours is one jitted program; Foolbox's loop runs
in Python, on the model's `apply` jitted, or on the plain one, which it evaluates operation by operation, compiling the
loops of the scans anew at each call.
"""

import contextlib
import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import threats
from benchmarks import figures, floors, setting, timing
from mamba_jax import models, training

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
NO_FOOLBOX = (
    "what compares with Foolbox is left out, as it is not installed; `pip install foolbox` or `make setup` does"
)


def run(given: setting.Setting) -> Iterator[figures.Figure]:
    """Of each model, seconds of an input gradient and of a PGD step, and their ratio."""
    for name in given.sizes.attacked:
        yield from _step_vs_grad(given, name)


def run_t(given: setting.Setting) -> Iterator[figures.Figure]:
    """The same of MedMamba-T."""
    for name in given.sizes.attacked_t:
        yield from _step_vs_grad(given, name)


def run_foolbox(given: setting.Setting) -> Iterator[figures.Figure]:
    """Of each model, images per second, and how many times as long Foolbox takes; nothing where it is not installed."""
    yield from _each_vs_foolbox(given, "", None)


def run_one_image(given: setting.Setting) -> Iterator[figures.Figure]:
    """The same of a single image, where what Foolbox does between two gradients is not lost in their time."""
    yield from _each_vs_foolbox(given, "_one_image", 1)


def _each_vs_foolbox(given: setting.Setting, suffix: str, count: int | None) -> Iterator[figures.Figure]:
    try:
        foolbox_pgd = _foolbox_pgd()
    except ImportError:
        given.say(NO_FOOLBOX)
        return
    for name in (*given.sizes.attacked, *given.sizes.attacked_t):
        subject = setting.attacked(given.sizes, name)
        subject = subject._replace(images=subject.images[:count], labels=subject.labels[:count])
        yield from _vs_foolbox(given, subject, f"{suffix}_{name}", foolbox_pgd)


def _step_vs_grad(given: setting.Setting, name: str) -> Iterator[figures.Figure]:
    subject, (few, many) = setting.attacked(given.sizes, name), given.sizes.attack_steps
    model, variables, images, labels = subject
    given.say(f"attacks, {name}: compiling")

    def gradient_of(method: str):
        options = {"scan_method": method} if model.config.name.startswith("medmamba") else {}
        apply = models.from_config(dataclasses.replace(model.config, **options)).apply

        def total(images, variables):
            return jnp.sum(training.loss(apply(variables, images), labels, "multi-class"))

        return lambda variables, images: jax.grad(total)(images, variables)

    work = floors.without_scan(gradient_of, variables, images, gradient=True).work
    floor = work.seconds(given.rates)
    compared = {"input gradient": functools.partial(jax.jit(gradient_of("auto")), variables, images)}
    compared |= {"short": pgd(subject, few), "long": pgd(subject, many)}
    seconds = given.compare(f"attacks, {name}, PGD of {few} and of {many} steps, {len(images)} images", compared)
    step = (seconds["long"] - seconds["short"]) / (many - few)
    for figure, samples in (("input_gradient", seconds["input gradient"]), ("pgd_step", step)):
        yield figures.Figure(name=f"attacks/{figure}_{name}", unit="s", interval=timing.median(samples), floor=floor)
    interval = timing.ratio(step, seconds["input gradient"])
    yield figures.Figure(name=f"attacks/pgd_step_vs_grad_{name}", unit="x", interval=interval)


def _vs_foolbox(
    given: setting.Setting, subject: setting.Attacked, name: str, foolbox_pgd: Callable[..., Any]
) -> Iterator[figures.Figure]:
    sizes = given.sizes
    jitted, plain = jax.jit(subject.model.apply), subject.model.apply
    for suffix, kind, apply, steps, rounds in (
        ("", "jitted", jitted, sizes.foolbox_steps, sizes.rounds),
        ("_plain", "plain", plain, sizes.foolbox_plain_steps, sizes.foolbox_plain_rounds),
    ):
        ours, theirs = f"PGD of {steps} steps", f"Foolbox, {kind} apply, {steps} steps"
        compared = {ours: pgd(subject, steps, keep="last"), theirs: foolbox_pgd(subject, apply, steps)}
        what = f"attacks, {subject.model.config.name}, {len(subject.images)} images, against Foolbox"
        seconds = given.compare(what, compared, rounds)
        yield figures.Figure(
            name=f"attacks/pgd_vs_foolbox{suffix}{name}",
            unit="images/s",
            interval=timing.rate(timing.median(seconds[ours]), len(subject.images)),
            other=theirs,
            other_ratio=timing.ratio(seconds[theirs], seconds[ours]),
        )


def pgd(subject: setting.Attacked, steps: int, **options: Any) -> Callable[[], Any]:
    """Our PGD on the subject, compiled at its first call; returns the result."""
    attack = functools.partial(threats.pgd, subject.model.apply, steps=steps, **options)
    arguments = {"key": jax.random.key(0), "epsilon": EPSILON, "step_size": STEP_SIZE}
    return functools.partial(jax.jit(attack), subject.variables, subject.images, subject.labels, **arguments)


def _foolbox_pgd() -> Callable[..., Callable[[], Any]]:
    """`(subject, apply, steps) -> its PGD on them`; raises ImportError if Foolbox is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

    def made(subject: setting.Attacked, apply: Callable[..., jax.Array], steps: int) -> Callable[[], Any]:
        model = foolbox.JAXModel(functools.partial(apply, subject.variables), bounds=(0, 1))
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=STEP_SIZE, steps=steps, random_start=True
        )

        def call():
            with _as_foolbox_expects():
                _, images, success = attack(model, subject.images, subject.labels, epsilons=EPSILON)
            return images, success

        return call

    return made


@contextlib.contextmanager
def _as_foolbox_expects() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    from benchmarks import suite

    sys.exit(suite.main(["--only=attacks,attacks_t,attacks_foolbox,attacks_one_image", *sys.argv[1:]]))
