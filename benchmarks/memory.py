"""In a process of its own: the most memory that a forward and backward pass takes. Started by `model`.

    peak       largest resident set while it runs - resident set of the idle process, JAX started, no model made

so weights, gradients, the compiled program and what the allocator keeps count, and compiling itself does not: memory
that it gave back is returned to the system, and the record of the largest resident set begun again, before the first
run. Where the system cannot begin it again (not Linux), the figure includes compiling.
"""

import ctypes
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp

from benchmarks import children, model, setting
from mamba_jax import models

_STATUS = pathlib.Path("/proc/self/status")


def measure(options: dict, batch: int) -> dict[str, int]:
    """Bytes: `peak` (see above), `planned` (XLA's own account of arguments, results and temporaries), `floor`.

    Args:
      options: of `create_model`.
      batch: images.
    """
    jax.block_until_ready(jnp.zeros(()) + 1)
    idle = _bytes("VmRSS")
    variables = models.create_model(**options).init(jax.random.key(0))
    arguments = variables, setting.images(batch, options["image_size"]), setting.labels(batch)
    compiled = jax.jit(model.grad(options, "auto")).lower(*arguments).compile()
    _begin_record_again()
    for _ in range(2):
        jax.block_until_ready(compiled(*arguments))
    plan = compiled.memory_analysis()
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables["params"]))
    return {"peak": _bytes("VmHWM") - idle, "planned": planned, "floor": 2 * weights}


def _bytes(entry: str) -> int:
    """The resident set now (`VmRSS`) or at most (`VmHWM`); elsewhere than on Linux the latter in both cases."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{entry}:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _begin_record_again() -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # the GNU library's alone
            libc.malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    children.answer(measure(**children.arguments()))
