"""What a user can put right is one line on standard error and exit code 2: the command line, data, weights, disk."""

import errno
import os
import pickle
import shutil
import zipfile

import numpy as np
import pooch
import pytest
import safetensors.numpy

from experiments import loading, run
from experiments.storage import folder
from mamba_jax.data import medmnist

TINY = ("--model=medmamba", "--depths=1,0,0,0", "--dims=8,16,32,64", "--batch_size=32", "--eval_batch_size=16")
BLOOD = "--dataset=synthetic_blood"


@pytest.fixture(autouse=True)
def _somewhere_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDMNIST_ROOT", raising=False)


@pytest.fixture
def official(tmp_path, monkeypatch, cells):
    """A directory with a small file that passes as BreastMNIST's, whose download finds no network."""
    entry = medmnist.info()["breastmnist"]
    path = tmp_path / "official" / "breastmnist.npz"
    path.parent.mkdir()
    shutil.copy(cells, path)
    monkeypatch.setitem(entry, "MD5", pooch.file_hash(str(path), alg="md5"))
    monkeypatch.setitem(entry, "url", "http://127.0.0.1:1/breastmnist.npz")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=bludmnist"], "dataset must be one of ('pathmnist',"),
        (["--npz=missing.npz"], "missing.npz"),
        ([BLOOD, "--model=medmamba_x"], "model must be one of"),
        ([BLOOD, "--patch_size=4"], "patch_size"),
        ([BLOOD, "--patch_size=4"], "32"),
        ([BLOOD, "--scan_method=fast"], "method must be one of ('auto', 'associative', "),
        ([BLOOD, "--init_from=weights.pth"], "there is no file weights.pth"),
        ([BLOOD, "--init_from=zoo:nothing"], "there is no trained model 'nothing'"),
        ([BLOOD, "--stages=clean"], "add train to --stages, or name weights with --init_from"),
        ([BLOOD, "--attacks=magic"], "attacks must be among fgsm"),
        ([BLOOD, "--select=f1"], "select must be one of ('accuracy', 'auc', 'loss'), got 'f1'"),
        ([BLOOD, "--occlusion_grid=29"], "occlusion_grid must be at most 28"),
        (["--flagfile=blood.flags"], "there is no flag file 'blood.flags'"),
        (["--epoch=3"], "Unknown command line flag 'epoch'"),
        (["bloodmnist"], "unexpected argument 'bloodmnist'"),
        (["--dataset=breastmnist"], "name one that holds its file or may receive it"),
    ],
)
def test_a_command_line(arguments, message, refused, tmp_path):
    assert message in refused(arguments)
    assert not list(tmp_path.glob("runs")), "nothing is made for a run that cannot start"


def test_help_is_printed_and_is_no_error(capsys):
    assert run.main(["--help"]) == 0
    assert "--fault_trials" in capsys.readouterr().out


def test_a_file_that_is_no_data_set(refused, tmp_path):
    (tmp_path / "cells.npz").write_bytes(b"not a zip file")
    assert "cells.npz" in refused(["--npz=cells.npz", "--output=run"])
    assert not (tmp_path / "run").exists()


def test_no_network(refused, official):
    official.unlink()
    line = refused(["--dataset=breastmnist", f"--data_dir={official.parent}"])
    assert "found no network" in line
    assert "download http://127.0.0.1:1/breastmnist.npz elsewhere and put it there" in line
    assert not list(official.parent.iterdir())


def test_a_data_directory_that_is_not_there_and_cannot_be_made(refused, official):
    line = refused(["--dataset=breastmnist", f"--data_dir={official / 'below a file'}"])
    assert "breastmnist.npz" in line


def test_a_file_that_is_not_the_official_one(refused, official):
    with np.load(official) as arrays:
        np.savez(official, **{**arrays, "test_images": 255 - arrays["test_images"]})
    assert "altered or another version: its MD5 is" in refused(
        ["--dataset=breastmnist", f"--data_dir={official.parent}"]
    )


def test_an_official_file_cut_short(refused, official):
    official.write_bytes(official.read_bytes()[:-100])
    line = refused(["--dataset=breastmnist", f"--data_dir={official.parent}"])
    assert "truncated" in line
    assert "move it away to have it downloaded" in line


class _Command:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_weights_that_run_a_command(refused, tmp_path):
    with zipfile.ZipFile("weights.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"head.weight": _Command()}, protocol=2))
        archive.writestr("archive/version", "3")
    line = refused([BLOOD, "--init_from=weights.pth"])
    assert "cannot read weights.pth" in line
    assert "system" in line
    assert not (tmp_path / "executed").exists()


def test_weights_of_the_old_architecture(refused):
    safetensors.numpy.save_file(
        {"layers.0.blocks.0.finalconv11.weight": np.zeros((2, 2), np.float32)}, "old.safetensors"
    )
    assert "`finalconv11` weights, the MedMamba architecture before April 2024" in refused(
        [BLOOD, "--init_from=old.safetensors"]
    )


def test_training_that_diverges(refused, cells):
    rate = ["--learning_rate=1e30", "--warmup_epochs=0", "--epochs=1", "--stages=train"]
    line = refused([f"--npz={cells}", *TINY, *rate, "--output=run"])
    assert "the training loss is nan at epoch 1, step 2 of 2: lower learning_rate" in line


@pytest.mark.parametrize("below", ["run", "deep/run"])
def test_an_output_that_cannot_be_written(below, refused, cells, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused([f"--npz={cells}", *TINY, f"--output=file/{below}"])


def test_a_disk_that_is_full(refused, cells, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = [f"--npz={cells}", *TINY, "--output=run"]
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert "no space left on the device: free some" in refused(arguments)
    with folder.lock("run"):
        folder.start("run", {}, {})


def test_a_folder_that_another_run_works_on(refused, cells):
    with folder.lock("run"):
        assert "run is in use by another process" in refused([f"--npz={cells}", *TINY, "--output=run"])


def test_an_error_of_the_program_says_how_to_see_where(refused, monkeypatch):
    monkeypatch.setattr(loading, "dataset", lambda *_: np.zeros(2).reshape(3))
    assert refused([BLOOD]).endswith("(--debug shows where)")
    assert "--debug" not in refused(["--dataset=bludmnist", "--attacks=magic"])


def test_debug_shows_where():
    with pytest.raises(ValueError, match="patch_size"):
        run.main([BLOOD, "--patch_size=4", "--debug=true"])
