"""Fresh processes, for what a process can show only once: its start, and the most memory it ever held."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_ROOT = pathlib.Path(__file__).parents[1]
_TIMEOUT = 600  # seconds


def run(module: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs `python -m module` and returns the JSON of its last line of output.

    Args:
      module: dotted name of a module of this project that calls `answer`.
      arguments: JSON data for it.
      environment: variables to change.

    Raises:
      RuntimeError: it failed; the message ends with what it wrote on standard error.
    """
    path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH")) if part)
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(dict(arguments))],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError(f"{module} must end with 0, got {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def arguments() -> dict[str, Any]:
    """In the child: what `run` was given."""
    return json.loads(sys.argv[1])


def answer(found: Mapping[str, Any]) -> None:
    """In the child: what `run` returns."""
    print(json.dumps(dict(found)), flush=True)
