"""Two processes that meet on this machine train and run campaigns as one does; process 0 alone writes and goes on."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import processes, run
from experiments.settings import options
from experiments.storage import folder, parts
from mamba_jax import models, zoo

SIZE = {"depths": (1, 0, 0, 0), "dims": (4, 8, 16, 32)}
TINY = (
    "--model=medmamba", "--depths=1,0,0,0", "--dims=4,8,16,32", "--epochs=2", "--batch_size=16", "--stages=train,clean",
    "--eval_batch_size=16", "--augmentation=flip",
)  # fmt: skip
CAMPAIGN = ("--eval_batch_size=16", "--fault_images=8", "--fault_modes=campaign", "--stages=fault")
TO_WIDTH = ("--fault_modes=campaign", "--fault_images=8", "--half_width=0.1", "--fault_metric=sdc")


def _start(cells, output, *arguments, flags=TINY) -> subprocess.Popen:
    xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    command = [sys.executable, "-m", "experiments.run", *flags, f"--npz={cells}", f"--output={output}", *arguments]
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


def _meeting() -> tuple[str, ...]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return "--distributed", f"--coordinator_address=localhost:{port}", "--num_processes=2"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """The flag that names a tiny untrained model."""
    model = models.create_model("medmamba", num_classes=8, **SIZE)
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    zoo.save(path, model, model.init(jax.random.key(1)), {})
    return f"--init_from={path}"


@pytest.fixture(scope="module")
def together(cells, tmp_path_factory) -> tuple[pathlib.Path, str, str]:
    """The folder of a run of two processes with two devices each, and what they said."""
    root = tmp_path_factory.mktemp("together") / "run"
    arguments = (*TO_WIDTH, "--number_formats=float32,int8", "--stages=train,clean,fault", "--devices=2", *_meeting())
    out, other = _finish([_start(cells, root, *arguments, f"--process_id={i}") for i in range(2)])
    return root, out, other


def test_two_processes_train_as_one_and_one_of_them_writes(cells, tmp_path, together):
    root, out, other = together
    assert [line.split(":")[0] for line in out.splitlines() if "finished" in line] == ["train", "clean", "fault"]
    assert [line for line in other.splitlines() if "Gloo" not in line] == [], "only process 0 speaks"
    _finish([_start(cells, tmp_path / "one")])
    one, two = (pd.read_csv(path / "history.csv") for path in (tmp_path / "one", root))
    for figure in ("train_loss", "val_loss"):
        np.testing.assert_allclose(two[figure], one[figure], rtol=1e-5)
    rows = [folder.RunFolder(path).rows() for path in (tmp_path / "one", root)]
    assert set(rows[1]["stage"]) == {"train", "clean", "fault"}
    one, two = (found[found["stage"] == "clean"].reset_index() for found in rows)
    assert list(one["metric"]) == list(two["metric"])
    np.testing.assert_allclose(
        two["value"], one["value"], atol=0.02, err_msg="the weights that were trained are measured"
    )


def test_where_one_process_fails_the_other_stops_too(cells, tmp_path):
    meeting = (*_meeting(), "--devices=2")
    good = _start(cells, tmp_path / "run", *meeting, "--process_id=0")
    bad = _start(tmp_path / "nothing.npz", tmp_path / "run", *meeting, "--process_id=1")
    said = [process.communicate(timeout=300)[1] for process in (good, bad)]
    assert [process.returncode for process in (good, bad)] == [2, 2], said
    assert "error: another process has stopped, see what it said" in said[0]
    assert "nothing.npz" in said[1]
    assert not (tmp_path / "run").exists()


def test_two_processes_run_one_campaign(cells, tmp_path, together):
    """After training together; in both formats they stop after the same trial as one process with the same weights."""
    two, one = together[0], tmp_path / "one"
    written = [path.name for path in (two / "fault_parts").rglob("*") if path.is_file()]
    assert written.count("campaign.json") == 2
    assert sum(name.startswith("trials_") for name in written) == len(written) - 2 > 4
    shutil.copytree(two, one)
    shutil.rmtree(one / "fault_parts")
    (one / "finished" / "fault.json").unlink()
    chosen = [*TINY, *TO_WIDTH, "--number_formats=float32,int8", f"--npz={cells}", f"--output={one}", "--stages=fault"]
    assert run.main(chosen) == 0
    _same_trials(two, one)
    pd.testing.assert_frame_equal(*(folder.RunFolder(path).rows() for path in (two, one)), rtol=1e-5)


def _same_trials(two, one):
    """All that one process has run; two may have run one chunk more of each format, after the last that counts."""
    for path in (one / "fault_parts").rglob("trials_*.parquet"):
        expected, found = (
            parts.read(part, parts.digest(parts.read_identity(part.parent)))
            for part in (path, two / path.relative_to(one))
        )
        np.testing.assert_allclose(found.result.loss, expected.result.loss, rtol=1e-5)
        same = found.result._replace(loss=expected.result.loss)
        jax.tree.map(np.testing.assert_array_equal, found._replace(result=same), expected)


def test_where_a_process_of_a_campaign_is_killed_the_other_says_so(cells, weights, tmp_path):
    many = (*CAMPAIGN, weights, "--half_width=0.002", "--fault_metric=sdc", *_meeting())
    kept = tmp_path / "run" / "fault_parts" / "campaign_float32"
    both = [_start(cells, tmp_path / "run", *many, f"--process_id={i}", flags=()) for i in range(2)]
    try:
        for _ in range(600):
            if len(list(kept.glob("trials_*.parquet"))) > 1:
                break
            time.sleep(0.1)
        both[1].send_signal(signal.SIGKILL)
        (_, error), _ = (process.communicate(timeout=200) for process in both)
    finally:
        for process in both:
            process.kill()
    assert both[0].returncode == 2, error
    assert error.splitlines()[-1] == "error: another process has stopped, see what it said"
    assert len(list(kept.glob("trials_*.parquet"))) > 1, "what has run is kept"


def test_a_process_with_other_flags_is_refused_and_stops_all(cells, weights, tmp_path):
    flags, meeting = (*CAMPAIGN, weights), _meeting()
    both = [
        _start(cells, tmp_path / "run", *meeting, f"--process_id={i}", f"--fault_trials={40 + i}", flags=flags)
        for i in range(2)
    ]
    said = [process.communicate(timeout=300)[1].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [2, 2], said
    assert said[0] == "error: another process has stopped, see what it said"
    assert "holds a run with another configuration (fault.trials: 40 -> 41; " in said[1]
    assert not (tmp_path / "run" / "fault_parts").exists()


def test_what_only_several_processes_take_is_refused_for_one():
    with pytest.raises(ValueError, match="num_processes is of several processes that work together: add --distrib"):
        options.parse(["--dataset=breastmnist", "--num_processes=2"])
    for stages in ("clean", "clean,fault"):
        with pytest.raises(ValueError, match=r"distributed is for training and for campaigns.*add train to --stages"):
            options.parse(["--dataset=breastmnist", "--distributed", f"--stages={stages}"])
    for alone in ("--shard=1/2", "--plan", "--replay_trial=3"):
        with pytest.raises(ValueError, match=f"{alone[2:].partition('=')[0]} is of one process by itself"):
            options.parse(["--dataset=breastmnist", "--distributed", "--fault_modes=campaign", alone])
    _, run = options.parse(["--dataset=breastmnist", "--distributed", "--process_id=0", "--devices=1"])
    assert run.cluster == processes.Cluster(None, None, 0)
    assert run.devices == 1


def test_more_devices_than_there_are_are_refused():
    assert processes.mesh(None, rows=32).size == 1
    with pytest.raises(ValueError, match="devices must be from 1 to 1, as many as a process has here, got 2"):
        processes.mesh(2, rows=32)
