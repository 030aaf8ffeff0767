"""Named places in a model where an activation can be read or replaced.

A layer passes its activation through `tap(self, "dt", x)`. With nothing asked for, that is x itself and costs nothing.

- Replace: where the variable collection `taps` holds an entry of that name, the activation becomes `entry(x)`. An entry
  is a callable pytree, `jax.tree_util.Partial(function, *arrays)`, so its arrays can be batched by `jax.vmap`.
- Read: where the collection `tap_values` is mutable, the activation is sown there, before any replacement.

The states of a recurrence are never an array outside of its loop, so `tap_states` works through bit masks instead: an
entry of its name in `taps` is given zeros and returns the bits of the states to change, and the states, as they are
without these changes, are computed and sown only where the collection `state_values` is mutable.

Example:
  >>> entry = jax.tree_util.Partial(lambda x: jnp.zeros_like(x))
  >>> model.apply({**variables, "taps": {"stages_0": {"block_0": {"out": entry}}}}, images)
  >>> logits, sown = model.apply(variables, images, mutable=["tap_values"])
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

TAPS = "taps"
TAP_VALUES = "tap_values"
STATE_VALUES = "state_values"


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


def tap_states(module: nn.Module, name: str, shape: tuple[int, ...], read: Callable[[], jax.Array]) -> jax.Array | None:
    """What the entry `name` of the collection `taps` makes of [2, *shape] uint32 zeros; None without an entry.

    Args:
      module, name: as in `tap`.
      shape: of the states of one image, without the batch axis.
      read: called for the states [b, *shape], as they are without these changes, where they are asked for.

    Returns:
      The bits to clear in the states, and those to flip after that: `state_masks` of `scan.selective_scan`.
    """
    if not module.is_initializing() and module.is_mutable_collection(STATE_VALUES):
        module.sow(STATE_VALUES, name, read())
    if module.scope.has_variable(TAPS, name):
        return module.scope.get_variable(TAPS, name)(jnp.zeros((2, *shape), jnp.uint32))
    return None
