"""Gradients of convolutions inside a loop, made fast on CPUs; values stay the same up to rounding.

XLA's CPU backend has fast code for convolutions of images [b, h, w, c] by kernels [h, w, c, k] to [b, h, w, k] alone.
It brings others into that form, but only outside of loops and branches. Models that are called in that form stay fast
in a loop; their gradients have another, in which the images' channels are the batch: a kernel's takes fifty to ninety
times as long there as outside (3 x 3, 64 channels), the images' two to six times. Here the transpositions are written
out in the traced program of any function, so that nothing is left to bring into form.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from threats import jaxprs


def in_loops(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with its convolutions in the fast form, for the body of a loop; itself where there is no CPU.

    Convolutions in groups stay as they are.

    Args:
      function: of pytrees of arrays, traceable.
    """
    if jax.default_backend() != "cpu":
        return function

    def rewritten(*arguments: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluated(traced.jaxpr, traced.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rewritten


def _evaluated(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        if _rewritable(equation):
            made = [_convolved(equation, *(jaxprs.value(var, values) for var in equation.invars))]
        else:
            made = jaxprs.evaluate(_with_body(equation), values)
        values.update(zip(equation.outvars, made, strict=True))
    return [jaxprs.value(var, values) for var in jaxpr.outvars]


def _with_body(equation: core.JaxprEqn) -> core.JaxprEqn:
    """A call or a scan with its body rewritten; any other equation as it is."""
    body = equation.params.get("jaxpr")
    if not isinstance(body, core.Jaxpr | core.ClosedJaxpr):
        return equation
    jaxpr, constants = getattr(body, "jaxpr", body), getattr(body, "consts", ())
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in jaxpr.invars]
    new = jax.make_jaxpr(lambda *arguments: _evaluated(jaxpr, constants, arguments))(*shapes)
    new = new if isinstance(body, core.ClosedJaxpr) else new.jaxpr
    return equation.replace(params={**equation.params, "jaxpr": new})


def _rewritable(equation: core.JaxprEqn) -> bool:
    groups = ("feature_group_count", "batch_group_count")
    found = equation.primitive.name == "conv_general_dilated"
    return found and all(equation.params[name] == 1 for name in groups)


def _convolved(equation: core.JaxprEqn, images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution between transpositions: of the images and the result to channels last, of the kernel to HWIO."""
    given, axes = equation.params["dimension_numbers"], range(images.ndim)
    *spatial, last = axes[1:]
    out, into, *window = given.rhs_spec
    fast = jax.lax.ConvDimensionNumbers((0, last, *spatial), (last, last - 1, *axes[:-2]), (0, last, *spatial))
    result = equation.primitive.bind(
        jnp.transpose(images, _channels_last(given.lhs_spec)),
        jnp.transpose(kernel, (*window, into, out)),
        **{**equation.params, "dimension_numbers": fast},
    )
    placed = _channels_last(given.out_spec)
    return jnp.transpose(result, [placed.index(axis) for axis in axes])


def _channels_last(spec: tuple[int, ...]) -> tuple[int, ...]:
    batch, channel, *spatial = spec
    return (batch, *spatial, channel)
