"""The front door of attacks: any of them, at any radii, on any number of images, and what that says of a model.

    robust accuracy   share of images on which the attack does not succeed, with Wilson's interval
    worst case        share on which no attack of a norm succeeds, image by image: never an average over attacks
    distortion        per image the shortest perturbation that succeeded, in a norm

Example:
  >>> found = threats.evaluate(model.apply, variables, images, labels, ("fgsm", "pgd"), (1 / 255, 4 / 255), key=key)
  >>> found.robust_accuracy("pgd", 4 / 255), found.worst_case("linf", 4 / 255)
  >>> print(*found.sanity, sep="\\n")
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from threats import adversarial, outcomes, statistics
from threats.evaluation import batches, sanity

Radii = Sequence[float] | Mapping[str, Sequence[float]]


class Evaluation(NamedTuple):
    """What attacks did to n images.

    Attributes:
      clean: [n] bool, decided rightly without an attack.
      success: by attack and radius, [n] bool: the decision is wrong afterwards (as it may have been before).
      distances: by attack and radius, [n] the length of what was found, in the attack's norm.
      norms: by attack, its norm.
      sanity: whether the figures can be believed, see `sanity.sanity_report`; empty if it was not asked for.
    """

    clean: np.ndarray
    success: dict[tuple[str, float], np.ndarray]
    distances: dict[tuple[str, float], np.ndarray]
    norms: dict[str, str]
    sanity: tuple[sanity.Check, ...]

    def accuracy(self, *, confidence: float = 0.95) -> statistics.Interval:
        """Without an attack; in multi-label, of images with every label right."""
        return _share(self.clean, confidence)

    def robust_accuracy(self, attack: str, epsilon: float, *, confidence: float = 0.95) -> statistics.Interval:
        """Share of images on which the attack did not succeed.

        Raises:
          KeyError: it was not run at that radius.
        """
        return _share(~self.success[attack, epsilon], confidence)

    def worst_case(self, norm: str, epsilon: float, *, confidence: float = 0.95) -> statistics.Interval:
        """Share of images on which no attack of that norm succeeded at that radius or a smaller one.

        Raises:
          KeyError: none was run at that radius.
        """
        of_norm = [key for key in self.success if self.norms[key[0]] == norm]
        if not any(radius == epsilon for _, radius in of_norm):
            raise KeyError((norm, epsilon))
        fooled = np.any([self.success[key] for key in of_norm if key[1] <= epsilon], axis=0)
        return _share(~(fooled | ~self.clean), confidence)

    def distortion(self, norm: str) -> np.ndarray:
        """[n] the shortest successful perturbation in that norm; 0 where none is needed, infinite where none was found.

        Raises:
          KeyError: no attack of that norm was run.
        """
        keys = [key for key in self.success if self.norms[key[0]] == norm]
        if not keys:
            raise KeyError(norm)
        found = [np.where(self.success[key], self.distances[key], np.inf) for key in keys]
        return np.where(self.clean, np.min(found, axis=0), 0.0)


def evaluate(
    apply: Callable[..., jax.Array],
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    attacks: Sequence[str] | Mapping[str, adversarial.Attack],
    epsilons: Radii,
    *,
    key: jax.Array,
    task: outcomes.Task = "multi-class",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    images_at_once: int | None = None,
    check: bool = True,
    watch: Callable[[str, float], object] = lambda attack, epsilon: None,
) -> Evaluation:
    """Runs every attack at every radius of its norm on all images.

    Args:
      apply: (variables, images) -> logits; need not be jitted, and normalises by itself.
      variables: its parameters, any pytree.
      images: [n, h, w, c] float32 in [0, 1]; as many as there are, since they are split into batches.
      labels: [n] int32, [n, k] 0/1 where the task is multi-label, or the task's own.
      attacks: names in `adversarial.ATTACKS`, or entries of your own by name.
      epsilons: radii in the images' unit (8/255), for all attacks, or by norm: {"linf": ..., "l2": ...}.
      key: consumed; an attack's draws depend on its name, the radius, and the batch.
      task: one of `outcomes.TASKS`, or `tasks.Rules`.
      options: by attack, further arguments such as {"pgd": {"steps": 40}}.
      images_at_once: at most; by default 128 at 28 px, in proportion to the pixels.
      check: whether to add the sanity report, which runs some attacks more, at the largest radius of each norm.
      watch: told of every attack and radius that is done.

    Raises:
      ValueError: an unknown attack or task, no radius for an attack's norm, or arrays that do not fit together.
    """
    given = batches.problem(apply, variables, images, labels, task, images_at_once)
    by_name = isinstance(attacks, Mapping)
    entries = dict(attacks) if by_name else {name: adversarial.get_attack(name) for name in attacks}
    options = dict(options or {})
    if unknown := set(options) - set(entries):
        raise ValueError(f"options must be of the attacks {tuple(entries)}, got some for {sorted(unknown)}")
    radii = {name: _radii(epsilons, entry.norm) for name, entry in entries.items()}
    forward = jax.jit(lambda variables, images, labels: outcomes.correct(apply(variables, images), labels, task))
    clean = batches.in_batches(given, lambda _, images, labels: forward(variables, images, labels))
    success, distances = {}, {}
    for name, entry in entries.items():
        attack = batches.compiled(given, entry, options.get(name, {}))
        for epsilon in radii[name]:
            found = attack(batches.key_for(key, name, epsilon), epsilon)
            success[name, epsilon], distances[name, epsilon] = found
            watch(name, epsilon)
    report: tuple[sanity.Check, ...] = ()
    if check:
        largest = {entry.norm: max(radii[name]) for name, entry in entries.items() if radii[name]}
        for norm, epsilon in largest.items():
            report += sanity.of_problem(given, key=batches.key_for(key, "sanity", norm), norm=norm, epsilon=epsilon)
    return Evaluation(clean, success, distances, {name: entry.norm for name, entry in entries.items()}, report)


def _radii(epsilons: Radii, norm: str) -> tuple[float, ...]:
    if not isinstance(epsilons, Mapping):
        return tuple(float(epsilon) for epsilon in epsilons)
    if norm not in epsilons:
        raise ValueError(f"epsilons must have radii for {norm}, got some for {tuple(epsilons)}")
    return tuple(float(epsilon) for epsilon in epsilons[norm])


def _share(kept: np.ndarray, confidence: float) -> statistics.Interval:
    return statistics.wilson(int(kept.sum()), len(kept), confidence=confidence)
