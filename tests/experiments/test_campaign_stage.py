"""A campaign as a run: formats, report, resume, replay, plan, shards, and what is refused."""

import json

import jax
import pytest

from experiments import merge, run
from experiments.storage import folder, records
from mamba_jax import models, zoo

SMALL = ("--eval_batch_size=16", "--fault_images=8", "--stages=fault,report", "--fault_modes=campaign")


@pytest.fixture(scope="module")
def given(tmp_path_factory, cells):
    """Arguments that name the images and a tiny untrained model."""
    model = models.create_model("medmamba", num_classes=8, depths=(1, 0, 0, 0), dims=(8, 16, 32, 64))
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    zoo.save(path, model, model.init(jax.random.key(1)), {})
    return [f"--npz={cells}", f"--init_from={path}", *SMALL]


def test_formats_report_replay_and_going_on(given, tmp_path, capsys, refused):
    chosen = [*given, f"--output={tmp_path / 'run'}", "--fault_trials=40", "--number_formats=float32,int8"]
    assert run.main(chosen) == 0
    found = folder.RunFolder(tmp_path / "run")
    rows = records.select(found.rows(), threat="campaign")
    for number_format in ("float32", "int8"):
        one = records.select(rows, method=number_format, metric="accuracy")
        assert one["count"].tolist() == [40]
        assert len(records.select(rows, method=number_format, metric="clean_accuracy")) == 1
    assert records.select(rows, method="int8 - float32", metric="accuracy")["count"].tolist() == [40]
    text = found.report.read_text()
    assert "### Campaign" in text
    assert "| int8 |" in text
    assert (found.figures / "campaign_bits.png").is_file()
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in found.fault_parts.rglob("*.parquet")}
    (found.root / "finished" / "fault.json").unlink()
    assert run.main(chosen) == 0
    assert {path: path.stat().st_mtime_ns for path in found.fault_parts.rglob("*.parquet")} == before
    assert run.main([*chosen, "--replay_trial=33"]) == 0
    out = capsys.readouterr().out
    assert out.count("bit for bit") == 14
    assert "DIFFERS" not in out
    assert "trial 40 is not among the campaign's 40 trials" in refused([*chosen, "--replay_trial=40"])
    assert "fault.campaign.trials: 40 -> 50" in refused([*chosen, "--fault_trials=50"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--bit_error_rate=1e-5", "--fault_trials=6"],
        ["--one_shot", "--fault_trials=6", "--fault_kinds=weights,activations"],
        ["--fault_kinds=states", "--fault_action=stuck_at_1", "--fault_field=exponent", "--fault_trials=4"],
        ["--fault_kinds=scales", "--number_formats=int8", "--fault_burst=2", "--fault_trials=4"],
        ["--half_width=0.3", "--fault_metric=sdc", "--fault_kinds=statistics"],
    ],
    ids=["rate", "one_shot", "states", "scales", "half_width"],
)
def test_other_campaigns_run_and_report(given, tmp_path, flags):
    assert run.main([*given, f"--output={tmp_path / 'run'}", *flags]) == 0
    found = folder.RunFolder(tmp_path / "run")
    rows = records.select(found.rows(), threat="campaign", metric="accuracy")
    assert 0 <= rows["value"].iloc[0] <= 1
    assert "### Campaign" in found.report.read_text()


def test_how_many_at_once_is_measured_once_and_kept(given, tmp_path, capsys, refused):
    chosen = [*given, f"--output={tmp_path / 'run'}", "--fault_trials=4"]
    assert run.main([*chosen, "--trial_strategy=measure"]) == 0
    said = capsys.readouterr().out
    found = folder.RunFolder(tmp_path / "run")
    kept = json.loads((found.fault_parts / "campaign_float32" / "campaign.json").read_text())
    assert f"{kept['trials_at_once']} trials and {kept['images_at_once']} images at once" in said
    assert run.main([*chosen, "--replay_trial=3"]) == 0
    assert "DIFFERS" not in capsys.readouterr().out
    (found.root / "finished" / "fault.json").unlink()
    assert "images_at_once" in refused([*chosen, "--images_at_once=3"])


def test_a_plan_says_how_many_and_writes_nothing(given, tmp_path, capsys):
    asked = [*given, f"--output={tmp_path / 'run'}", "--half_width=0.01", "--plan"]
    assert run.main(asked) == 0
    out = capsys.readouterr().out
    assert "possible faults at" in out
    assert " trials at most" in out
    assert "trials/s once compiled" in out
    assert not (tmp_path / "run").exists()


def test_shards_come_together(given, tmp_path, capsys):
    chosen = [*given, "--fault_trials=96", "--fault_drawing=stratified", "--allocation=proportional"]
    chosen += ["--fault_include=head/*,*/A_log", "--fault_kinds=weights"]
    assert run.main([*chosen, f"--output={tmp_path / 'whole'}"]) == 0
    for shard in (1, 2):
        assert run.main([*chosen, f"--output={tmp_path / str(shard)}", f"--shard={shard}/2"]) == 0
        assert folder.finished(folder.RunFolder(tmp_path / str(shard)), "fault") is None
    assert "bring all shards together" in capsys.readouterr().out
    assert merge.main([f"--output={tmp_path / 'merged'}", str(tmp_path / "1"), str(tmp_path / "2")]) == 0
    assert run.main([*chosen, f"--output={tmp_path / 'merged'}"]) == 0
    whole, merged = (folder.RunFolder(tmp_path / name).rows() for name in ("whole", "merged"))
    assert merged.equals(whole)
    assert any(whole["method"].str.startswith("float32/cell/head:"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fault_modes=random", "--half_width=0.1"], "half_width is of a campaign: add campaign"),
        (["--fault_modes=random", "--plan"], "plan is of a campaign"),
        (["--half_width=0.1", "--fault_trials=10"], "fault_trials cannot be given with half_width"),
        (["--fault_flips=1,2"], "fault_flips must be one number in a campaign"),
        (["--shard=3"], "shard must be I/N"),
        (["--shard=5/4"], "shard must be I/N"),
        (["--number_formats=int4"], "number_formats must be among float32"),
        (["--fault_kinds=registers"], "kinds must be one of"),
        (["--fault_include=nowhere"], "no site matches"),
        (["--fault_field=fraction"], "field must be one of"),
        (["--replay_trial=3"], "holds no campaign in float32: run it first"),
        (["--half_width=0.1", "--shard=1/2"], "shard cannot be given with half_width"),
    ],
)
def test_what_cannot_be_is_refused(given, tmp_path, refused, flags, message):
    assert message in refused([*given, f"--output={tmp_path / 'run'}", *flags])
