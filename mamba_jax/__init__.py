"""What is attacked: Mamba models for medical images as pure functions, their data and their training, in JAX."""

from mamba_jax.models import Model, create_model, tap
from mamba_jax.scan import selective_scan
from mamba_jax.torch_import import load_medmamba, read_state_dict
from mamba_jax.tuning import tune_cpu
from mamba_jax.zoo import load_pretrained

__all__ = [
    "Model",
    "create_model",
    "load_medmamba",
    "load_pretrained",
    "read_state_dict",
    "selective_scan",
    "tap",
    "tune_cpu",
]
