"""A campaign made ready: its sites, what draws its trials, the fault-free figures, and what runs some of them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats import faults, outcomes, tasks
from threats.campaigns import drawing as drawings
from threats.campaigns import schedule, trials
from threats.campaigns import spec as specs
from threats.faults import batching, devices

_CALLS_PER_CHUNK = 32
_SHOTS_PER_CHUNK = 1024
_NOT_OF_SHOTS = ("images_at_once", "reuse")


class Campaign(NamedTuple):
    """A campaign that is ready to run; from `prepare`.

    drawing: draws its trials. run: numbers and strata of some trials -> `trials.Trials`. reference: [n, ...] fault-free
    logits. accuracy, auc: of these. planned: trials at most. chunk: trials that are kept together, on any number of
    devices. chunks_at_once: as many run in one call. alone: whether each trial runs by itself.
    """

    drawing: drawings.Drawing
    run: Callable[[np.ndarray, np.ndarray], trials.Trials]
    reference: jax.Array
    accuracy: float
    auc: float
    planned: int
    chunk: int
    chunks_at_once: int
    alone: bool


def prepare(
    apply: Callable[..., Any],
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    spec: specs.CampaignSpec,
    *,
    key: jax.Array,
    task: outcomes.Task = "multi-class",
    **options: Any,
) -> Campaign:
    """Everything that running a campaign needs, without running a trial; arguments as in `run_campaign`."""
    if spec.metric == "auc" and tasks.rules(task).ranked is None:
        raise ValueError("metric must not be 'auc' in a task whose rules have no `ranked`: choose another")
    mesh = devices.check(options.get("mesh"))
    table = sites_of(apply, variables, images, spec)
    drawing = drawings.prepare(spec, table, key=key)
    planned = _planned(drawing)
    size = options.get("images_at_once")
    reference = jax.jit(lambda v, x: faults.fault_free_logits(apply, v, x, images_at_once=size))(variables, images)
    at_once = options.get("trials_at_once") or batching.default_trials(table, options.get("strategy", "auto"))
    variables = devices.whole(variables, mesh)
    if spec.one_shot:
        chosen = {name: value for name, value in options.items() if name not in _NOT_OF_SHOTS}
        fn = faults.make_one_shot_fn(apply, images, labels, table, reference, task=task, **chosen)
    else:
        options = {"expected_trials": planned, **options}
        fn = faults.make_trial_fn(apply, images, labels, table, task=task, reference=reference, **options)
    run = functools.partial(_run_trials, functools.partial(fn, variables), drawing, images.shape[0])
    return Campaign(
        drawing=drawing,
        run=run,
        reference=reference,
        accuracy=float(jnp.mean(outcomes.accuracy(reference, labels, task))),
        auc=float(outcomes.auc(reference, labels, task)),
        planned=planned,
        chunk=_SHOTS_PER_CHUNK if spec.one_shot else _CALLS_PER_CHUNK * at_once,
        chunks_at_once=devices.count(mesh),
        alone=at_once * devices.count(mesh) == 1 and not spec.one_shot,
    )


def _planned(drawing: drawings.Drawing) -> int:
    """Trials at most, a pilot and two trials of each stratum included."""
    planned, pilot = drawing.spec.planned(drawing.population), schedule.pilot(drawing)
    least = pilot + 2 * len(drawing.strata)
    if drawing.spec.half_width is not None:
        return max(planned + pilot, least)
    if planned < least:
        raise ValueError(
            f"trials must be at least {least:,}, got {planned:,}: {len(drawing.strata)} strata with two trials each"
            + (f" after a pilot of {drawing.spec.pilot}" if pilot else "")
        )
    return planned


def sites_of(
    apply: Callable[..., Any], variables: Mapping[str, Any], images: jax.Array, spec: specs.CampaignSpec
) -> faults.SiteTable:
    """The table of the sites that the spec names, weights first.

    Raises:
      ValueError: none of them matches, or a kind does not exist in this model.
    """
    patterns = {"include": spec.include, "exclude": spec.exclude or None}
    collections = {"weights": "params", "statistics": "batch_stats", "scales": "scales"}
    found = []
    for kind in (kind for kind in specs.KINDS if kind in spec.kinds):
        try:
            if kind in collections:
                found.append(faults.weight_sites(variables, collections=(collections[kind],), **patterns))
            else:
                of_kind = faults.activation_sites if kind == "activations" else faults.state_sites
                found.append(of_kind(apply, variables, images[:1], **patterns))
        except ValueError as error:
            raise ValueError(f"{kind}: {error}") from error
    return functools.reduce(lambda a, b: a + b, found)


def _run_trials(
    run: Callable[..., faults.TrialResult],
    drawing: drawings.Drawing,
    images: int,
    numbers: np.ndarray,
    strata: np.ndarray,
    given: trials.Trials | None = None,
) -> trials.Trials:
    """The trials with these numbers, or those of `given` again."""
    stratum = strata if drawing.strata else np.full(len(numbers), -1)
    drawn = given.faults if given else drawings.faults(drawing, numbers, strata if drawing.strata else None)
    if not drawing.spec.one_shot:
        return trials.make(numbers, stratum, np.full(len(numbers), -1), drawn, run(_plainest(drawn)))
    image = given.image if given else drawings.image_numbers(drawing, numbers, images)
    return trials.make(numbers, stratum, image, drawn, run(_plainest(drawn), image))


def _plainest(drawn: faults.Faults) -> faults.Faults:
    """Without actions where all bits flip: the same programs run then."""
    flips = drawn.action is not None and not np.any(drawn.action)
    return drawn._replace(action=None) if flips else drawn
