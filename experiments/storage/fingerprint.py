"""What decides a campaign's trials, as JSON: the mark of its part files, and what is shown when something differs."""

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from experiments.storage import provenance
from threats import campaigns

_PACKAGES = ("mamba-reliability", "jax", "jaxlib", "numpy", "scipy")


def fingerprint(
    apply: Callable[..., Any],
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    campaign: campaigns.Campaign,
    *,
    task: str,
) -> dict[str, Any]:
    """All that decides a campaign's trials, as JSON: what its parts are marked with.

    Args:
      apply, variables, images, labels: as in `campaigns.run_campaign`.
      campaign: prepared from them.
      task: one of `outcomes.TASKS`.
    """
    traced = jax.make_jaxpr(apply)(variables, images[:1])
    return {
        "weights": of_arrays(jax.tree.leaves(variables)),
        "data": of_arrays([images, labels]),
        "program": _of_text(re.sub("0x[0-9a-f]+", "", str(traced)) + of_arrays(traced.consts)),
        "sites": _of_text(repr(campaign.drawing.table)),
        "task": task,
        "spec": campaign.drawing.spec.describe(),
        "key": np.asarray(jax.random.key_data(campaign.drawing.key)).tolist(),
        "backend": jax.default_backend(),
        "trials_per_part": campaign.chunk,
        "versions": {package: provenance.version(package) for package in _PACKAGES},
    }


def of_arrays(arrays: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits of what the arrays hold, and of their types and shapes."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
