"""What outputs mean, task by task: the decision, whether it is right, the loss, and by how much it is right or wrong.

    multi-class, binary, ordinal    outputs [b, k], one logit per class (per grade); labels [b]
    multi-label                     outputs [b, k], one logit per label, there where positive; labels [b, k] of 0 and 1
    pixels(least)                   outputs [b, ..., k], a class for each pixel; labels [b, ...]

An attack, a fault campaign or an evaluation receives one of these as its `task`: by name, or as `Rules`, which may be
your own. Of other outputs and labels only the first axis is looked at, one row per image.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Rules:
    """A task, as functions of outputs [b, ...] and labels [b, ...]. Outputs need not be finite.

    decisions: `outputs -> [b, ...] int32`, what is said; two of them are the same where all entries are.
    accuracy: `(outputs, labels) -> [b] float32`, in [0, 1].
    correct: `(outputs, labels) -> [b] bool`.
    loss: `(outputs, labels) -> [b] float32`, what training descends.
    gaps: `(outputs, labels) -> [b, m] float32`, one for each way of being wrong, positive where the outputs are wrong
      in that way, so that (ties aside) an image is wrong where its largest gap is positive.
    exclusive: outputs are one logit per class and so are the gaps, that of the label itself being -inf.
    ranked: `(outputs, labels) -> (scores [b, m], positive [b, m] bool)`, what areas under ROC curves are of; None where
      the task has none.
    """

    decisions: Callable[[jax.Array], jax.Array]
    accuracy: Callable[[jax.Array, jax.Array], jax.Array]
    correct: Callable[[jax.Array, jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    gaps: Callable[[jax.Array, jax.Array], jax.Array]
    exclusive: bool = False
    ranked: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None


Task = Literal["multi-class", "binary", "ordinal", "multi-label"] | Rules


def rules(task: Task) -> Rules:
    """The rules of a task, by name or as they are.

    Raises:
      ValueError: if the task is neither in `TASKS` nor `Rules`.
    """
    if isinstance(task, Rules):
        return task
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"task must be one of {tuple(TASKS)} or tasks.Rules, got {task!r}")
    return TASKS[task]


def pixels(least: float = 0.5) -> Rules:
    """Segmentation: a class for each pixel; an image is right where at least that share of its pixels is.

    Accuracy is the share of right pixels and the loss their mean cross-entropy. There is one gap. Of the pixels'
    margins max_{i != y} z_i - z_y it looks at the largest, as many as have to be positive to make the image wrong: if
    one of these is not, it is the mean of what they lack. Of a wrong image it is the mean of what the smallest margins
    are above zero, as many as have to be below to make it right. So all pixels are pushed that have to move. Decisions
    count as changed where one pixel's is. There is no area under a ROC curve.

    Args:
      least: in (0, 1]. Made again, the rules are others to `jax.jit`: keep them.

    Raises:
      ValueError: if `least` is out of its range.

    Example:
      >>> outputs, labels = jnp.array([[[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]]), jnp.array([[0, 0, 0]])
      >>> pixels(0.5).correct(outputs, labels).tolist(), pixels(0.5).gaps(outputs, labels).tolist()
      ([True], [[-1.0]])
    """
    if not 0 < least <= 1:
        raise ValueError(f"least must be in (0, 1], got {least}")

    def right(outputs, labels):
        if labels.shape != outputs.shape[:-1]:
            raise ValueError(f"labels must be {outputs.shape[:-1]}, a class for each pixel, got {labels.shape}")
        return _right_class(outputs, labels).reshape(len(outputs), -1)

    def needed(count: int) -> int:
        return max(1, math.ceil(least * count - 1e-9))

    def correct(outputs, labels):
        each = right(outputs, labels)
        return jnp.sum(each, axis=1) >= needed(each.shape[1])

    def gaps(outputs, labels):
        margins = jnp.max(_class_gaps(outputs, labels), axis=-1).reshape(len(outputs), -1)
        ordered, most = jnp.sort(margins, axis=1), needed(margins.shape[1])
        lacking = jnp.mean(jnp.minimum(ordered[:, most - 1 :], 0.0), axis=1)
        beyond = jnp.mean(jnp.maximum(ordered[:, :most], 0.0), axis=1)
        return jnp.where(ordered[:, most - 1] > 0, beyond, lacking)[:, None]

    return Rules(
        decisions=_likeliest,
        accuracy=lambda outputs, labels: jnp.mean(right(outputs, labels).astype(jnp.float32), axis=1),
        correct=correct,
        loss=lambda outputs, labels: jnp.mean(_cross_entropy(outputs, labels).reshape(len(outputs), -1), axis=1),
        gaps=gaps,
    )


def _likeliest(outputs: jax.Array) -> jax.Array:
    return jnp.argmax(outputs, axis=-1).astype(jnp.int32)


def _right_class(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return _likeliest(outputs) == labels.astype(jnp.int32)


def _cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return -_at(jax.nn.log_softmax(outputs.astype(jnp.float32)), labels)


def _class_gaps(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    outputs = outputs.astype(jnp.float32)
    own = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
    return jnp.where(own, -jnp.inf, outputs - _at(outputs, labels)[..., None])


def _at(values: jax.Array, classes: jax.Array) -> jax.Array:
    """Each row's value of its class. values: [..., k]; classes: [...]."""
    return jnp.take_along_axis(values, classes[..., None].astype(jnp.int32), axis=-1)[..., 0]


def _present(outputs: jax.Array) -> jax.Array:
    return (outputs > 0).astype(jnp.int32)


def _right_labels(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return _present(outputs) == labels.astype(jnp.int32)


def _label_gaps(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """-s_l z_l, with s_l 1 for labels that are present and -1 for those that are absent."""
    return (1.0 - 2.0 * labels.astype(jnp.float32)) * outputs.astype(jnp.float32)


def _one_against_the_rest(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    classes = jnp.arange(outputs.shape[1], dtype=labels.dtype)
    return jax.nn.softmax(outputs, axis=-1), labels[:, None] == classes[None]


def _second_class(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    scores, positive = _one_against_the_rest(outputs, labels)
    return scores[:, 1:], positive[:, 1:]


_CLASSES = Rules(
    decisions=_likeliest,
    accuracy=lambda outputs, labels: _right_class(outputs, labels).astype(jnp.float32),
    correct=_right_class,
    loss=_cross_entropy,
    gaps=_class_gaps,
    exclusive=True,
    ranked=_one_against_the_rest,
)
_TWO_CLASSES = dataclasses.replace(_CLASSES, ranked=_second_class)
_LABELS = Rules(
    decisions=_present,
    accuracy=lambda outputs, labels: jnp.mean(_right_labels(outputs, labels).astype(jnp.float32), axis=-1),
    correct=lambda outputs, labels: jnp.all(_right_labels(outputs, labels), axis=-1),
    loss=lambda outputs, labels: jnp.sum(jax.nn.softplus(_label_gaps(outputs, labels)), axis=-1),
    gaps=_label_gaps,
    ranked=lambda outputs, labels: (outputs, labels.astype(bool)),
)
TASKS: dict[str, Rules] = {"multi-class": _CLASSES, "binary": _TWO_CLASSES, "ordinal": _CLASSES, "multi-label": _LABELS}
