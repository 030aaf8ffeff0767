"""Models as pairs of pure functions: MedMamba and the baselines it is compared with."""

from mamba_jax.models.model import MODELS, Model, ModelConfig, create_model, from_config
from mamba_jax.models.ssm import SS2D, MambaBlock
from mamba_jax.models.taps import tap

__all__ = ["MODELS", "SS2D", "MambaBlock", "Model", "ModelConfig", "create_model", "from_config", "tap"]
