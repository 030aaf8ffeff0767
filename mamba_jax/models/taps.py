"""Named places in a model where an activation can be read or replaced.

A layer passes its activation through `tap(self, "dt", x)`. With nothing asked for, that is x itself and costs nothing.

- Replace: where the variable collection `taps` holds an entry of that name, the activation becomes `entry(x)`. An entry
  is a callable pytree, `jax.tree_util.Partial(function, *arrays)`, so its arrays can be batched by `jax.vmap`.
- Read: where the collection `tap_values` is mutable, the activation is sown there, before any replacement.

Example:
  >>> entry = jax.tree_util.Partial(lambda x: jnp.zeros_like(x))
  >>> model.apply({**variables, "taps": {"stages_0": {"block_0": {"out": entry}}}}, images)
  >>> logits, sown = model.apply(variables, images, mutable=["tap_values"])
"""

import jax
from flax import linen as nn

TAPS = "taps"
TAP_VALUES = "tap_values"


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """x, or what the entry `name` of the collection `taps` makes of it.

    Args:
      module: the bound module that calls; its path and `name` are the tap's address.
      name: unique inside the module, and not the name of a submodule.
      x: [b, ...], batch first.
    """
    if not module.is_initializing():
        module.sow(TAP_VALUES, name, x)
    if module.scope.has_variable(TAPS, name):
        return module.scope.get_variable(TAPS, name)(x)
    return x
