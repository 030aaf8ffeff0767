"""Models under the same attacks from their runs' folders: rates of the rows, paired differences, a figure, refusals."""

import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import compare_attacks, run
from experiments.storage import folder, records
from mamba_jax import models, zoo
from threats import statistics

FLAGS = ("--eval_batch_size=16", "--stages=adversarial", "--epsilons=0,1,4", "--attack_images=16", "--pgd_steps=2")
KEYS = ["run", "method", "strength"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cells):
    """Folders of a model under two attacks, of another, and of the first under one of them."""
    root = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("first", "second")):
        model = models.create_model("medmamba", num_classes=8, depths=(1, 0, 0, 0), dims=(4, 8, 16, 32))
        zoo.save(root / f"{name}.safetensors", model, model.init(jax.random.key(number)), {})
    for name, weights, attacks in (("a", "first", "fgsm,pgd"), ("b", "second", "fgsm,pgd"), ("c", "second", "fgsm")):
        options = [f"--init_from={root / weights}.safetensors", f"--output={root / name}", f"--attacks={attacks}"]
        assert run.main([f"--npz={cells}", *options, *FLAGS]) == 0
    return root


@pytest.fixture(scope="module")
def found(runs):
    return compare_attacks.compare([str(runs / name) for name in "abc"])


def test_rates_are_those_of_the_rows(runs, found):
    by_key = found.set_index(KEYS)
    for name in "ab":
        rows = folder.RunFolder(runs / name).rows()
        rows = records.select(rows, stage="adversarial", metric="accuracy", method=("fgsm", "pgd", "any_of_linf"))
        assert len(rows) == 9
        for row in rows.itertuples():
            own = by_key.loc[(str(runs / name), row.method, row.strength)]
            assert tuple(own[["value", "low", "high", "count"]]) == (row.value, row.low, row.high, 16)


def test_differences_are_paired_by_image(runs, found):
    by_key = found.set_index(KEYS)
    for method in ("fgsm", "pgd"):
        robust = [~np.load(runs / name / "attack_parts" / f"linf-{method}-4.0.npz")["success"] for name in ("b", "a")]
        expected = statistics.newcombe(*robust)
        own = by_key.loc[(str(runs / "b"), method, 4.0)]
        assert tuple(own[["difference_value", "difference_low", "difference_high"]]) == expected[:3]
    of_first = records.select(found, run=str(runs / "a"))
    assert of_first["difference_value"].isna().all()


def test_a_worst_case_over_other_attacks_is_not_compared(runs, found):
    of_c = records.select(found, run=str(runs / "c"))
    assert set(of_c["method"]) == {"fgsm"}
    assert of_c["difference_value"].notna().all()
    swapped = compare_attacks.compare([str(runs / name) for name in "ca"])
    of_a = records.select(swapped, run=str(runs / "a"))
    assert set(of_a["method"]) == {"fgsm", "pgd"}
    assert records.select(of_a, method="pgd")["difference_value"].isna().all()


def test_command_prints_the_figures_and_writes_table_and_figure(runs, found, tmp_path, capsys):
    paths = [str(runs / name) for name in "abc"]
    table, figure = tmp_path / "robust.csv", tmp_path / "figures" / "robust.png"
    assert compare_attacks.main([f"--output={table}", f"--figure={figure}", *paths]) == 0
    out = capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_csv(table), found)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "16 test images" in out
    row = found.set_index(KEYS).loc[(paths[1], "pgd", 4.0)]
    for prefix in ("", "difference_"):
        assert records.interval_text(*(row[prefix + x] for x in ("value", "low", "high")), percent=True) in out


def test_refusals_name_what_is_wrong(runs, tmp_path, capsys):
    def refused(*arguments) -> str:
        assert compare_attacks.main([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    a, b, other = runs / "a", runs / "b", tmp_path / "other"
    assert "give the folders of two runs or more" in refused(a)
    assert "each once" in refused(a, a)
    assert "holds no run" in refused(a, tmp_path)
    assert "must end in .png" in refused(a, b, "--figure=curves.pdf")
    shutil.copytree(a, other)
    (other / "config.json").write_text((a / "config.json").read_text().replace('"pgd_steps": 2', '"pgd_steps": 3'))
    assert "were not attacked alike (pgd_steps: 2 -> 3" in refused(b, other)
    (other / "attack_parts" / "clean.npz").unlink()
    assert "clean.npz is missing: remove" in refused(b, other)
    (other / "finished" / "adversarial.json").unlink()
    assert "has no finished attacks: add adversarial to --stages" in refused(b, other)
