"""Faulty models: the variables of a model with the bits of one trial flipped or stuck, in its weights and at its taps.

Hidden states are hit inside the model, which is told the bits (see `masks`).

Flipping bit p of an unsigned view u is an addition modulo 2^w, u XOR 2^p = u + (1 - 2 u_p) 2^p; setting it adds
(1 - u_p) 2^p and clearing it -u_p 2^p; and different bits of one element do not disturb each other. So any number of
slots is one scatter-add of k integers: sparse, exact, independent of the slots' order, and the same under `jax.vmap`
over trials.

The weights of a table are laid end to end, one address space per dtype: one scatter for a whole model compiles several
times faster than one per leaf, and a leaf that a trial has to copy anyway is copied once in either form.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from threats.faults import bits, masks, sites, slots

Variables = Mapping[str, Any]


class Injection(NamedTuple):
    """A faulty model and the values that were hit.

    variables: nested dict of collections for `apply`.
    before: [k] float32, the fault-free value of each slot; NaN for unused slots.
    after: [k] float32, the value with every flip of the trial in that element.
    """

    variables: dict[str, Any]
    before: jax.Array
    after: jax.Array


def inject(variables: Variables, table: sites.SiteTable, faults: slots.Faults) -> dict[str, Any]:
    """The variables of the model with one trial's faults, in weights, activations and hidden states alike.

    Args:
      variables: nested dict of collections.
      table: the sites that `faults` points into.
      faults: one trial, [k]; slots that point past the end of their site flip nothing.

    Returns:
      Variables for `apply`. Only the leaves of the table differ; taps of the table appear in the collection `taps`.

    Raises:
      ValueError: as in `flip_weights` and `flip_activations`.
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
    return replaced(variables, table, faulty_weights(variables, table, faults))


def flip_activations(variables: Variables, table: sites.SiteTable, faults: slots.Faults) -> dict[str, Any]:
    """The variables with a collection `taps` that flips the named bits of the table's activations in every pass.

    A persistent fault: the same element of every image of the batch is hit, before whatever uses the value. A hidden
    state is hit at its step alone, once it is computed and before its output; later steps start from what it became.

    Args:
      variables: nested dict of collections; entries that it has in `taps` at other places stay.
      table: the sites that `faults` points into.
      faults: one trial, [k].

    Raises:
      ValueError: `variables` already has an entry at a tap of the table.
    """
    return with_taps(variables, table, activation_flips(table, faults))


def inject_and_read(
    variables: Variables, table: sites.SiteTable, faults: slots.Faults, *, tapped: Mapping[str, jax.Array]
) -> Injection:
    """`inject`, and the values that it hits before and after.

    Args:
      variables: nested dict of collections.
      table: the sites that `faults` points into.
      faults: one trial, [k].
      tapped: fault-free value [1, ...] of one image by path, for the table's activations and states
        (`sites.table_values`).
    """
    arrays, *of_weights = _flip_arrays(weights(variables, table), table, faults)
    activations = {i: tapped[site.path][0] for i, site in enumerate(table) if site.kind != "weight"}
    _, *of_activations = _flip_arrays(activations, table, faults)
    faulty = flip_activations(replaced(variables, table, arrays), table, faults)
    before, after = (jnp.where(jnp.isnan(w), a, w) for w, a in zip(of_weights, of_activations, strict=True))
    return Injection(faulty, before, after)


def faulty_weights(variables: Variables, table: sites.SiteTable, faults: slots.Faults) -> dict[int, jax.Array]:
    """The leaf of each weight of the table by its index, after one trial's flips."""
    return flipped_leaves(weights(variables, table), table, faults)


def flipped_leaves(
    leaves: Mapping[int, jax.Array], table: sites.SiteTable, faults: slots.Faults
) -> dict[int, jax.Array]:
    """The given leaves, by their index in the table, after one trial's flips; faults at other sites are left out."""
    return _flip_arrays(leaves, table, faults)[0]


def activation_flips(table: sites.SiteTable, faults: slots.Faults) -> dict[int, jax.tree_util.Partial]:
    """By index of each activation and state of the table: the entry of its tap for one trial's bits.

    Of an activation it is a function of x [b, ...], of states one of their masks, zeros [2, ...].
    """
    again = slots.repeats(faults)
    entry = {"activation": _hit_per_image, "state": masks.of_states}
    return {
        index: jax.tree_util.Partial(
            entry[site.kind], addresses(table, [index], faults), faults.bit, again, faults.action
        )
        for index, site in enumerate(table)
        if site.kind in entry
    }


def replaced(variables: Variables, table: sites.SiteTable, arrays: Mapping[int, jax.Array]) -> dict[str, Any]:
    """The variables with other leaves at the given sites."""
    collections = dict(variables)
    for name in dict.fromkeys(table[index].collection for index in arrays):
        new = {table[index].path: array for index, array in arrays.items() if table[index].collection == name}
        paths = sites.leaves_by_path(variables[name])
        leaves = [new.get(path, leaf) for path, leaf in paths.items()]
        collections[name] = jax.tree.unflatten(jax.tree.structure(variables[name]), leaves)
    return collections


def leaves_of(variables: Variables, table: sites.SiteTable, members: Iterable[int]) -> dict[int, Any]:
    """The leaf of the variables at each of the given sites, of whatever shape and dtype."""
    members = list(members)
    found = {name: sites.leaves_by_path(variables[name]) for name in {table[index].collection for index in members}}
    return {index: found[table[index].collection][table[index].path] for index in members}


def with_taps(variables: Variables, table: sites.SiteTable, entries: Mapping[int, Any]) -> dict[str, Any]:
    """The variables with entries at the given sites of the collection `taps`, beside those that are there."""
    if not entries:
        return dict(variables)
    taps: dict[str, Any] = jax.tree.map(lambda entry: entry, dict(variables.get("taps", {})), is_leaf=callable)
    for index, entry in entries.items():
        *modules, name = table[index].path.split("/")
        node = taps
        for module in modules:
            node = node.setdefault(module, {})
        if name in node:
            raise ValueError(f"taps must be free at the sites of the table, {table[index].path!r} is taken")
        node[name] = entry
    return {**variables, "taps": taps}


def addresses(table: sites.SiteTable, members: list[int], faults: slots.Faults) -> jax.Array:
    """[k] int32: each slot's place in the members' arrays laid end to end; past the end if it is at another site."""
    sizes = np.zeros(len(table), np.int64)
    sizes[members] = [table[index].size for index in members]
    total = int(sizes.sum())
    if total >= 2**31:
        raise ValueError(f"a table must have fewer than 2^31 elements of one dtype, got {total}; use several tables")
    starts = np.zeros(len(table), np.int64)
    starts[members] = np.cumsum(sizes[members]) - sizes[members]
    site = jnp.maximum(faults.site, 0)
    inside = (faults.site >= 0) & (faults.element >= 0) & (faults.element < jnp.asarray(sizes, jnp.int32)[site])
    return jnp.where(inside, jnp.asarray(starts, jnp.int32)[site] + faults.element, total)


def _flip_arrays(
    arrays: Mapping[int, jax.Array], table: sites.SiteTable, faults: slots.Faults
) -> tuple[dict[int, jax.Array], jax.Array, jax.Array]:
    """The arrays by site index after the flips, and the values [k] float32 before and after; NaN for other sites."""
    again = slots.repeats(faults)
    flipped = {}
    before = after = jnp.full(faults.site.shape, jnp.nan, jnp.float32)
    for dtype in dict.fromkeys(table[index].dtype for index in arrays):
        members = [index for index in arrays if table[index].dtype == dtype]
        memory = jnp.concatenate([bits.to_bits(arrays[index]).reshape(-1) for index in members])
        address = addresses(table, members, faults)
        damaged = _hit(memory[None], address, bits.mask(faults.bit, dtype), again, faults.action)[0]
        here = address < memory.shape[0]
        before = jnp.where(here, _read(memory, address, dtype), before)
        after = jnp.where(here, _read(damaged, address, dtype), after)
        ends = np.cumsum([table[index].size for index in members])
        for index, part in zip(members, jnp.split(damaged, ends[:-1]), strict=True):
            flipped[index] = bits.from_bits(part.reshape(table[index].shape), dtype)
    return flipped, before, after


def _hit_per_image(
    address: jax.Array, bit: jax.Array, again: jax.Array, action: jax.Array | None, x: jax.Array
) -> jax.Array:
    """x [b, ...] with the same flat elements of every row hit."""
    rows = bits.to_bits(x).reshape(x.shape[0], -1)
    return bits.from_bits(_hit(rows, address, bits.mask(bit, x.dtype), again, action).reshape(x.shape), x.dtype)


def _hit(
    rows: jax.Array, address: jax.Array, masks: jax.Array, again: jax.Array, action: jax.Array | None
) -> jax.Array:
    """rows [b, n] unsigned with masks [k], one bit each, applied at the addresses; those past the end are dropped.

    again: [k], how many earlier slots name the same bit: a second flip undoes the first, a second "stuck" does nothing.
    """
    is_set = (rows.at[:, address].get(mode="clip") & masks[None]) != 0
    raised, none = masks[None], jnp.zeros_like(masks)[None]
    lowered = none - raised
    change = jnp.where(is_set != (again % 2 == 1)[None], lowered, raised)
    if action is not None:
        first = (again == 0)[None]
        change = jnp.where(action[None] == slots.STUCK_AT_0, jnp.where(is_set & first, lowered, none), change)
        change = jnp.where(action[None] == slots.STUCK_AT_1, jnp.where(is_set | ~first, none, raised), change)
    return rows.at[:, address].add(change, mode="drop")


def _read(memory: jax.Array, address: jax.Array, dtype: str) -> jax.Array:
    return bits.from_bits(memory.at[address].get(mode="clip"), dtype).astype(jnp.float32)


def weights(variables: Variables, table: sites.SiteTable) -> dict[int, jax.Array]:
    """The leaf of each weight of the table by its index; ValueError where one is missing or of another kind."""
    collections = dict.fromkeys(site.collection for site in table if site.kind == "weight")
    leaves = {name: sites.leaves_by_path(variables.get(name, {})) for name in collections}
    weights = {}
    for index, site in enumerate(table):
        if site.kind == "weight":
            leaf = leaves[site.collection].get(site.path)
            if leaf is None:
                raise ValueError(
                    f"variables must hold every weight of the table, missing: {site.collection}/{site.path}"
                )
            found = (jnp.result_type(leaf).name, jnp.shape(leaf))
            if found != (site.dtype, site.shape):
                raise ValueError(
                    f"{site.path} must be {site.dtype} {site.shape} as in the table, got {found[0]} {found[1]}"
                )
            weights[index] = jnp.asarray(leaf)
    return weights
