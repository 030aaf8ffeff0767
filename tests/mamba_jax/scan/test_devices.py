"""The tests of scans inside `shard_map` once more on several devices, where sums over devices are sums."""

import os
import pathlib
import subprocess
import sys

_FOLDER = pathlib.Path(__file__).parent


def test_scans_sharded_over_four_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    files = [str(_FOLDER / name) for name in ("test_selective.py", "test_pallas.py")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "sharded or shard_map", *files]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run(
        command, env=environment, cwd=_FOLDER.parents[2], capture_output=True, text=True, timeout=600, check=False
    )
    assert finished.returncode == 0, finished.stdout
    assert "passed" in finished.stdout
    assert "skipped" not in finished.stdout
