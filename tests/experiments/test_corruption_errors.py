"""Corruption errors from two runs' folders: the scores by hand from their rows, a resumed stage, and refusals."""

import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import corruption_errors, run
from experiments.storage import folder, records
from mamba_jax import models, zoo

FLAGS = ("--eval_batch_size=8", "--stages=corruption", "--corruptions=gaussian_noise,contrast", "--severities=1,5")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cells):
    """Folders of two models' finished corruption stages."""
    root = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("model", "baseline")):
        model = models.create_model("medmamba", num_classes=8, depths=(1, 0, 0, 0), dims=(4, 8, 16, 32))
        zoo.save(root / f"{name}.safetensors", model, model.init(jax.random.key(number)), {})
        weights = f"--init_from={root / name}.safetensors"
        assert run.main([f"--npz={cells}", weights, f"--output={root / name}", *FLAGS]) == 0
    return root


def _errors(path, balanced):
    """Clean error, and the mean error over severities of each corruption, from the rows of a run."""
    rows = folder.RunFolder(path).rows()
    rows = rows[rows["metric"].str.startswith("recall/")] if balanced else records.select(rows, metric="accuracy")
    means = 1 - rows.groupby(["method", "strength"])["value"].mean()
    clean = means["contrast", 0.0]
    return clean, {name: np.mean([means[name, 1.0], means[name, 5.0]]) for name in ("gaussian_noise", "contrast")}


def test_the_scores_are_those_of_the_rows(runs, tmp_path, capsys):
    output = tmp_path / "errors.csv"
    command = [str(runs / "model"), f"--baseline={runs / 'baseline'}", f"--output={output}"]
    assert corruption_errors.main(command) == 0
    out = capsys.readouterr().out
    assert "24 images; 95 % intervals" in out
    found = pd.read_csv(output).set_index(["score", "corruption"])
    compared = 0
    for balanced, plain, relative in ((False, "mce", "relative_mce"), (True, "be", "rbe")):
        (clean, ours), (clean_baseline, theirs) = (_errors(runs / name, balanced) for name in ("model", "baseline"))
        ratios = {name: ours[name] / theirs[name] for name in ours}
        for name, ratio in ratios.items():
            assert found.loc[(plain, name), "value"] == pytest.approx(ratio)
            rise = theirs[name] - clean_baseline
            if abs(rise) > 1e-9:
                compared += 1
                assert found.loc[(relative, name), "value"] == pytest.approx((ours[name] - clean) / rise)
        assert found.loc[(plain, "mean"), "value"] == pytest.approx(np.mean(list(ratios.values())))
    assert compared, "the baseline's error must change somewhere"
    mean = found.loc[("mce", "mean")]
    assert mean["low"] < mean["value"] < mean["high"]
    assert mean["count"] == 24
    assert records.interval_text(mean["value"], mean["low"], mean["high"]) in out


def test_a_model_is_its_own_baseline_at_one(runs, capsys):
    path = str(runs / "model")
    assert corruption_errors.main([path, f"--baseline={path}"]) == 0
    assert "1.000 [1.000, 1.000]" in capsys.readouterr().out


def test_a_stage_that_was_killed_goes_on_behind_the_last_corruption(runs, cells, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(runs / "model", output)
    for path in (output / "finished").glob("corruption.*"):
        path.unlink()
    kept, gone = (output / "corruption_parts" / f"{name}.npz" for name in ("gaussian_noise-5", "contrast-5"))
    before = kept.stat().st_mtime_ns
    gone.unlink()
    assert run.main([f"--npz={cells}", f"--init_from={runs / 'model.safetensors'}", f"--output={output}", *FLAGS]) == 0
    assert kept.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(pd.read_csv(output / "rows.csv"), pd.read_csv(runs / "model" / "rows.csv"))


def test_refusals_name_what_is_wrong(runs, cells, tmp_path, capsys):
    def refused(*arguments) -> str:
        assert corruption_errors.main([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    model = runs / "model"
    assert "give the folders of two runs" in refused(model)
    assert "holds no run" in refused(model, f"--baseline={tmp_path}")
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "finished" / "corruption.json").unlink()
    assert "has no finished corruption stage: add corruption to --stages" in refused(other, f"--baseline={model}")
    (model / "corruption_parts" / "contrast-1.npz").rename(model / "corruption_parts" / "away.npz")
    try:
        assert "contrast-1.npz is missing: remove" in refused(model, f"--baseline={runs / 'baseline'}")
    finally:
        (model / "corruption_parts" / "away.npz").rename(model / "corruption_parts" / "contrast-1.npz")
    text = (other / "config.json").read_text()
    (other / "finished" / "corruption.json").write_text("{}")
    (other / "config.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    assert "different images or strengths (seed: " in refused(other, f"--baseline={model}")
