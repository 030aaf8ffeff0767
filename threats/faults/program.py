"""The traced program of a model as one flat list of equations: what depends on a fault, and what does not.

A fault changes a few leaves of the variables, or the value at a tap. The equations that none of these reach give the
same values in every trial, so they are evaluated once. Which they are is read from the program itself (its jaxpr), not
from knowledge of the model: nested calls are inlined, a scan or a loop is taken whole.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from threats import jaxprs
from threats.faults import injection, sites

Values = dict[core.Var, Any]

# Calls whose body stands for them, by the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_lin": "call_jaxpr",
}
# How costs compare, roughly: floating-point operations of a matrix product in the time of writing a byte, and what a
# byte written inside a loop, which stays in a cache, is worth.
_FLOPS_PER_BYTE = 4.0
_IN_LOOP = 0.1

_tap = core.Primitive("fault_tap")  # marks where a tapped value goes on; `run` alone evaluates it
_tap.def_abstract_eval(lambda x, *, index: x)


class Program(NamedTuple):
    """`logits = apply(variables, images)` as equations in an order in which they can be evaluated.

    Attributes:
      equations: flat; taps are equations of their own.
      leaves: the input of each weight of the table, by its index.
      taps: the number of the equation of each activation and state of the table, by its index; states are marked where
        the masks of their bits go into the recurrence.
      variables: the input of every leaf of the variables, in the order of the pytree.
      images: the input [b, h, w, c].
      logits: the result [b, ...].
      constants: values that the program holds itself.
    """

    equations: tuple[core.JaxprEqn, ...]
    leaves: dict[int, core.Var]
    taps: dict[int, int]
    variables: tuple[core.Var, ...]
    images: core.Var
    logits: core.Var
    constants: Values


def trace(
    apply: Callable[..., Any], variables: Mapping[str, Any], images: jax.Array, table: sites.SiteTable
) -> Program | None:
    """The program for images [b, h, w, c], of which only shape and dtype matter.

    None where it cannot be had as a flat list: a tap of the table is inside a scan, a loop or another transformation,
    or is not passed at all.
    """
    entries = {
        index: jax.tree_util.Partial(functools.partial(_tap.bind, index=index))
        for index, site in enumerate(table)
        if site.kind != "weight"
    }
    # Without where the arrays are: the equations run wherever their values will be.
    variables, images = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), (variables, images)
    )
    try:
        marked = jax.make_jaxpr(lambda v, x: apply(injection.with_taps(v, table, entries), x))(variables, images)
    except NotImplementedError:  # the mark has no rule for `jax.vmap` or `jax.grad`
        return None
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in marked.jaxpr.invars]
    flat = jax.make_jaxpr(lambda *arguments: _inlined(marked.jaxpr, marked.consts, arguments))(*shapes)
    equations = tuple(flat.jaxpr.eqns)
    taps = {e.params["index"]: number for number, e in enumerate(equations) if e.primitive is _tap}
    marks = sum(e.primitive is _tap for e in equations)
    (logits,) = flat.jaxpr.outvars
    if set(taps) != set(entries) or marks != len(taps) or isinstance(logits, core.Literal):
        return None
    *leaves, images = flat.jaxpr.invars
    return Program(
        equations=equations,
        leaves=_of_table(variables, table, leaves),
        taps=taps,
        variables=tuple(leaves),
        images=images,
        logits=logits,
        constants=dict(zip(flat.jaxpr.constvars, flat.consts, strict=True)),
    )


def reached(program: Program, changed: Iterable[int]) -> np.ndarray:
    """[equations] bool: which depend on a fault in one of these sites of the table."""
    changed = set(changed)
    values = {var for index, var in program.leaves.items() if index in changed}
    marks = {number for index, number in program.taps.items() if index in changed}
    mask = np.zeros(len(program.equations), bool)
    for number, equation in enumerate(program.equations):
        if number in marks or any(var in values for var in jaxprs.inputs(equation)):
            mask[number] = True
            values.update(equation.outvars)
    return mask


def costs(program: Program) -> np.ndarray:
    """[equations] float64: rough cost of each, in bytes written, matrix products converted to them."""
    return np.array([_cost(equation) for equation in program.equations])


def frontier(program: Program, mask: np.ndarray, changed: Iterable[int]) -> tuple[core.Var, ...]:
    """The values that the equations of the mask read and that no fault changes, leaves of the variables among them."""
    made = {var for number in np.flatnonzero(mask) for var in program.equations[number].outvars}
    made |= {program.leaves[index] for index in changed if index in program.leaves}
    read = [var for number in np.flatnonzero(mask) for var in jaxprs.inputs(program.equations[number])]
    return tuple(dict.fromkeys(var for var in [*read, program.logits] if var not in made))


def depends_on_images(program: Program) -> set[core.Var]:
    """The values that are not the same for every batch of images."""
    found = {program.images}
    for equation in program.equations:
        if any(var in found for var in jaxprs.inputs(equation)):
            found.update(equation.outvars)
    return found


def run(
    program: Program, numbers: Sequence[int], values: Values, flips: Mapping[int, Callable[[jax.Array], jax.Array]]
) -> Values:
    """Evaluates some equations, in order, and returns the values with what they made.

    Args:
      program: the equations.
      numbers: which of them, ascending.
      values: what they read of what is made elsewhere.
      flips: by index in the table: what becomes of the value at that tap; at others it stays.
    """
    values = {**program.constants, **values}
    for number in numbers:
        equation = program.equations[number]
        if equation.primitive is _tap:
            value = values[equation.invars[0]]
            made = [flips[equation.params["index"]](value) if equation.params["index"] in flips else value]
        else:
            made = jaxprs.evaluate(equation, values)
        values.update(zip(equation.outvars, made, strict=True))
    return values


def size(var: core.Var) -> int:
    """Bytes of a value."""
    return math.prod(var.aval.shape) * var.aval.dtype.itemsize


def _inlined(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        body = equation.params.get(_CALLS.get(equation.primitive.name, ""))
        if body is None:
            made = jaxprs.evaluate(equation, values)
        else:
            read = [jaxprs.value(var, values) for var in equation.invars]
            made = _inlined(getattr(body, "jaxpr", body), getattr(body, "consts", ()), read)
        values.update(zip(equation.outvars, made, strict=True))
    return [jaxprs.value(var, values) for var in jaxpr.outvars]


def _cost(equation: core.JaxprEqn) -> float:
    written = sum(math.prod(var.aval.shape) for var in equation.outvars) * 4.0
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return written * (1 + 2 * depth / 4 / _FLOPS_PER_BYTE)
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = equation.params["dimension_numbers"].rhs_spec[0]
        return written * (1 + 2 * math.prod(kernel) / kernel[outputs] / 4 / _FLOPS_PER_BYTE)
    if equation.primitive.name in ("scan", "while"):
        steps = equation.params.get("length", 1)
        body = equation.params.get("jaxpr", equation.params.get("body_jaxpr"))
        return written + _IN_LOOP * steps * sum(_cost(inner) for inner in body.jaxpr.eqns)
    if equation.primitive.name == "cond":  # as a scan whose states may be hit: mostly they are not, the first branch
        return written + sum(_cost(inner) for inner in equation.params["branches"][0].jaxpr.eqns)
    return written


def _of_table(variables: Mapping[str, Any], table: sites.SiteTable, leaves: Sequence[core.Var]) -> dict[int, core.Var]:
    structure = jax.tree.structure(variables)
    tree = jax.tree.unflatten(structure, leaves)
    by_path = {name: sites.leaves_by_path(collection) for name, collection in tree.items()}
    return {index: by_path[s.collection][s.path] for index, s in enumerate(table) if s.kind == "weight"}
