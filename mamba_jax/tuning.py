"""What makes JAX fast for these models beyond its defaults: flags of XLA's CPU backend, compiled programs on disk."""

import os
import pathlib
from collections.abc import Mapping

import jax

_CPU_FLAGS = {
    # The default orders operations for most of them at a time, which keeps about twice the memory alive; fresh memory
    # is slow to touch. Operations here are large enough to use all cores one after another.
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",
}


def tune_cpu() -> None:
    """Adds flags to the environment variable `XLA_FLAGS`, for this process and those that it starts.

    Call it before JAX computes anything. Other backends have flags of their own. docs/benchmarks.md has what it was
    measured to change.
    """
    add_flags(_CPU_FLAGS)


def add_flags(wanted: Mapping[str, str]) -> None:
    """Adds flags of XLA to the environment variable `XLA_FLAGS`, which XLA reads once, when JAX first computes.

    What `XLA_FLAGS` says already stays as it is, and nothing is added to the name of a file of flags.
    """
    given = os.environ.get("XLA_FLAGS", "").strip()
    if given and not given.startswith("-"):
        return  # the name of a file of flags
    added = [f"--{name}={value}" for name, value in wanted.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [given, *added]))


def keep_programs() -> None:
    """Keeps every compiled program for later processes, in `$JAX_COMPILATION_CACHE_DIR` or the user's cache directory.

    JAX alone keeps what took a second or more to compile; the hundreds of small programs of a start add up to more.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mamba_reliability" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
