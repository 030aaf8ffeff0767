"""One program for several machines: which kernel it runs is decided when it is lowered, platform by platform.

`jax.lax.platform_dependent` would do but for two things in JAX 0.10.2: a program exported for several platforms at once
would lower each kernel for all of them, and the interpreter cannot type arrays that vary over the mesh axes of a
`shard_map`. So the choice is a primitive, with one lowering rule per platform; inside it no array is said to vary.
"""

import functools
from collections.abc import Callable

import jax
import jax.extend as jex
import jax.numpy as jnp
from jax.interpreters import mlir

_kernel = jex.core.Primitive("selective_scan")
_kernel.multiple_results = True


def chosen_at_lowering(run: Callable) -> Callable:
    """`run(target, *operands)` without its first argument: `cuda` or `tpu` there, `interpret` anywhere else.

    Operands must vary over the same mesh axes, over which the results then vary too.
    """

    def chosen(*operands):
        shapes = jax.eval_shape(functools.partial(run, "interpret"), *map(_plain, operands))
        results, structure = jax.tree.flatten(shapes)
        sizes = tuple((x.shape, x.dtype) for x in results)
        return jax.tree.unflatten(structure, _kernel.bind(*operands, run=run, sizes=sizes))

    return chosen


def _plain(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=jax.sharding.ManualAxisType())


@_kernel.def_impl
def _execute(*operands, **parameters):
    return jax.jit(functools.partial(_kernel.bind, **parameters))(*operands)


@_kernel.def_abstract_eval
def _types(first, *_, run, sizes):
    del run

    def like_first(shape, dtype):
        sharding = first.sharding.update(spec=jax.P(*(None for _ in shape)))
        return first.update(shape=shape, dtype=jnp.dtype(dtype), weak_type=False, sharding=sharding)

    return [like_first(*size) for size in sizes]


def _lower(target: str, context: mlir.LoweringRuleContext, *operands, run, sizes):
    del sizes
    still = jax.sharding.ManualAxisType()
    context = context.replace(
        avals_in=[x.update(manual_axis_type=still) for x in context.avals_in],
        avals_out=[x.update(manual_axis_type=still) for x in context.avals_out],
    )
    flat = mlir.lower_fun(lambda *x: jax.tree.leaves(run(target, *x)), multiple_results=True)
    return flat(context, *operands)


for _platform in ("cuda", "tpu"):
    mlir.register_lowering(_kernel, functools.partial(_lower, _platform), platform=_platform)
mlir.register_lowering(_kernel, functools.partial(_lower, "interpret"))
