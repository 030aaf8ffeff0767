"""Adversarial attacks on any `apply(variables, images) -> logits`, and the table of all of them.

Every entry of `ATTACKS` is called alike,

    ATTACKS["pgd_l2"].fn(apply, variables, images, labels, *, key, epsilon, task, targeted, **options)

and returns an `AttackResult`; an attack that draws nothing ignores its key. The task is "multi-class" and targeted
False unless given; further options are those of the function itself.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from threats import outcomes
from threats.adversarial import norms, objectives
from threats.adversarial.autopgd import apgd
from threats.adversarial.candidates import AttackResult
from threats.adversarial.gradient import fgsm, mi_fgsm, pgd, r_fgsm

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "apgd",
    "fgsm",
    "get_attack",
    "mi_fgsm",
    "norms",
    "objectives",
    "pgd",
    "r_fgsm",
]


class Attack(NamedTuple):
    """One attack under its name.

    fn: `(apply, variables, images, labels, *, key, epsilon, task, targeted, **options) -> AttackResult`.
    norm: the norm of its ball, a name in `norms.NORMS`.
    random: it draws from its key.
    iterative: it takes `steps`.
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


def _without_key(attack: Callable[..., AttackResult], **fixed) -> Callable[..., AttackResult]:
    def run(*arguments, key=None, **options):
        del key
        return attack(*arguments, **fixed, **options)

    return run


def _apgd_dlr(*arguments, task: outcomes.Task = "multi-class", **options) -> AttackResult:
    return apgd(*arguments, task=task, objective=objectives.dlr(task), **options)


_CROCE = (
    "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
    "Attacks, 2020"
)
_DONG = "Dong et al., Boosting Adversarial Attacks with Momentum, 2018"
_GOODFELLOW = "Goodfellow et al., Explaining and Harnessing Adversarial Examples, 2015"
_KURAKIN = "Kurakin et al., Adversarial Examples in the Physical World, 2017"
_MADRY = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018"
_TRAMER = "Tramer et al., Ensemble Adversarial Training: Attacks and Defenses, 2018"

ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(_without_key(fgsm, norm="linf"), "linf", False, False, "one signed gradient step", _GOODFELLOW),
    "fgsm_l2": Attack(_without_key(fgsm, norm="l2"), "l2", False, False, "one normalised gradient step", _GOODFELLOW),
    "r_fgsm": Attack(r_fgsm, "linf", True, False, "half a random signed step, half a gradient step", _TRAMER),
    "mi_fgsm": Attack(
        _without_key(mi_fgsm, norm="linf"),
        "linf", False, True, "signed steps along the momentum of gradients", _DONG,
    ),
    "mi_fgsm_l2": Attack(
        _without_key(mi_fgsm, norm="l2"),
        "l2", False, True, "normalised steps along the momentum of gradients", _DONG,
    ),
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
    "apgd_ce": Attack(
        functools.partial(apgd, norm="linf"),
        "linf", True, True, "signed steps of a size found on the way, up the cross-entropy", _CROCE,
    ),
    "apgd_ce_l2": Attack(
        functools.partial(apgd, norm="l2"),
        "l2", True, True, "normalised steps of a size found on the way, up the cross-entropy", _CROCE,
    ),
    "apgd_dlr": Attack(
        functools.partial(_apgd_dlr, norm="linf"),
        "linf", True, True, "signed steps of a size found on the way, up the difference of logits ratio", _CROCE,
    ),
    "apgd_dlr_l2": Attack(
        functools.partial(_apgd_dlr, norm="l2"),
        "l2", True, True, "normalised steps of a size found on the way, up the difference of logits ratio", _CROCE,
    ),
    "apgd_t": Attack(
        functools.partial(apgd, norm="linf", targets=9),
        "linf", True, True, "signed steps of a size found on the way, to the nine likeliest wrong classes", _CROCE,
    ),
    "apgd_t_l2": Attack(
        functools.partial(apgd, norm="l2", targets=9),
        "l2", True, True, "normalised steps of a size found on the way, to the nine likeliest wrong classes", _CROCE,
    ),
}  # fmt: skip
