"""What attacks: adversarial images, occlusion, corruptions and bit flips, for any `apply(variables, images) -> logits`.

Everything here is a function of such a function. A model is not needed, nor known: `variables` is a nested dict of
arrays, `images` are [b, h, w, c] float32 in [0, 1], and normalisation is the model's own affair.
"""

from threats import adversarial, campaigns, corruptions, evaluation, faults, occlusion, outcomes, statistics, tasks
from threats.adversarial import ATTACKS, AttackResult, autoattack, fgsm, pgd
from threats.campaigns import CampaignSpec, run_campaign
from threats.corruptions import CORRUPTIONS, corrupt
from threats.evaluation import Evaluation, evaluate, sanity_report
from threats.occlusion import patch_drop

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "AttackResult",
    "CampaignSpec",
    "Evaluation",
    "adversarial",
    "autoattack",
    "campaigns",
    "corrupt",
    "corruptions",
    "evaluate",
    "evaluation",
    "faults",
    "fgsm",
    "occlusion",
    "outcomes",
    "patch_drop",
    "pgd",
    "run_campaign",
    "sanity_report",
    "statistics",
    "tasks",
]
