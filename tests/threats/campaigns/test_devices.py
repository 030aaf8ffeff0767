"""Campaigns on eight devices, in a process that simulates them."""

import os
import pathlib
import subprocess
import sys

_FOLDER = pathlib.Path(__file__).parent


def test_campaigns_on_eight_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", str(_FOLDER / "on_devices.py")]
    finished = subprocess.run(
        command,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=_FOLDER.parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    assert "passed" in finished.stdout or "100%" in finished.stdout
    assert "skipped" not in finished.stdout
