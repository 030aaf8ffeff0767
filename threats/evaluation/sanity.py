"""Can a robust accuracy be believed? The checks that catch an attack which failed rather than a model that resists.

    gradients     none is zero or non-finite at an image that is decided rightly
    noise         uniform noise of the same size breaks no more images than the iterative attack
    single step   one gradient step breaks no more than the iterative attack
    more steps    twice the steps break no fewer
    larger ball   twice the radius breaks no fewer
    black box     an attack without gradients breaks no more than the one with them
    unbounded     any image can be broken by an attack that may change every pixel as it likes

Each compares, image by image, what a weaker and a stronger attacker break. A few images that only the weaker one breaks
are chance; significantly more than the other way round (one-sided sign test, 5 %) are a failure: of the attack, or of
its gradients, which the model may mask. Reference: Carlini et al., "On Evaluating Adversarial Robustness", 2019,
section 4; Athalye et al., "Obfuscated Gradients Give a False Sense of Security", 2018, section 3.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from threats import adversarial, outcomes, statistics
from threats.adversarial import norms, objectives
from threats.evaluation import batches

_LEVEL = 0.05
_ZERO_GRADIENTS = 0.01  # a confident model's cross-entropy may underflow at a few
_UNBOUNDED_STEPS = 50

Verdict = Literal["pass", "fail", "not applicable"]


class Check(NamedTuple):
    """One line of the report.

    name: of the check. norm, epsilon: of the ball. verdict: see `Verdict`. numbers: what was counted, each a share of
    images with its interval and count. text: the same in words.
    """

    name: str
    norm: str
    epsilon: float
    verdict: Verdict
    numbers: dict[str, statistics.Interval]
    text: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.name} ({self.norm}, epsilon {self.epsilon:.4g}): {self.text}"


def sanity_report(
    apply: Callable[..., jax.Array],
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    epsilon: float,
    norm: str = "linf",
    task: outcomes.Task = "multi-class",
    steps: int = 20,
    images_at_once: int | None = None,
) -> tuple[Check, ...]:
    """The checks of this module, for a model in one ball; costs about ten attacks of `steps` steps.

    Args:
      apply, variables, images, labels, task, images_at_once: as in `evaluate`.
      key: consumed.
      epsilon: radius, in (0, 1); half of it is what "larger ball" compares with.
      norm: a name in `norms.NORMS`.
      steps: of the iterative attack.

    Raises:
      ValueError: as in `evaluate`, or a radius that is not positive.
    """
    given = batches.problem(apply, variables, images, labels, task, images_at_once)
    return of_problem(given, key=key, norm=norm, epsilon=epsilon, steps=steps)


def of_problem(
    given: batches.Problem, *, key: jax.Array, norm: str, epsilon: float, steps: int = 20
) -> tuple[Check, ...]:
    """`sanity_report` of a problem that has been checked."""
    if epsilon <= 0:
        return ()
    name, at = {"linf": "pgd", "l2": "pgd_l2"}[norm], (norm, epsilon)
    single = {"linf": "fgsm", "l2": "fgsm_l2"}[norm]

    def broken(attack: str, radius: float, **options: Any) -> np.ndarray:
        entry = adversarial.ATTACKS[attack]
        return batches.compiled(given, entry, options)(batches.key_for(key, attack, radius), radius).success

    gradients = _gradients(given)
    strong, longer = broken(name, epsilon, steps=steps), broken(name, epsilon, steps=2 * steps)
    checks = [
        _of_gradients(at, *gradients),
        _weaker(at, "noise", ("noise", _noise(given, key, norm, epsilon)), (name, strong)),
        _weaker(at, "single step", (single, broken(single, epsilon)), (name, strong)),
        _weaker(at, "more steps", (f"{steps} steps", strong), (f"{2 * steps} steps", longer)),
        _weaker(at, "larger ball", ("half the radius", broken(name, epsilon / 2, steps=steps)), (name, strong)),
        _black_box(at, broken, (name, strong)),
        _unbounded(at, given, broken(name, _whole_box(norm, given.images), steps=_UNBOUNDED_STEPS)),
    ]
    return tuple(checks)


def _whole_box(norm: str, images: np.ndarray) -> float:
    return 1.0 if norm == "linf" else float(np.sqrt(np.prod(images.shape[1:])))


def _gradients(given: batches.Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n] bool each: decided rightly, gradient zero, gradient not finite."""
    objective = objectives.cross_entropy(given.task)

    @jax.jit
    def of_batch(variables, images, labels):
        def total(x):
            logits = given.apply(variables, x)
            return jnp.sum(objective(logits, labels)), outcomes.correct(logits, labels, given.task)

        gradient, right = jax.grad(total, has_aux=True)(images)
        axes = tuple(range(1, images.ndim))
        return right, jnp.all(gradient == 0, axis=axes), ~jnp.all(jnp.isfinite(gradient), axis=axes)

    return batches.in_batches(given, lambda _, images, labels: of_batch(given.variables, images, labels))


def _of_gradients(at: tuple[str, float], right: np.ndarray, zero: np.ndarray, broken: np.ndarray) -> Check:
    if not right.any():
        return Check("gradients", *at, "not applicable", {}, "no image is decided rightly")
    found = {
        "zero": statistics.wilson(int((zero & right).sum()), int(right.sum())),
        "not finite": statistics.wilson(int((broken & right).sum()), int(right.sum())),
    }
    good = found["zero"].value <= _ZERO_GRADIENTS and found["not finite"].value == 0
    text = f"{_percent(found['zero'])} are zero, {_percent(found['not finite'])} not finite"
    return Check("gradients", *at, "pass" if good else "fail", found, text)


def _noise(given: batches.Problem, key: jax.Array, norm: str, epsilon: float) -> np.ndarray:
    draw = norms.get_norm(norm).random_point
    key = batches.key_for(key, "noise")

    @jax.jit
    def of_batch(variables, images, labels, own):
        return ~outcomes.correct(given.apply(variables, draw(own, images, epsilon)), labels, given.task)

    def run(number, images, labels):
        return of_batch(given.variables, images, labels, jax.random.fold_in(key, number))

    return batches.in_batches(given, run)


def _weaker(at: tuple[str, float], check: str, weak: tuple[str, np.ndarray], strong: tuple[str, np.ndarray]) -> Check:
    """Fails where the one that should be weaker breaks significantly more images."""
    only_weak, only_strong = int((weak[1] & ~strong[1]).sum()), int((strong[1] & ~weak[1]).sum())
    either = only_weak + only_strong
    surprising = either and stats.binomtest(only_weak, either, alternative="greater").pvalue < _LEVEL
    numbers = {name: statistics.wilson(int(success.sum()), len(success)) for name, success in (weak, strong)}
    text = f"{_percents(numbers)}; {only_weak} images by the first alone, {only_strong} by the second alone"
    return Check(check, *at, "fail" if surprising else "pass", numbers, text)


def _black_box(at: tuple[str, float], broken: Callable[..., np.ndarray], strong: tuple[str, np.ndarray]) -> Check:
    name = {"linf": "square", "l2": "square_l2"}[at[0]]
    return _weaker(at, "black box", (name, broken(name, at[1], queries=500)), strong)


def _unbounded(at: tuple[str, float], given: batches.Problem, success: np.ndarray) -> Check:
    found = statistics.wilson(int(success.sum()), given.count)
    verdict: Verdict = "pass" if success.all() else "fail"
    return Check("unbounded", *at, verdict, {"unbounded": found}, f"breaks {_percent(found)}")


def _percents(numbers: dict[str, statistics.Interval]) -> str:
    return ", ".join(f"{name} breaks {_percent(interval)}" for name, interval in numbers.items())


def _percent(interval: statistics.Interval) -> str:
    value, low, high, count = interval
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({count:,})"
