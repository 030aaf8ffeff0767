"""Weights held in another number format, decoded inside the model: so that a bit flips in the format that memory holds.

Float formats are rounded to nearest, ties to even. int8 is symmetric, with one scale per channel c (the last axis: the
output features of Flax kernels, depthwise ones too):

    scale_c = max |w_c| / 127,    q = round(w / scale_c) in -127 .. 127,    decoded = q * scale_c,

after Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper" (2018), 2.2. A
fault may still make q = -128. The scales are float32 leaves of their own collection, where bits can flip as well.

Decoding shifts bits instead of converting: every pattern that a flip can make, NaN payloads and subnormals included,
becomes the float32 that ml_dtypes makes of it, whatever a backend's conversion does to them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from threats.faults import bits, sites

Format = Literal["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8"]
FORMATS: tuple[str, ...] = get_args(Format)

SCALES = "scales"

_DECODED = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
# A state-space model's own parameters: vectors per channel, although some models stack them to more axes.
_NO_MATRIX = ("A_log", "*/A_log", "D", "*/D", "dt_bias", "*/dt_bias")
_NAN = 0x7FC00000


def store(
    variables: Mapping[str, Any],
    number_format: Format,
    *,
    include: sites.Patterns = "*",
    exclude: sites.Patterns | None = None,
    collections: Sequence[str] = ("params",),
) -> dict[str, Any]:
    """The variables with the chosen leaves held in a number format; computed on the host, not to be traced.

    In a float format these are all float32 leaves whose path matches. In int8 they are those of two or more axes:
    kernels, embeddings and projections; biases, norms and other vectors stay float32, and so do `A_log`, `D` and
    `dt_bias` unless `exclude` is given (`()` leaves out nothing).

    A finite value beyond a float format's range becomes the largest one of that range, as when weights are deployed:
    with IEEE's infinity, or the NaN of float8_e4m3fn that has none, one large weight would end the fault-free model.
    Infinities and NaN stay what they are (in float8_e4m3fn both are NaN). In int8 a channel of zeros, or of values
    below 1.5e-36 whose scale would be subnormal, is held as zeros with the scale 0.

    Example:
      >>> stored, stored_apply = faults.store(variables, "int8"), faults.apply_stored(model.apply)
      >>> logits = stored_apply(stored, images)  # of the format itself, before any fault
      >>> table = faults.weight_sites(stored) + faults.weight_sites(stored, collections=("scales",))
      >>> drawn = faults.random_faults(jax.random.key(0), table, trials=1000, flips=1)
      >>> result = faults.run_trials(stored_apply, stored, images, labels, table, drawn)

    Args:
      variables: nested dict of collections.
      number_format: one of `FORMATS`; "float32" changes nothing.
      include: path pattern or patterns, as in `sites.weight_sites`.
      exclude: patterns of paths to leave out.
      collections: the collections to look in.

    Returns:
      Variables of the same structure for `apply_stored`; with int8 also a collection `scales`, float32 [channels]
      under the path of each kernel.

    Raises:
      ValueError: an unknown format or collection, nothing to hold, a chosen leaf that is not float32; in int8 also a
        leaf that is not finite, or variables that have a collection `scales` or one path in two collections.
    """
    if number_format not in FORMATS:
        raise ValueError(f"number_format must be one of {FORMATS}, got {number_format!r}")
    integer = number_format == "int8"
    if integer and SCALES in variables:
        raise ValueError(f"variables must have no collection {SCALES!r} for int8, which puts its own there: rename it")
    table = sites.weight_sites(
        variables,
        include=include,
        exclude=_NO_MATRIX if integer and exclude is None else exclude,
        collections=collections,
    )
    chosen = _chosen(table, integer)
    held: dict[str, Any] = dict(variables)
    scales: dict[str, Any] = {}
    for name in collections:
        leaves = sites.leaves_by_path(variables[name])
        for path in chosen[name] if number_format != "float32" else ():
            value = np.asarray(leaves[path])
            if integer:
                leaves[path], scale = _to_int8(value, path)
                _put(scales, path, scale)
            else:
                leaves[path] = _to_float(value, number_format)
        held[name] = jax.tree.unflatten(jax.tree.structure(variables[name]), list(leaves.values()))
    return {**held, SCALES: scales} if integer else held


@dataclasses.dataclass(frozen=True)
class StoredApply:
    """A model on stored variables: `decode` makes plain ones of them, `apply` computes with these.

    decode: stored variables -> variables for `apply` with the same paths, each element decoded on its own given the
      collection `scales`. The search for worst flips differentiates at the decoded values.
    """

    apply: Callable[..., Any]
    decode: Callable[[Mapping[str, Any]], dict[str, Any]]

    def __call__(self, variables: Mapping[str, Any], images: jax.Array, **options: Any) -> Any:
        return self.apply(self.decode(variables), images, **options)


def apply_stored(apply: Callable[..., Any]) -> StoredApply:
    """The model for variables of `store`: (stored, images, **options) -> apply(decoded, images, **options).

    Args:
      apply: (variables, images, **options) -> logits, on float32 variables.
    """
    return StoredApply(apply, decode)


def decode(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of `store` as float32; int8 leaves without a scale, all other dtypes and `taps` are left alone."""
    scales = sites.leaves_by_path(stored.get(SCALES, {}))
    used = set()

    def leaf(keys: Any, value: Any) -> Any:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        dtype = jnp.result_type(value).name
        if dtype == "int8" and path in scales:
            used.add(path)
            return _from_int8(value, scales[path])
        return _from_float(value) if dtype in _DECODED else value

    plain = {
        name: tree if name in (SCALES, "taps") else jax.tree_util.tree_map_with_path(leaf, tree)
        for name, tree in stored.items()
    }
    return {name: tree for name, tree in plain.items() if name != SCALES or not used}


def _chosen(table: sites.SiteTable, integer: bool) -> dict[str, list[str]]:
    """The paths to hold, by collection."""
    chosen: dict[str, list[str]] = {site.collection: [] for site in table}
    seen: set[str] = set()
    for site in table:
        if not jnp.issubdtype(jnp.dtype(site.dtype), jnp.floating) or (integer and len(site.shape) < 2):
            continue
        if site.dtype != "float32":
            raise ValueError(f"a leaf must be float32 to be stored, {site.path} is {site.dtype}: cast or exclude it")
        if integer and site.path in seen:
            raise ValueError(f"int8 has one scale per path, {site.path} is in two collections: store one of them")
        seen.add(site.path)
        chosen[site.collection].append(site.path)
    if not seen:
        kind = "float leaf of two or more axes" if integer else "float leaf"
        raise ValueError(f"include and exclude must leave a {kind}, got only {', '.join(table.paths)}")
    return chosen


def _put(tree: dict[str, Any], path: str, leaf: Any) -> None:
    *modules, name = path.split("/")
    for module in modules:
        tree = tree.setdefault(module, {})
    tree[name] = leaf


def _to_float(value: np.ndarray, number_format: str) -> jax.Array:
    largest = np.float32(jnp.finfo(number_format).max)
    saturated = np.where(np.isinf(value), value, np.clip(value, -largest, largest))
    return jnp.asarray(saturated.astype(jnp.dtype(number_format)))


def _to_int8(value: np.ndarray, path: str) -> tuple[jax.Array, jax.Array]:
    """int8 of the same shape, and float32 [channels]."""
    if not np.isfinite(value).all():
        raise ValueError(f"a leaf must be finite to be stored in int8, {path} is not: exclude it")
    scale = np.max(np.abs(value), axis=tuple(range(value.ndim - 1))) / np.float32(127)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(0), scale)
    steps = np.divide(value, scale, out=np.zeros_like(value), where=scale > 0)
    return jnp.asarray(np.clip(np.rint(steps), -127, 127).astype(np.int8)), jnp.asarray(scale)


def _from_int8(value: jax.Array, scale: jax.Array) -> jax.Array:
    return value.astype(jnp.float32) * scale.reshape((1,) * (value.ndim - 1) + (-1,))


@jax.custom_jvp
def _from_float(value: jax.Array) -> jax.Array:
    """float32 of the same value, by shifts and one exact product; its derivative is that of a conversion."""
    size, mantissa = bits.width(value.dtype), jnp.finfo(value.dtype).nmant
    view = bits.to_bits(value).astype(jnp.uint32)
    if value.dtype == jnp.bfloat16:
        return bits.from_bits(view << 16, jnp.float32)
    bias = 2 ** (size - mantissa - 2) - 1
    magnitude = view & (2 ** (size - 1) - 1)
    shifted = magnitude << (23 - mantissa)
    normal = shifted + ((127 - bias) << 23)
    subnormal = bits.to_bits(magnitude.astype(jnp.float32) * np.float32(2.0 ** (1 - bias - mantissa)))
    decoded = jnp.where(magnitude < 2**mantissa, subnormal, normal)
    decoded = jnp.where(magnitude >= _first_special(value.dtype), _special(value.dtype, shifted), decoded)
    return bits.from_bits(decoded | ((view >> (size - 1)) << 31), jnp.float32)


@_from_float.defjvp
def _from_float_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _from_float(*primals), tangents[0].astype(jnp.float32)


def _first_special(dtype: jnp.dtype) -> int:
    """The smallest magnitude, seen as an integer, that is no finite number."""
    return int(np.asarray(jnp.finfo(dtype).max).view(bits.unsigned(dtype))) + 1


def _special(dtype: jnp.dtype, shifted: jax.Array) -> jax.Array:
    """float32 bits of infinities and NaN: float16 keeps its payload as in NumPy, float8 has one NaN as in ml_dtypes."""
    if dtype == jnp.float16:
        return shifted | 0x7F800000
    if dtype == jnp.float8_e5m2:
        return jnp.where(shifted & 0x7FFFFF == 0, jnp.uint32(0x7F800000), jnp.uint32(_NAN))
    return jnp.full_like(shifted, _NAN)
