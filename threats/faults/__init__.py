"""Bit flips in the weights, activations and states of any model: where, which, how injected, and what they do.

Example:
  >>> table = faults.weight_sites(variables, include="stages_2/*") + faults.activation_sites(apply, variables, images)
  >>> drawn = faults.random_faults(jax.random.key(0), table, trials=1000, flips=1, field="exponent")
  >>> result = faults.run_trials(apply, variables, images, labels, table, drawn)
  >>> result.accuracy.mean(), result.sdc.mean(), result.nonfinite.mean()
"""

from threats.faults.bits import field_of, fields, flip, from_bits, mask, to_bits, width
from threats.faults.campaign import TrialResult, fault_free_logits, make_trial_fn, run_trials, trial_outcomes
from threats.faults.devices import trial_mesh
from threats.faults.formats import FORMATS, StoredApply, apply_stored, decode, store
from threats.faults.injection import flip_activations, flip_weights, inject
from threats.faults.measured import Measured, measure
from threats.faults.one_shot import make_one_shot_fn
from threats.faults.sampling import LayerwiseFaults, layerwise_faults, random_faults
from threats.faults.search import WorstCase, worst_case
from threats.faults.sites import Site, SiteTable, activation_sites, layer_of, state_sites, weight_sites
from threats.faults.slots import ACTIONS, Faults, no_faults, pad, widen, with_action

__all__ = [
    "ACTIONS",
    "FORMATS",
    "Faults",
    "LayerwiseFaults",
    "Measured",
    "Site",
    "SiteTable",
    "StoredApply",
    "TrialResult",
    "WorstCase",
    "activation_sites",
    "apply_stored",
    "decode",
    "fault_free_logits",
    "field_of",
    "fields",
    "flip",
    "flip_activations",
    "flip_weights",
    "from_bits",
    "inject",
    "layer_of",
    "layerwise_faults",
    "make_one_shot_fn",
    "make_trial_fn",
    "mask",
    "measure",
    "no_faults",
    "pad",
    "random_faults",
    "run_trials",
    "state_sites",
    "store",
    "to_bits",
    "trial_mesh",
    "trial_outcomes",
    "weight_sites",
    "widen",
    "width",
    "with_action",
    "worst_case",
]
