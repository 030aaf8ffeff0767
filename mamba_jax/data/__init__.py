"""Images in, batches out: the twelve 2-D MedMNIST sets, a user's own npz file, drawn blood cells, augmentation."""

from mamba_jax.data.augment import POLICIES, Policy, augment, policy_for
from mamba_jax.data.catalogue import load, names
from mamba_jax.data.dataset import (
    SPLITS,
    TASKS,
    Batch,
    DataError,
    Dataset,
    Split,
    batches,
    resize,
    stratified_subset,
    to_float,
)
from mamba_jax.data.npz import load_npz
from mamba_jax.data.synthetic import synthetic_blood

__all__ = [
    "POLICIES",
    "SPLITS",
    "TASKS",
    "Batch",
    "DataError",
    "Dataset",
    "Policy",
    "Split",
    "augment",
    "batches",
    "load",
    "load_npz",
    "names",
    "policy_for",
    "resize",
    "stratified_subset",
    "synthetic_blood",
    "to_float",
]
