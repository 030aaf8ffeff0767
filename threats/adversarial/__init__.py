"""Adversarial attacks on any `apply(variables, images) -> logits`, and the table of all of them.

Every entry of `ATTACKS` is called alike,

    ATTACKS["pgd_l2"].fn(apply, variables, images, labels, *, key, epsilon, task, targeted, **options)

and returns an `AttackResult`; an attack that draws nothing ignores its key. The task is "multi-class" and targeted
False unless given; further options are those of the function itself.

Attacks that look for the smallest perturbation take no radius: `carlini_wagner.attack`, `deepfool.attack` and
`fab.attack` return distances, a `MinimalResult`. In the table they are called as all others, and what they find farther
than epsilon away is given up for the clean image (`minimal.within`).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from threats.adversarial import carlini_wagner, deepfool, fab, gradient, minimal, norms, objectives, transfer, universal
from threats.adversarial.candidates import AttackResult
from threats.adversarial.gradient import fgsm, pgd
from threats.adversarial.hop_skip_jump import hop_skip_jump_attack
from threats.adversarial.minimal import MinimalResult
from threats.adversarial.spsa import spsa_attack
from threats.adversarial.square import square_attack
from threats.adversarial.stochastic import expectation

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "MinimalResult",
    "carlini_wagner",
    "deepfool",
    "expectation",
    "fab",
    "fgsm",
    "get_attack",
    "hop_skip_jump_attack",
    "minimal",
    "norms",
    "objectives",
    "pgd",
    "spsa_attack",
    "square_attack",
    "transfer",
    "universal",
]


class Attack(NamedTuple):
    """One attack under its name.

    fn: `(apply, variables, images, labels, *, key, epsilon, task, targeted, **options) -> AttackResult`.
    norm: the norm of its ball, a name in `norms.NORMS`.
    random: it draws from its key.
    iterative: it takes `steps`, a few tens of which do, and where it is random `restarts`. Not so "cw_l2", which needs
      hundreds of steps, many times over.
    description: one line for tables and help texts.
    source: author, title, year.
    """

    fn: Callable[..., AttackResult]
    norm: str
    random: bool
    iterative: bool
    description: str
    source: str


def get_attack(name: str) -> Attack:
    """The attack of that name; raises ValueError, listing the known ones, if there is none."""
    if name not in ATTACKS:
        raise ValueError(f"attack must be one of {tuple(ATTACKS)}, got {name!r}")
    return ATTACKS[name]


def _single_step(norm: str) -> Callable[..., AttackResult]:
    def run(apply, variables, images, labels, *, key=None, **options):
        del key
        return gradient.fgsm(apply, variables, images, labels, norm=norm, **options)

    return run


def _fab(norm: str) -> Callable[..., AttackResult]:
    def run(*arguments, epsilon, **options):
        return minimal.within(fab.attack)(*arguments, epsilon=epsilon, start_radius=epsilon, norm=norm, **options)

    return run


_ANDRIUSHCHENKO = "Andriushchenko et al., Square Attack, 2020"
_CARLINI = "Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017"
_CHEN = "Chen et al., HopSkipJumpAttack: A Query-Efficient Decision-Based Attack, 2020"
_CROCE = "Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, 2020"
_GOODFELLOW = "Goodfellow et al., Explaining and Harnessing Adversarial Examples, 2015"
_KURAKIN = "Kurakin et al., Adversarial Examples in the Physical World, 2017"
_MADRY = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018"
_MOOSAVI = "Moosavi-Dezfooli et al., DeepFool, 2016"
_UESATO = "Uesato et al., Adversarial Risk and the Dangers of Evaluating Against Weak Attacks, 2018"

ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(_single_step("linf"), "linf", False, False, "one signed gradient step", _GOODFELLOW),
    "fgsm_l2": Attack(_single_step("l2"), "l2", False, False, "one normalised gradient step", _GOODFELLOW),
    "bim": Attack(
        functools.partial(pgd, norm="linf", random_start=False),
        "linf", False, True, "signed gradient steps from the clean image", _KURAKIN,
    ),
    "pgd": Attack(
        functools.partial(pgd, norm="linf"),
        "linf", True, True, "signed gradient steps from a random start", _MADRY,
    ),
    "pgd_l2": Attack(
        functools.partial(pgd, norm="l2"),
        "l2", True, True, "normalised gradient steps from a random start", _MADRY,
    ),
    "square": Attack(
        functools.partial(square_attack, norm="linf"),
        "linf", True, False, "random search with squares, from outputs alone", _ANDRIUSHCHENKO,
    ),
    "square_l2": Attack(
        functools.partial(square_attack, norm="l2"),
        "l2", True, False, "random search with squares, from outputs alone", _ANDRIUSHCHENKO,
    ),
    "spsa": Attack(spsa_attack, "linf", True, True, "steps along gradients guessed from outputs alone", _UESATO),
    "hop_skip_jump": Attack(
        functools.partial(hop_skip_jump_attack, norm="linf"),
        "linf", True, False, "nearest boundary, from decisions alone", _CHEN,
    ),
    "hop_skip_jump_l2": Attack(
        functools.partial(hop_skip_jump_attack, norm="l2"),
        "l2", True, False, "nearest boundary, from decisions alone", _CHEN,
    ),
    "deepfool_l2": Attack(
        minimal.within(functools.partial(deepfool.attack, norm="l2")),
        "l2", False, True, "steps to the nearest linearised boundary", _MOOSAVI,
    ),
    "deepfool_linf": Attack(
        minimal.within(functools.partial(deepfool.attack, norm="linf")),
        "linf", False, True, "steps to the nearest linearised boundary", _MOOSAVI,
    ),
    "cw_l2": Attack(
        minimal.within(carlini_wagner.attack),
        "l2", False, False, "Adam on distance and margin, weighed by bisection", _CARLINI,
    ),
    "fab": Attack(_fab("linf"), "linf", True, True, "along the boundary towards the clean image", _CROCE),
    "fab_l2": Attack(_fab("l2"), "l2", True, True, "along the boundary towards the clean image", _CROCE),
}  # fmt: skip
