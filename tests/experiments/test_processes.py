"""Two processes that meet on this machine train as one does, and process 0 alone writes and goes on."""

import os
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from experiments import processes
from experiments.settings import options
from experiments.storage import folder

TINY = (
    "--model=medmamba", "--depths=1,0,0,0", "--dims=4,8,16,32", "--epochs=2", "--batch_size=16", "--stages=train,clean",
    "--eval_batch_size=16", "--augmentation=flip",
)  # fmt: skip


def _start(cells, output, *arguments) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    command = [sys.executable, "-m", "experiments.run", *TINY, f"--npz={cells}", f"--output={output}", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(running: list[subprocess.Popen]) -> list[str]:
    try:
        said = [process.communicate(timeout=900) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, err) in zip(running, said, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in said]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_two_processes_train_as_one_and_one_of_them_writes(cells, tmp_path):
    meeting = ("--distributed", f"--coordinator_address=localhost:{_free_port()}", "--num_processes=2", "--devices=2")
    out, other = _finish([_start(cells, tmp_path / "two", *meeting, f"--process_id={i}") for i in range(2)])
    assert "clean: finished in" in out
    assert [line for line in other.splitlines() if "Gloo" not in line] == [], "only process 0 speaks"
    _finish([_start(cells, tmp_path / "one")])
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    for figure in ("train_loss", "val_loss"):
        np.testing.assert_allclose(two[figure], one[figure], rtol=1e-5)
    rows = [folder.RunFolder(tmp_path / name).rows() for name in ("one", "two")]
    assert set(rows[1]["stage"]) == {"train", "clean"}
    one, two = (found[found["stage"] == "clean"].reset_index() for found in rows)
    assert list(one["metric"]) == list(two["metric"])
    np.testing.assert_allclose(
        two["value"], one["value"], atol=0.02, err_msg="the weights that were trained are measured"
    )


def test_where_one_process_fails_the_other_stops_too(cells, tmp_path):
    meeting = ("--distributed", f"--coordinator_address=localhost:{_free_port()}", "--num_processes=2", "--devices=2")
    good = _start(cells, tmp_path / "run", *meeting, "--process_id=0")
    bad = _start(tmp_path / "nothing.npz", tmp_path / "run", *meeting, "--process_id=1")
    said = [process.communicate(timeout=300)[1] for process in (good, bad)]
    assert [process.returncode for process in (good, bad)] == [2, 2], said
    assert "error: another process has stopped, see what it said" in said[0]
    assert "nothing.npz" in said[1]
    assert not (tmp_path / "run").exists()


def test_what_only_several_processes_take_is_refused_for_one():
    with pytest.raises(ValueError, match="num_processes is of several processes that train together: add --distrib"):
        options.parse(["--dataset=breastmnist", "--num_processes=2"])
    with pytest.raises(ValueError, match=r"distributed is for training.*add train to --stages"):
        options.parse(["--dataset=breastmnist", "--distributed", "--stages=clean"])
    _, run = options.parse(["--dataset=breastmnist", "--distributed", "--process_id=0", "--devices=1"])
    assert run.cluster == processes.Cluster(None, None, 0)
    assert run.devices == 1


def test_more_devices_than_there_are_are_refused():
    assert processes.mesh(None, rows=32).size == 1
    with pytest.raises(ValueError, match="devices must be from 1 to 1, as many as a process has here, got 2"):
        processes.mesh(2, rows=32)
