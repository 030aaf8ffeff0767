"""Published PyTorch weights, read and mapped without PyTorch."""

from mamba_jax.torch_import.medmamba import load_medmamba
from mamba_jax.torch_import.state_dict import read_state_dict

__all__ = ["load_medmamba", "read_state_dict"]
