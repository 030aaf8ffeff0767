"""Faulty models: the variables of a model with the bits of one trial flipped, in its weights and at its taps.

Flipping bit p of an unsigned view u is an addition modulo 2^w, u XOR 2^p = u + (1 - 2 u_p) 2^p, and different bits of
one element do not disturb each other. So the XOR of any number of slots is one scatter-add of k integers into the leaf:
sparse, exact, independent of the slots' order, and the same under `jax.vmap` over trials.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from threats.faults import bits, sites, slots

Variables = Mapping[str, Any]


def inject(variables: Variables, table: sites.SiteTable, faults: slots.Faults) -> dict[str, Any]:
    """The variables of the model with one trial's faults, in weights and activations alike.

    Args:
      variables: nested dict of collections.
      table: the sites that `faults` points into.
      faults: one trial, [k].

    Returns:
      Variables for `apply`. Only the leaves of the table differ; taps of the table appear in the collection `taps`.
    """
    return flip_activations(flip_weights(variables, table, faults), table, faults)


def flip_weights(variables: Variables, table: sites.SiteTable, faults: slots.Faults) -> dict[str, Any]:
    """The variables with the named bits of the table's weights flipped; faults at other sites are left out.

    Twice is the identity on the integer view; two slots in one element combine, and the same bit in two slots cancels.

    Args:
      variables: nested dict of collections, with the shapes and dtypes that the table was made of.
      table: the sites that `faults` points into.
      faults: one trial, [k].

    Raises:
      ValueError: the variables lack a site of the table, or hold it with another shape or dtype.
    """
    wanted = {(site.collection, site.path): index for index, site in enumerate(table) if site.kind == "weight"}
    flipped = dict(variables)
    signs = _signs(faults)
    missing = dict(wanted)
    for collection in dict.fromkeys(collection for collection, _ in wanted):
        leaves, structure = jax.tree.flatten(variables.get(collection, {}))
        for position, path in enumerate(sites.leaves_by_path(variables.get(collection, {}))):
            index = missing.pop((collection, path), None)
            if index is not None:
                _check(table[index], leaves[position])
                leaves[position] = _flip(jnp.asarray(leaves[position]), *_at(table, index, faults), signs)
        flipped[collection] = jax.tree.unflatten(structure, leaves)
    if missing:
        names = ", ".join("/".join(key) for key in missing)
        raise ValueError(f"variables must hold every weight of the table, missing: {names}")
    return flipped


def flip_activations(variables: Variables, table: sites.SiteTable, faults: slots.Faults) -> dict[str, Any]:
    """The variables with a collection `taps` that flips the named bits of the table's activations in every pass.

    A persistent fault: the same element of every image of the batch is hit, before whatever uses the value.

    Args:
      variables: nested dict of collections; entries that it has in `taps` at other places stay.
      table: the sites that `faults` points into.
      faults: one trial, [k].

    Raises:
      ValueError: `variables` already has an entry at a tap of the table.
    """
    indices = [index for index, site in enumerate(table) if site.kind == "activation"]
    if not indices:
        return dict(variables)
    taps: dict[str, Any] = jax.tree.map(lambda leaf: leaf, dict(variables.get("taps", {})), is_leaf=callable)
    signs = _signs(faults)
    for index in indices:
        *modules, name = table[index].path.split("/")
        node = taps
        for module in modules:
            node = node.setdefault(module, {})
        if name in node:
            raise ValueError(f"taps must be free at the sites of the table, {table[index].path!r} is taken")
        node[name] = jax.tree_util.Partial(_flip_per_image, *_at(table, index, faults), signs)
    return {**variables, "taps": taps}


def values_at(
    variables: Variables, table: sites.SiteTable, faults: slots.Faults, *, tapped: Mapping[str, jax.Array]
) -> jax.Array:
    """The value [k] float32 that each slot points at, in fault-free or faulty variables; NaN for unused slots.

    Args:
      variables: nested dict of collections, from `inject` or not.
      table: the sites that `faults` points into.
      faults: one trial, [k].
      tapped: fault-free value [1, ...] of one image by path, for the table's activations (`sites.tap_values`).
    """
    arrays = _arrays(variables, table, tapped)
    found = jnp.full(faults.site.shape, jnp.nan, jnp.float32)
    for index in range(len(table)):
        element, _ = _at(table, index, faults)
        picked = arrays[index].reshape(-1).at[element].get(mode="clip").astype(jnp.float32)
        found = jnp.where(faults.site == index, picked, found)
    return found


def _arrays(variables: Variables, table: sites.SiteTable, tapped: Mapping[str, jax.Array]) -> list[jax.Array]:
    """The array of every site in order; an activation passes through its entry in `taps`, if there is one."""
    collections = dict.fromkeys(site.collection for site in table if site.kind == "weight")
    leaves = {name: sites.leaves_by_path(variables[name]) for name in collections}
    entries = sites.leaves_by_path(variables.get("taps", {}), is_leaf=callable)
    arrays = []
    for site in table:
        if site.kind == "weight":
            arrays.append(jnp.asarray(leaves[site.collection][site.path]))
        else:
            arrays.append(entries.get(site.path, lambda x: x)(tapped[site.path]))
    return arrays


def _at(table: sites.SiteTable, index: int, faults: slots.Faults) -> tuple[jax.Array, jax.Array]:
    """Element [k] and bit [k] of the slots at one site; slots at other sites get an element past the end."""
    here = (faults.site == index) & (faults.element >= 0)
    return jnp.where(here, faults.element, table[index].size), faults.bit


def _signs(faults: slots.Faults) -> jax.Array:
    """[k] bool: whether the slot undoes an equal one before it, so that pairs of the same flip cancel."""
    return slots.repeats(faults) % 2 == 1


def _flip(x: jax.Array, element: jax.Array, bit: jax.Array, undo: jax.Array) -> jax.Array:
    """x [...] with the bits of flat elements flipped; elements past the end are dropped."""
    return _flip_per_image(element, bit, undo, x[None])[0]


def _flip_per_image(element: jax.Array, bit: jax.Array, undo: jax.Array, x: jax.Array) -> jax.Array:
    """x [b, ...] with the same flat elements of every row flipped."""
    view = bits.to_bits(x).reshape(x.shape[0], -1)
    power = bits.mask(bit, x.dtype)[None]
    set_now = (view.at[:, element].get(mode="clip") & power) != 0
    change = jnp.where(set_now != undo[None], jnp.zeros_like(power) - power, power)
    view = view.at[:, element].add(change, mode="drop")
    return bits.from_bits(view.reshape(x.shape), x.dtype)


def _check(site: sites.Site, leaf: Any) -> None:
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf).name
    if (shape, dtype) != (site.shape, site.dtype):
        raise ValueError(
            f"{site.path} must be {site.dtype}{list(site.shape)} as in the table, got {dtype}{list(shape)}"
        )
