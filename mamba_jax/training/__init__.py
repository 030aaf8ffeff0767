"""Training, checkpoints and metrics."""

from mamba_jax.training.checkpoint import CheckpointError, fingerprint, load_best
from mamba_jax.training.feeding import make_resident_step
from mamba_jax.training.fit import FitResult, TrainingDiverged, fit, predict
from mamba_jax.training.metrics import evaluate_scores
from mamba_jax.training.parallel import make_mesh
from mamba_jax.training.train import TrainConfig, TrainState, loss, make_optimizer, make_update

__all__ = [
    "CheckpointError",
    "FitResult",
    "TrainConfig",
    "TrainState",
    "TrainingDiverged",
    "evaluate_scores",
    "fingerprint",
    "fit",
    "load_best",
    "loss",
    "make_mesh",
    "make_optimizer",
    "make_resident_step",
    "make_update",
    "predict",
]
