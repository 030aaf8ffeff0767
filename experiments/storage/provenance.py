"""How a run was made: versions, commit, device and command, so that its numbers can be made again."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

import jax

_PACKAGES = ("mamba-reliability", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "medmnist")
_VARIABLES = ("XLA_FLAGS", "GLIBC_TUNABLES")


def describe(arguments: Sequence[str]) -> dict[str, Any]:
    """Versions, commit, device, command and the environment variables that decide on speed, as a JSON dict.

    Args:
      arguments: of the command line, without the program's name.
    """
    return {
        "command": command(arguments),
        "commit": commit(),
        "device": device(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "environment": environment(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def environment() -> dict[str, str]:
    """Environment variables that decide on speed."""
    return {name: os.environ.get(name, "") for name in _VARIABLES}


def command(arguments: Sequence[str]) -> str:
    """The command line as it can be typed again."""
    return shlex.join(["python", "-m", "experiments.run", *arguments])


def device() -> str:
    """What the arrays live on: `2 x cpu (AMD EPYC 7B13, 2 cores)`, `1 x NVIDIA H200`."""
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"cpu ({_processor()}, {os.cpu_count()} cores)"
    return f"{len(devices)} x {kind}"


@functools.cache
def commit() -> str | None:
    """The commit of the code, with `+ local changes` where there are any; None outside a git checkout.

    Looked at once, as the code was read then: the checkout may be another one by the time that a training ends.
    """
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return f"{head} + local changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def version(package: str) -> str | None:
    """The version of an installed package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    information = pathlib.Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
