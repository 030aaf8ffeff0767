"""The table of all attacks by name. One without a suffix works in linf, the same with "_l2" in l2."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from threats import outcomes
from threats.adversarial import carlini_wagner, deepfool, fab, hop_skip_jump, minimal, objectives
from threats.adversarial.autopgd import apgd
from threats.adversarial.candidates import AttackResult
from threats.adversarial.ensembles import autoattack
from threats.adversarial.gradient import fgsm, mi_fgsm, pgd, r_fgsm
from threats.adversarial.spsa import spsa_attack
from threats.adversarial.square import square_attack


class Attack(NamedTuple):
    """One attack under its name.

    fn: `(apply, variables, images, labels, *, key, epsilon, task, targeted, **options) -> AttackResult`.
    norm: the norm of its ball, a name in `norms.NORMS`.
    random: it draws from its key.
    iterative: it takes `steps`, a few tens of which do, and where it is random `restarts`. Not so "cw_l2", which needs
      hundreds of steps, many times over, nor the ensemble, whose members' budgets are part of it.
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


def _keyless(attack: Callable[..., AttackResult]) -> Callable[..., AttackResult]:
    def run(*arguments, key=None, **options):
        del key
        return attack(*arguments, **options)

    return run


def _apgd_dlr(*arguments, task: outcomes.Task = "multi-class", **options) -> AttackResult:
    return apgd(*arguments, task=task, objective=objectives.dlr(task), **options)


def _apgd_t(*arguments, targeted: bool = False, **options) -> AttackResult:
    """With a target of the caller's there are no others to climb towards."""
    return apgd(*arguments, targeted=targeted, targets=None if targeted else 9, **options)


_deepfool, _hop_skip_jump = minimal.within(deepfool.attack), minimal.within(hop_skip_jump.attack)


def _both(name: str, fn: Callable[..., AttackResult], *rest, **options) -> dict[str, Attack]:
    """The attack in each of its norms."""
    return {
        key: Attack(functools.partial(fn, norm=norm, **options), norm, *rest)
        for key, norm in ((name, "linf"), (f"{name}_l2", "l2"))
    }


_ANDRIUSHCHENKO = "Andriushchenko et al., Square Attack, 2020"
_AUTO = (
    "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
    "Attacks, 2020"
)
_BOUNDARY = "Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, 2020"
_CARLINI = "Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017"
_CHEN = "Chen et al., HopSkipJumpAttack: A Query-Efficient Decision-Based Attack, 2020"
_DONG = "Dong et al., Boosting Adversarial Attacks with Momentum, 2018"
_GOODFELLOW = "Goodfellow et al., Explaining and Harnessing Adversarial Examples, 2015"
_KURAKIN = "Kurakin et al., Adversarial Examples in the Physical World, 2017"
_MADRY = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018"
_MOOSAVI = "Moosavi-Dezfooli et al., DeepFool, 2016"
_TRAMER = "Tramer et al., Ensemble Adversarial Training: Attacks and Defenses, 2018"
_UESATO = "Uesato et al., Adversarial Risk and the Dangers of Evaluating Against Weak Attacks, 2018"

# What is random, and what is iterative.
_FIXED, _FIXED_STEPS, _DRAWN, _DRAWN_STEPS = (False, False), (False, True), (True, False), (True, True)

ATTACKS: dict[str, Attack] = {
    **_both("fgsm", _keyless(fgsm), *_FIXED, "one steepest step", _GOODFELLOW),
    "r_fgsm": Attack(r_fgsm, "linf", *_DRAWN, "half a random signed step, half a gradient step", _TRAMER),
    "bim": Attack(
        functools.partial(pgd, norm="linf", random_start=False),
        "linf", *_FIXED_STEPS, "steepest steps from the clean image", _KURAKIN,
    ),
    **_both("mi_fgsm", _keyless(mi_fgsm), *_FIXED_STEPS, "steepest steps along the momentum of gradients", _DONG),
    **_both("pgd", pgd, *_DRAWN_STEPS, "steepest steps from a random start", _MADRY),
    **_both("apgd_ce", apgd, *_DRAWN_STEPS, "steps of a size found on the way, up the cross-entropy", _AUTO),
    **_both("apgd_dlr", _apgd_dlr, *_DRAWN_STEPS, "the same up the difference of logits ratio", _AUTO),
    **_both("apgd_t", _apgd_t, *_DRAWN_STEPS, "the same towards the nine likeliest wrong classes", _AUTO),
    **_both("deepfool", _deepfool, *_FIXED_STEPS, "steps to the nearest linear boundary", _MOOSAVI),
    "cw_l2": Attack(
        minimal.within(carlini_wagner.attack),
        "l2", *_FIXED, "Adam on distance and margin, weighed by bisection", _CARLINI,
    ),
    **_both("fab", fab.bounded, *_DRAWN_STEPS, "along the boundary towards the clean image", _BOUNDARY),
    **_both("square", square_attack, *_DRAWN, "random search with squares, from outputs alone", _ANDRIUSHCHENKO),
    "spsa": Attack(spsa_attack, "linf", *_DRAWN_STEPS, "steps along gradients guessed from outputs alone", _UESATO),
    **_both("hop_skip_jump", _hop_skip_jump, *_DRAWN, "nearest boundary, from decisions alone", _CHEN),
    **_both("autoattack", autoattack, *_DRAWN, "APGD, APGD-T, FAB and Square on what is left", _AUTO),
}  # fmt: skip
