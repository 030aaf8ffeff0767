"""Two runs' campaigns compared from their folders: paired in one architecture, as two samples in two, and refusals."""

import json
import shutil

import jax
import pandas as pd
import pytest

from experiments import compare, run
from experiments.storage import folder, records
from mamba_jax import models, zoo

CAMPAIGN = ("--eval_batch_size=16", "--fault_images=8", "--stages=fault", "--fault_modes=campaign", "--fault_trials=40")
SIZES = {"a": (4, 8, 16, 32), "b": (4, 8, 16, 32), "wider": (8, 16, 32, 64)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cells):
    """Folders of three finished campaigns: two models of one architecture, and one of another."""
    root = tmp_path_factory.mktemp("runs")
    for number, (name, dims) in enumerate(SIZES.items()):
        model = models.create_model("medmamba", num_classes=8, depths=(1, 0, 0, 0), dims=dims)
        zoo.save(root / f"{name}.safetensors", model, model.init(jax.random.key(number)), {})
        weights = f"--init_from={root / name}.safetensors"
        assert run.main([f"--npz={cells}", weights, f"--output={root / name}", *CAMPAIGN]) == 0
    return root


@pytest.fixture
def refused(capsys):
    """Compares two folders, which must be refused with exit code 2 and one line, which is returned."""

    def refuse(*arguments) -> str:
        assert compare.main([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return refuse


def test_one_architecture_is_paired_and_two_are_not(runs, tmp_path, capsys):
    a, b, wider = (str(runs / name) for name in SIZES)
    assert compare.main([f"--output={tmp_path / 'found.csv'}", a, b]) == 0
    out = capsys.readouterr().out
    assert f"a: {a}\nb: {b}\n" in out
    assert "float32: a - b is paired, trial by trial" in out
    found = pd.read_csv(tmp_path / "found.csv")
    assert found["metric"].tolist() == list(compare.METRICS)
    assert set(found["difference_count"]) == {40}
    for name in ("a", "b"):
        reported = records.select(folder.RunFolder(runs / name).rows(), method="float32", metric=compare.METRICS)
        reported = reported.set_index("metric").loc[list(compare.METRICS), ["value", "low", "high", "count"]]
        own = found[[f"{name}_{column}" for column in reported.columns]]
        assert own.to_numpy().tolist() == reported.to_numpy().tolist()
    assert found["difference_value"].to_numpy() == pytest.approx((found["a_value"] - found["b_value"]).to_numpy())
    assert (
        (found["difference_low"] <= found["difference_value"]) & (found["difference_value"] <= found["difference_high"])
    ).all()

    assert compare.main([a, wider]) == 0
    out = capsys.readouterr().out
    assert "a - b is of two independent samples" in out
    assert out.count("(80)") == len(compare.METRICS)


def _changed(runs, tmp_path, **changes):
    """A copy of run b whose campaign.json says something else."""
    shutil.copytree(runs / "b", tmp_path / "changed")
    path = tmp_path / "changed" / "fault_parts" / "campaign_float32" / "campaign.json"
    identity = json.loads(path.read_text())
    path.write_text(json.dumps({**identity, **changes, "spec": {**identity["spec"], **changes.get("spec", {})}}))
    return tmp_path / "changed"


def test_what_cannot_be_compared_is_refused(runs, tmp_path, refused):
    a = runs / "a"
    assert "holds no run" in refused(a, tmp_path)
    assert "give the folders of two runs, runs/a runs/b, got 1" in refused(a)
    assert "Unknown command line flag 'outputs'" in refused("--outputs=x", a, a)
    other = _changed(runs, tmp_path, data="0123")
    assert "are of different images (hash " in refused(a, other)
    shutil.rmtree(other)
    other = _changed(runs, tmp_path, spec={"flips": 2})
    assert "are of different specs (spec.flips: 1 -> 2)" in refused(a, other)
    shutil.rmtree(other)
    assert "missing" in refused(f"--output={tmp_path / 'missing' / 'found.csv'}", a, a)
    other = _changed(runs, tmp_path)
    next((other / "fault_parts" / "campaign_float32").glob("trials_*")).unlink()
    assert "has only 8 of the 40 trials" in refused(a, other)
    (other / "finished" / "fault.json").unlink()
    assert "is not finished: give its command again" in refused(a, other)
    (other / "fault_parts" / "campaign_float32").rename(other / "fault_parts" / "campaign_int8")
    (other / "finished" / "fault.json").write_text("{}")
    assert "there is no number format in common" in refused(a, other)
    shutil.rmtree(other / "fault_parts")
    assert "holds no campaign: run it with --fault_modes=campaign" in refused(a, other)
