"""One training step: augmented images, a loss per task, AdamW with warm-up and a cosine, compiled once.

The state is all that a step changes, so that a checkpoint of it resumes exactly; every random draw is folded from one
key by epoch or step number, so an interrupted run continues with the draws of an uninterrupted one.
"""

import dataclasses
import math
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax

from mamba_jax import data, identity, models, types
from mamba_jax.training import gradients

# Decaying these towards zero would change the layer's time scales or normalisation rather than regularise it.
_NOT_DECAYED = frozenset({"bias", "scale", "A_log", "D", "dt_bias", "positions", "class_token"})
_SELECT = {"accuracy": 1, "auc": 1, "loss": -1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
      epochs: passes over the training split.
      batch_size: images per step; the last incomplete batch of each shuffled epoch is left out.
      learning_rate: peak of the schedule: linear warm-up, then a cosine to 1 % of it.
      warmup_epochs: epochs of linear warm-up; may be a fraction.
      weight_decay: AdamW's, on kernels only.
      label_smoothing: share of the target spread over all classes, in [0, 1).
      clip_norm: largest global norm of a gradient; 0 leaves it as it is.
      augmentation: a name of `mamba_jax.data.POLICIES`, or "auto" for what suits the data set.
      select: which validation figure chooses the best epoch: "accuracy", "auc" or "loss"; ties go to the lower loss.
      seed: of initial weights, shuffling, augmentation and drop path.
      accumulate: micro-batches that a step's batch is computed in, one after the other, for less memory; a divisor of
        `batch_size`. Batch norms see and count each on its own, see `gradients`.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_epochs: float = 2.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    augmentation: str = "auto"
    select: str = "accuracy"
    seed: int = 0
    accumulate: int = identity.later(1)

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide the batch_size of {self.batch_size}, got {self.accumulate}: "
                f"{math.gcd(self.batch_size, self.accumulate)} would do"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("warmup_epochs", "weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.augmentation not in ("auto", *data.POLICIES):
            raise ValueError(f"augmentation must be one of {('auto', *data.POLICIES)}, got {self.augmentation!r}")
        if self.select not in _SELECT:
            raise ValueError(f"select must be one of {tuple(_SELECT)}, got {self.select!r}")

    def score(self, metrics: dict[str, float]) -> tuple[float, float]:
        """What the best epoch has the most of, from a row of `FitResult.history`; an undefined figure is the worst."""
        figures = _SELECT[self.select] * metrics[f"val_{self.select}"], -metrics["val_loss"]
        return tuple(-math.inf if math.isnan(figure) else figure for figure in figures)


@flax.struct.dataclass
class TrainState:
    """What a training step changes.

    Attributes:
      step: steps done, int32 scalar.
      params, batch_stats: the model's collections; `batch_stats` is empty for models without batch norms.
      opt_state: Optax's.
    """

    step: jax.Array
    params: types.Variables
    batch_stats: types.Variables
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, types.Variables]:
        """What the model's `apply` takes."""
        collections = {"params": self.params}
        return {**collections, "batch_stats": self.batch_stats} if self.batch_stats else collections


def make_optimizer(config: TrainConfig, *, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) under a warm-up and cosine schedule, decaying kernels only."""
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, total, end_value=0.01 * config.learning_rate
    )
    adamw = optax.adamw(schedule, weight_decay=config.weight_decay, mask=_decayed)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def create_state(variables: types.Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; takes a copy, since steps donate their input."""
    variables = jax.tree.map(jnp.array, dict(variables))
    params = variables["params"]
    return TrainState(jnp.int32(0), params, variables.get("batch_stats", {}), optimizer.init(params))


def make_update(
    model: models.Model,
    optimizer: optax.GradientTransformation,
    *,
    task: types.Task,
    policy: data.Policy,
    label_smoothing: float = 0.0,
    accumulate: int = 1,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The step on one batch, to be jitted: `(state, images, labels, key) -> (state, {"loss", "correct"})`.

    The returned function takes images [b, h, w, c] uint8 and labels [b] or [b, k]; `key` is the run's, folded with the
    step number. `loss` is the batch mean, `correct` a share.

    Args:
      model: its `apply` is called with `train=True`.
      optimizer: of Optax.
      task: decides the loss, see `loss`.
      policy: of augmentation; a whole batch is drawn at once, so the draws do not depend on `accumulate`.
      label_smoothing: see `loss`.
      accumulate: see `TrainConfig`.
    """

    def objective(params, batch_stats, images, targets, key):
        variables = {"params": params, "batch_stats": batch_stats} if batch_stats else {"params": params}
        logits, updates = model.apply(variables, images, train=True, rngs={"drop_path": key}, mutable=["batch_stats"])
        value = jnp.mean(loss(logits, targets, task, label_smoothing=label_smoothing))
        figures = {"loss": value, "correct": _share_right(logits, targets, task)}
        return value, (updates.get("batch_stats", {}), figures)

    def update(state, images, labels, key):
        augment_key, drop_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = data.augment(augment_key, data.to_float(images), policy=policy)
        found = gradients.of_batch(
            objective, state.params, state.batch_stats, batch, labels, drop_key, accumulate=accumulate
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer counts, which strict code forbids
            updates, opt_state = optimizer.update(found.params, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, found.batch_stats, opt_state), found.figures

    return update


def loss(logits: jax.Array, labels: jax.Array, task: types.Task, *, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy per image [b]; in multi-label the mean of the labels' binary cross-entropies.

    Args:
      logits: [b, k].
      labels: [b] class numbers, or [b, k] 0/1.
      task: multi-class, binary, ordinal or multi-label.
      label_smoothing: share of the target spread evenly (Szegedy et al., 2016, section 7).
    """
    logits = logits.astype(jnp.float32)
    if task == "multi-label":
        targets = labels.astype(jnp.float32) * (1 - label_smoothing) + label_smoothing / 2
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)
    targets = jax.nn.one_hot(labels, logits.shape[-1]) * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    return optax.softmax_cross_entropy(logits, targets)


def _share_right(logits: jax.Array, labels: jax.Array, task: types.Task) -> jax.Array:
    decided = (
        (logits > 0).astype(labels.dtype) if task == "multi-label" else jnp.argmax(logits, -1).astype(labels.dtype)
    )
    return jnp.mean((decided == labels).astype(jnp.float32))


def _decayed(params: types.Variables) -> types.Variables:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NOT_DECAYED, params)
