"""Convolutions in the body of a loop, in the one layout that XLA's CPU backend has a fast program for.

That layout is images [b, ..., c] and kernels [..., c, o]. Outside loops XLA transposes the operands of a convolution
into it; in the body of a loop it does not, and evaluates any other layout by plain loops. The gradient of a convolution
with respect to its images reads the kernel as [..., o, c], so it always is of another layout: a step of an attack on
ResNet-18 took twice as long as one gradient. Here the transposes are written out.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Calls whose body stands for them, by the parameter that holds it. Not jax.checkpoint, whose body has to stay together.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}


def in_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its convolutions in the fast layout, on a CPU; elsewhere, and without any, the function itself.

    To be called in the body of a loop. What it returns has the same values up to rounding, and no derivative. The
    convolutions inside loops, branches and `jax.checkpoint` of its own stay as they are.

    Args:
      function: of pytrees of arrays, with its derivatives taken already, e.g. `jax.grad(loss)`.
    """

    @functools.wraps(function)
    def called(*arguments):
        if jax.default_backend() != "cpu":
            return function(*arguments)
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jax.tree.leaves(arguments)
        if _slow(traced.jaxpr):
            made = _evaluated(traced.jaxpr, traced.consts, leaves)
        else:
            made = core.jaxpr_as_fun(traced)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), made)

    return called


def _slow(jaxpr: core.Jaxpr) -> bool:
    """Whether there is a convolution to be laid out anew."""
    bodies = [body for body in map(_body, jaxpr.eqns) if body is not None]
    return any(map(_other_layout, jaxpr.eqns)) or any(_slow(getattr(body, "jaxpr", body)) for body in bodies)


def _evaluated(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        body = _body(equation)
        read = [_value(var, values) for var in equation.invars]
        if body is not None:
            made = _evaluated(getattr(body, "jaxpr", body), getattr(body, "consts", ()), read)
        elif _other_layout(equation):
            made = [_convolved(*read, **equation.params)]
        else:
            made = _alone(equation, values)
        values.update(zip(equation.outvars, made, strict=True))
    return [_value(var, values) for var in jaxpr.outvars]


def _body(equation: core.JaxprEqn) -> Any:
    return equation.params.get(_CALLS.get(equation.primitive.name, ""))


def _other_layout(equation: core.JaxprEqn) -> bool:
    """Of batch groups the gradient with respect to a kernel is made, which attacks do not take."""
    if equation.primitive is not jax.lax.conv_general_dilated_p or equation.params["batch_group_count"] != 1:
        return False
    return equation.params["dimension_numbers"] != _fast(equation.invars[0].aval.ndim)


def _convolved(lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: Any, **params: Any) -> jax.Array:
    (batch, channels, *space), (outputs, inputs, *window), (row, features, *place) = dimension_numbers
    lhs, rhs = jnp.transpose(lhs, (batch, *space, channels)), jnp.transpose(rhs, (*window, inputs, outputs))
    made = jax.lax.conv_general_dilated_p.bind(lhs, rhs, dimension_numbers=_fast(lhs.ndim), **params)
    return jnp.transpose(made, np.argsort((row, *place, features)))


def _fast(ndim: int) -> jax.lax.ConvDimensionNumbers:
    """Images and results [b, ..., c], kernels [..., c, o]."""
    space = range(1, ndim - 1)
    images = (0, ndim - 1, *space)
    return jax.lax.ConvDimensionNumbers(images, (ndim - 1, ndim - 2, *range(ndim - 2)), images)


def _alone(equation: core.JaxprEqn, values: Mapping[core.Var, Any]) -> Sequence[Any]:
    read = tuple(dict.fromkeys(var for var in equation.invars if not isinstance(var, core.Literal)))
    names = ("value",) * len(read), ("value",) * len(equation.outvars)
    debug = core.DebugInfo("equation", equation.primitive.name, *names)
    alone = core.Jaxpr((), read, equation.outvars, (equation,), equation.effects, debug)
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*(values[var] for var in read))


def _value(var: core.Var | core.Literal, values: Mapping[core.Var, Any]) -> Any:
    return var.val if isinstance(var, core.Literal) else values[var]
