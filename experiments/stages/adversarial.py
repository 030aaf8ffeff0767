"""Attacks over a grid of radii, with noise of the same size as a control.

An image counts as robust if no attack of its norm succeeds at that radius or a smaller one, whose perturbation lies in
the larger ball too: `any_of_linf` is that worst case over attacks, per image.
`unmoved` is the share of images, among those that were right, for which an attack found nothing worse than the clean
image: where it is not near zero, gradients vanish and the attack says little. (Attacks that look for the smallest
perturbation also give the clean image back where they found none within the radius.)

What becomes of the images is kept in a file for each attack and radius, so that a stage that was killed goes on there;
`clean.npz` beside them has the clean images.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.stages import context, measures, pictures
from experiments.storage import fingerprint, folder, kept, records
from mamba_jax import data
from threats import adversarial, evaluation, outcomes, statistics

# Radii are given in 1/255 in the maximum norm and as they are in the Euclidean one.
UNITS = {"linf": 1 / 255, "l2": 1.0}
# The setting that lists the radii of a norm.
RADII = {"linf": "epsilons", "l2": "epsilons_l2"}
CONTROL = "uniform_noise"
_SINGLE_STEPS = ("fgsm", "fgsm_l2", "r_fgsm")


class Outcome(NamedTuple):
    """Of an attack on n images, what is kept in `attack_parts`: one row per image, in the order of the run's images.

    logits: [n, k]. success: [n] bool. unmoved: [n] bool, where it returned the clean image.
    """

    logits: np.ndarray
    success: np.ndarray
    unmoved: np.ndarray


def run(ctx: context.Context) -> list[records.Measurement]:
    """Accuracy and success rate of every attack at every radius of its norm."""
    chosen = ctx.config.adversarial
    split = ctx.test_images(chosen.images)
    norms = {name: adversarial.ATTACKS[name].norm for name in chosen.attacks}
    radii = {norm: getattr(chosen, RADII[norm]) for norm in norms.values()}
    names = {norm: [*(name for name in norms if norms[name] == norm), CONTROL] for norm in radii}
    clean = _clean(ctx, split)
    rows = []
    with ctx.bar(len(split) * sum(len(names[norm]) * len(radii[norm]) for norm in radii), "attacks") as bar:
        for norm in radii:
            fooled = ~np.asarray(outcomes.correct(clean, split.labels, ctx.task))
            for epsilon in sorted(radii[norm]):
                found, fooled = _at_radius(ctx, norm, names[norm], epsilon, split, clean, fooled, bar)
                rows += found
    _pictures(ctx, names, radii, _size(ctx, split))
    return rows


def part(files: folder.RunFolder, norm: str, name: str, epsilon: float) -> pathlib.Path:
    """The file of an attack and a radius above 0, with the arrays of `Outcome`."""
    return files.attack_parts / f"{norm}-{name}-{epsilon!r}.npz"


def clean_part(files: folder.RunFolder) -> pathlib.Path:
    """The file of the clean images: arrays logits [n, k] and labels, and `images`, which tells them from others."""
    return files.attack_parts / "clean.npz"


def _clean(ctx: context.Context, split: data.Split) -> np.ndarray:
    def compute() -> dict[str, np.ndarray]:
        clean, images = ctx.clean_logits(split, batch_size=_size(ctx, split)), fingerprint.of_arrays([split.images])
        return {"logits": clean, "labels": split.labels, "images": np.array(images)}

    return kept.arrays(clean_part(ctx.folder), compute)["logits"]


def _size(ctx: context.Context, split: data.Split) -> int:
    """Of a batch: attacks are dear, so that the last one is hardly filled up."""
    return evaluation.even_size(len(split), ctx.config.eval_batch_size)


def _at_radius(
    ctx: context.Context, norm: str, names: list[str], epsilon: float, split: data.Split, clean: np.ndarray,
    fooled: np.ndarray, bar: tqdm.tqdm,
) -> tuple[list[records.Measurement], np.ndarray]:  # fmt: skip
    """The rows of one radius, and which images are fooled by then, [n] bool, given those of smaller radii."""
    wrong_before, rows = ~np.asarray(outcomes.correct(clean, split.labels, ctx.task)), []
    for name in names:
        result = Outcome(clean, wrong_before, np.zeros(len(split), bool))
        if epsilon > 0:
            result = _outcome(ctx, norm, name, epsilon, split, bar)
        else:
            bar.update(len(split))
        fooled = fooled | result.success if name != CONTROL else fooled
        rows += _rows(ctx, norm, name, epsilon, result, split.labels, wrong_before)
    if len(names) > 2:
        robust = statistics.wilson(int((~fooled).sum()), len(fooled))
        rows.append(records.Measurement(norm, f"any_of_{norm}", epsilon, per_image(ctx.task), robust))
    return rows, fooled


def _outcome(ctx, norm: str, name: str, epsilon: float, split: data.Split, bar) -> Outcome:
    def compute() -> dict[str, np.ndarray]:
        attack = functools.partial(_attacked, ctx, _attack(ctx, norm, name), epsilon * UNITS[norm])
        key = ctx.key("adversarial", name, norm, round(1000 * epsilon))
        return ctx.map(attack, split, key=key, bar=bar, batch_size=_size(ctx, split))._asdict()

    before = bar.n
    found = Outcome(**kept.arrays(part(ctx.folder, norm, name, epsilon), compute))
    bar.update(before + len(split) - bar.n)  # what was there already
    return found


def _rows(ctx, norm, name, epsilon, result: Outcome, labels, wrong_before) -> list[records.Measurement]:
    found = measures.accuracy(result.logits, labels, ctx.task)
    # What an attack reports of itself is what counts: a tie may be decided otherwise by another program.
    found[per_image(ctx.task)] = statistics.wilson(int((~result.success).sum()), len(labels))
    right = ~wrong_before
    found["success_rate"] = statistics.wilson(int((result.success & right).sum()), int(right.sum()))
    if name != CONTROL and epsilon > 0:
        found["unmoved"] = statistics.wilson(int((result.unmoved & right).sum()), int(right.sum()))
    found["nonfinite"] = measures.nonfinite(result.logits)
    found |= measures.whole_set(result.logits, labels, ctx.task, metrics=("ece",), seed=ctx.config.seed)
    found |= measures.by_class(ctx.decisions(result.logits), labels, ctx.dataset.class_names)
    return [records.Measurement(norm, name, epsilon, metric, interval) for metric, interval in found.items()]


def per_image(task: str) -> str:
    """The metric that is right or wrong per image."""
    return "exact_match" if task == "multi-label" else "accuracy"


def _attacked(ctx, attack: Callable, radius: float, key, images, labels) -> Outcome:
    attacked, success = attack(images, labels, key, jnp.float32(radius))
    logits = ctx.apply(ctx.variables, attacked)
    if success is None:
        success = ~outcomes.correct(logits, labels, ctx.task)
    return Outcome(logits, success, jnp.all(attacked == images, axis=(1, 2, 3)))


def _attack(ctx: context.Context, norm: str, name: str) -> Callable:
    """`(images, labels, key, radius) -> (images, success or None)`."""
    chosen = ctx.config.adversarial
    if name == CONTROL:
        noise = _noise(norm)
        return lambda images, labels, key, radius: (noise(key, images, radius), None)
    return functools.partial(
        _compiled(ctx.model.apply, name, ctx.task, chosen.pgd_steps, chosen.restarts), ctx.variables
    )


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
def _noise(norm: str) -> Callable:
    return jax.jit(adversarial.norms.get_norm(norm).random_point)


def _pictures(
    ctx: context.Context, names: dict[str, list[str]], radii: dict[str, tuple[float, ...]], batch_size: int
) -> None:
    """The first attacks that climb in few steps: drawing a picture runs them again."""
    columns = {}
    for norm, of_norm in names.items():
        epsilon = max(radii[norm])
        quick = [name for name in of_norm[:-1] if adversarial.ATTACKS[name].iterative or name in _SINGLE_STEPS]
        for name in quick:
            attack = _attack(ctx, norm, name)

            def disturb(key, images, labels, attack=attack, radius=epsilon * UNITS[norm]):
                return attack(images, labels, key, jnp.float32(radius))[0]

            size = f"{epsilon:g}/255" if norm == "linf" else f"{epsilon:g}"
            columns[f"{name.replace('_', ' ')}\nepsilon {size}"] = disturb
    if columns:
        pictures.keep(ctx, "adversarial", dict(list(columns.items())[: pictures.MOST]), batch_size=batch_size)
