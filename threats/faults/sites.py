"""Where a bit can flip: tables of weights, activations and hidden states by path.

A site is one array of the model under its path: a leaf of the variables (`stages_2/block_1/ssm/A_log`), the value at a
named tap (`stages_2/block_1/ssm/scan`), or the states of a recurrence (`stages_2/block_1/ssm/state`). A table of sites
is static (hashable), and a fault points into it with three integers (see `slots.Faults`), so that drawing, injecting
and replaying faults can be jitted and vmapped over trials.

Taps follow this protocol: a model replaces the value x at a place by `entry(x)` if the variable collection `taps` holds
an entry under the place's path, and sows x in the collection `tap_values` when that one is mutable. A recurrence sows
its fault-free states [b, *shape] in `state_values`, and gives its entry zeros [2, *shape] uint32: the result holds the
bits that it clears in each state once it is computed, and those that it flips after that.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from threats.faults import bits

KINDS = ("weight", "activation", "state")
_VALUES = {"activation": "tap_values", "state": "state_values"}  # where a model sows them

_SHARED_LEAVES = ("kernel", "bias", "scale", "embedding")

Patterns = str | Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """One array that bits can flip in.

    path: names joined by "/", without the collection.
    kind: "weight" (a leaf of the variables), "activation" (the value at a tap), or "state" (the states of a recurrence,
      each hit right after it is computed).
    collection: the variable collection that holds it: "params", "batch_stats", ..., or "taps".
    shape: its shape; for activations and states of one image, without the batch axis.
    dtype: its dtype's name.
    """

    path: str
    kind: Literal["weight", "activation", "state"]
    collection: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if not 0 < self.size < 2**31:
            raise ValueError(f"a site must have 1 to 2^31 - 1 elements, {self.path!r} has shape {self.shape}")
        bits.width(self.dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bits per element."""
        return bits.width(self.dtype)

    @property
    def layer(self) -> str:
        """Name of the layer it belongs to, see `layer_of`."""
        return layer_of(self.path) if self.kind == "weight" else self.path


@dataclasses.dataclass(frozen=True)
class SiteTable:
    """An ordered, hashable table of sites; `Faults.site` counts in it. Tables add up: weights + activations."""

    sites: tuple[Site, ...]

    def __post_init__(self):
        if not self.sites:
            raise ValueError("a site table must hold at least one site, got none")
        keys = [(site.collection, site.path) for site in self.sites]
        repeated = sorted({"/".join(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise ValueError(f"a site table must name each site once, repeated: {', '.join(repeated)}")

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __getitem__(self, index: int) -> Site:
        return self.sites[index]

    def __add__(self, other: "SiteTable") -> "SiteTable":
        return SiteTable(self.sites + other.sites)

    @property
    def paths(self) -> tuple[str, ...]:
        """Path of every site, in order."""
        return tuple(site.path for site in self.sites)

    @property
    def layers(self) -> tuple[str, ...]:
        """The distinct layers, in order of first appearance."""
        return tuple(dict.fromkeys(site.layer for site in self.sites))

    @property
    def bits(self) -> int:
        """Number of bits of all sites together."""
        return sum(site.size * site.width for site in self.sites)


def layer_of(path: str) -> str:
    """The layer of a weight: its module where the leaf is a kernel, bias, scale or embedding, else the leaf itself.

    `head/kernel` and `head/bias` belong to `head`; `ssm/A_log` and `ssm/dt_bias` stand alone.
    """
    parent, _, leaf = path.rpartition("/")
    return parent if parent and leaf in _SHARED_LEAVES else path


def weight_sites(
    variables: Mapping[str, Any],
    *,
    include: Patterns = "*",
    exclude: Patterns | None = None,
    collections: Sequence[str] = ("params",),
) -> SiteTable:
    """The leaves of the variables whose path matches, sorted by path within each collection.

    Args:
      variables: nested dict of collections.
      include: path pattern or patterns as of `fnmatch` ("*" also crosses "/"), for example `stages_2/*/ssm/A_log`.
      exclude: patterns of paths to leave out.
      collections: the collections to look in.

    Raises:
      ValueError: a collection is missing, or nothing matches; the message lists what there is.
    """
    found = []
    for collection in collections:
        if collection not in variables:
            raise ValueError(f"collections must be among {tuple(variables)}, got {collection!r}")
        for path, leaf in leaves_by_path(variables[collection]).items():
            shape, dtype = jnp.shape(leaf), jnp.result_type(leaf).name
            found.append(Site(path=path, kind="weight", collection=collection, shape=shape, dtype=dtype))
    return _matching(found, include, exclude)


def activation_sites(
    apply: Callable[..., Any],
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    include: Patterns = "*",
    exclude: Patterns | None = None,
) -> SiteTable:
    """The named taps of a model whose path matches, sorted by path; nothing is computed (`jax.eval_shape`).

    Args:
      apply: the model, which must take `mutable=["tap_values"]` and then return (logits, sown values).
      variables: its variables.
      images: [b, h, w, c] float32 in [0, 1]; only the shape matters.
      include: path pattern or patterns, as in `weight_sites`.
      exclude: patterns of paths to leave out.

    Raises:
      ValueError: the model has no taps, or nothing matches; the message lists what there is.
    """
    found = _tapped_sites(apply, variables, images, "activation")
    if not found:
        raise ValueError("apply must have named taps for activation faults, but it sowed no 'tap_values'")
    return _matching(found, include, exclude)


def state_sites(
    apply: Callable[..., Any],
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    include: Patterns = "*",
    exclude: Patterns | None = None,
) -> SiteTable:
    """The hidden states of a model's recurrences whose path matches, sorted by path; nothing is computed.

    An element is the state h_t of one step, direction, channel and state index, so that a site has shape [k, l, d, n]
    (or [l, d, n]) and a fault hits one h_t of every image. MedMamba's steps are in spatial order, as in its taps.

    Args:
      apply: the model, which must take `mutable=["state_values"]` and then return (logits, sown values).
      variables, images, include, exclude: as in `activation_sites`.

    Raises:
      ValueError: the model has no recurrence, or nothing matches; the message lists what there is.
    """
    found = _tapped_sites(apply, variables, images, "state")
    if not found:
        raise ValueError("apply must have hidden states for state faults, but it sowed no 'state_values'")
    return _matching(found, include, exclude)


def _tapped_sites(apply, variables, images, kind: str) -> list[Site]:
    values = jax.eval_shape(lambda v, x: tap_values(apply, v, x, kinds=(kind,)), variables, images)
    return [
        Site(path=path, kind=kind, collection="taps", shape=value.shape[1:], dtype=value.dtype.name)
        for path, value in values.items()
    ]


def tap_values(
    apply: Callable[..., Any],
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    kinds: Sequence[str] = ("activation",),
) -> dict[str, jax.Array]:
    """The value [b, ...] at each tap of these kinds by path; of a tap that is passed several times, the first."""
    collections = [_VALUES[kind] for kind in kinds]
    try:
        _, sown = apply(variables, images, mutable=collections)
    except TypeError as error:
        raise ValueError(
            f"apply must take mutable={collections} and return (logits, sown values) for {' and '.join(kinds)} faults"
        ) from error
    found = {}
    for collection in collections:
        passes = leaves_by_path(sown.get(collection, {}), is_leaf=lambda node: isinstance(node, tuple))
        found.update({path: values[0] for path, values in passes.items()})
    return found


def table_values(
    apply: Callable[..., Any], variables: Mapping[str, Any], images: jax.Array, table: SiteTable
) -> dict[str, jax.Array]:
    """`tap_values` of the kinds that the table holds; the model is not run for a table of weights."""
    kinds = [kind for kind in _VALUES if any(site.kind == kind for site in table)]
    return tap_values(apply, variables, images, kinds=kinds) if kinds else {}


def leaves_by_path(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Every leaf of a pytree under its path, names joined by "/", in the order of the pytree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _matching(found: list[Site], include: Patterns, exclude: Patterns | None) -> SiteTable:
    kept = [site for site in found if _matches(site.path, include) and not _matches(site.path, exclude or ())]
    if not kept:
        known = ", ".join(site.path for site in found)
        raise ValueError(f"no site matches include={include!r}, exclude={exclude!r}; known paths: {known}")
    return SiteTable(tuple(kept))


def _matches(path: str, patterns: Patterns) -> bool:
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
