"""Adversarial attacks on any `apply(variables, images) -> logits`, and the table of all of them.

Every entry of `ATTACKS` is called alike,

    ATTACKS["pgd_l2"].fn(apply, variables, images, labels, *, key, epsilon, task, targeted, **options)

and returns an `AttackResult`; an attack that draws nothing ignores its key. The key is one random key, from which image
i draws by its number, or [b] keys, one for each image. The task is "multi-class" and targeted False unless given;
further options are those of the function itself.

Attacks that look for the smallest perturbation take no radius: `carlini_wagner.attack`, `deepfool.attack`,
`fab.attack` and `hop_skip_jump.attack` return distances, a `MinimalResult`. In the table they are called as all others,
and what they find farther than epsilon away is given up for the clean image (`minimal.within`).
"""

from threats.adversarial import (
    carlini_wagner,
    deepfool,
    fab,
    hop_skip_jump,
    minimal,
    norms,
    objectives,
    transfer,
    universal,
)
from threats.adversarial.autopgd import apgd
from threats.adversarial.candidates import AttackResult
from threats.adversarial.ensembles import autoattack
from threats.adversarial.gradient import fgsm, mi_fgsm, pgd, r_fgsm
from threats.adversarial.minimal import MinimalResult
from threats.adversarial.spsa import spsa_attack
from threats.adversarial.square import square_attack
from threats.adversarial.stochastic import expectation
from threats.adversarial.table import ATTACKS, Attack, get_attack

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "MinimalResult",
    "apgd",
    "autoattack",
    "carlini_wagner",
    "deepfool",
    "expectation",
    "fab",
    "fgsm",
    "get_attack",
    "hop_skip_jump",
    "mi_fgsm",
    "minimal",
    "norms",
    "objectives",
    "pgd",
    "r_fgsm",
    "spsa_attack",
    "square_attack",
    "transfer",
    "universal",
]
