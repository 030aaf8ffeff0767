"""Whole runs of the program: what they leave, that they survive a kill, and that a folder belongs to one of them."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from experiments import run
from experiments.storage import folder

TINY = (
    "--model=medmamba", "--depths=1,0,0,0", "--dims=8,16,32,64", "--epochs=2", "--batch_size=32",
    "--eval_batch_size=16", "--attacks=pgd", "--epsilons=0,2", "--pgd_steps=2", "--attack_images=16",
    "--information_losses=0,0.5",
    "--occlusion_draws=2", "--occlusion_images=16", "--severities=5", "--corruption_images=16", "--fault_images=8",
    "--fault_trials=40", "--layer_trials=2", "--worst_flips=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Of the program's processes: they share one cache of programs, compiled quickly, and nothing with the user's."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    return {**os.environ, **settings}


def _start(arguments, environment, output) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.run", *TINY, *arguments, f"--output={output}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def _finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def _stop_when(process: subprocess.Popen, path: pathlib.Path, pattern: str, number: int) -> tuple[int, str]:
    """Sends the signal as soon as such a file is there; returns the exit code and what was said on standard error."""
    deadline = time.monotonic() + 600
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"still running 120 s after signal {number}: {process.communicate()[1]}")
    return process.returncode, err


@pytest.fixture(scope="module")
def whole(cells, environment, tmp_path_factory) -> tuple[folder.RunFolder, str]:
    """A run that nobody disturbed, and what it printed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    return folder.RunFolder(output), _finish(_start([f"--npz={cells}"], environment, output))


def test_a_run_leaves_rows_faults_figures_and_a_report(whole):
    finished, out = whole
    assert out.splitlines()[-1] == f"report: {finished.report}"
    rows, faults = finished.rows(), finished.faults()
    assert set(rows["stage"]) == {"train", "clean", "adversarial", "occlusion", "corruption", "fault"}
    assert "chosen_by_accuracy" in set(rows["method"]), "the epoch whose weights are measured"
    assert (rows["count"] > 0).all()
    measured = rows.dropna(subset=["value", "low"])
    assert len(measured) > 0.9 * len(rows)
    assert (measured["low"] <= measured["value"] + 1e-9).all()
    assert (measured["value"] <= measured["high"] + 1e-9).all()
    assert set(faults["mode"]) == {"random", "layerwise", "worst", "control"}
    assert set(faults["target"]) == {"weights", "activations"}
    figures = {path.stem for path in finished.figures.iterdir()}
    assert {"adversarial", "occlusion", "corruption", "fault_layers_weights", "gallery"} <= figures
    assert finished.about()["data"]["name"] == "cells"


def test_a_run_that_is_interrupted_and_killed_ends_with_the_same_rows(whole, cells, environment, tmp_path):
    output = tmp_path / "run"
    first = _start([f"--npz={cells}"], environment, output)
    code, err = _stop_when(first, output, "checkpoints/latest/*", signal.SIGINT)
    assert code == 130, err
    assert "the same command goes on from there" in err.splitlines()[-1]
    second = _start([f"--npz={cells}"], environment, output)
    assert _stop_when(second, output, "fault_parts/*.csv", signal.SIGKILL)[0] == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in (output / "finished").iterdir()}
    assert "clean.json" in {path.name for path in before}
    assert "fault.json" not in {path.name for path in before}
    out = _finish(_start([f"--npz={cells}"], environment, output))
    assert "clean: finished before" in out
    assert all(path.stat().st_mtime_ns == made for path, made in before.items()), "finished stages are kept as they are"
    for name in ("rows.csv", "faults.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(output / name), pd.read_csv(whole[0].root / name))


def test_an_attack_that_is_there_is_not_run_again(whole, cells, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(whole[0].root, output)
    for path in (output / "finished").glob("adversarial.*"):
        path.unlink()
    kept, gone = (output / "attack_parts" / f"linf-{name}-2.0.npz" for name in ("pgd", "uniform_noise"))
    before = kept.stat().st_mtime_ns
    gone.unlink()
    clean = output / "attack_parts" / "clean.npz"
    clean.unlink()
    arguments = [*TINY, f"--npz={cells}", f"--output={output}", "--stages=adversarial"]
    assert run.main(arguments) == 0
    assert kept.stat().st_mtime_ns == before
    assert gone.is_file()
    with np.load(clean) as again, np.load(whole[0].root / "attack_parts" / "clean.npz") as first:
        np.testing.assert_allclose(again["logits"], first["logits"], rtol=1e-4, atol=1e-5)
        for name in ("labels", "images"):
            np.testing.assert_array_equal(again[name], first[name])
    pd.testing.assert_frame_equal(pd.read_csv(output / "rows.csv"), pd.read_csv(whole[0].root / "rows.csv"))

    (output / "finished" / "adversarial.json").unlink()
    kept.write_bytes(b"half a file")
    assert run.main(arguments) == 2
    assert f"{kept} cannot be read" in capsys.readouterr().err


def test_another_configuration_in_the_same_folder_is_refused(whole, cells, refused):
    arguments = [*TINY, f"--npz={cells}", f"--output={whole[0].root}", "--fault_trials=50", "--seed=1"]
    message = refused(arguments)
    assert "fault.trials: 40 -> 50" in message
    assert "seed: 0 -> 1" in message


def test_other_images_under_the_same_name_are_refused(whole, tmp_path, cells, refused):
    arrays = dict(np.load(cells))
    arrays["test_images"] = 255 - arrays["test_images"]
    np.savez(tmp_path / "cells.npz", **arrays)
    message = refused([*TINY, f"--npz={tmp_path / 'cells.npz'}", f"--output={whole[0].root}"])
    assert "data.content" in message


def test_the_same_images_from_another_place_are_the_same_run(whole, tmp_path, cells, capsys):
    moved = tmp_path / "cells.npz"
    moved.write_bytes(cells.read_bytes())
    assert run.main([*TINY, f"--npz={moved}", f"--output={whole[0].root}", "--stages=clean,report"]) == 0
    assert "clean: finished before" in capsys.readouterr().out
