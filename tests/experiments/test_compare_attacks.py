"""Models under the same attacks from their runs' folders: rates of the rows, paired differences, a figure, refusals."""

import json
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
DIFFERENCE = ["difference_value", "difference_low", "difference_high"]
# Which of 16 images are robust, clean and at each radius, in two runs: 10 in both when clean, 4 in the second alone.
DESIGNED = {
    "a": {0.0: range(12), 1.0: range(10), 4.0: range(3)},
    "b": {0.0: (*range(10), 12, 13, 14, 15), 1.0: (*range(4), 10, 11), 4.0: (10, 11)},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cells):
    """Folders of a model under two attacks and of another under one of them."""
    root = tmp_path_factory.mktemp("runs")
    for number, (name, attacks) in enumerate({"a": "fgsm,pgd", "b": "fgsm"}.items()):
        model = models.create_model("medmamba", num_classes=8, depths=(1, 0, 0, 0), dims=(4, 8, 16, 32))
        zoo.save(root / f"{name}.safetensors", model, model.init(jax.random.key(number)), {})
        options = [f"--init_from={root / name}.safetensors", f"--output={root / name}", f"--attacks={attacks}"]
        assert run.main([f"--npz={cells}", *options, *FLAGS]) == 0
    return root


@pytest.fixture
def designed(runs, tmp_path):
    """Two copies of the first run with `DESIGNED` written over what FGSM found; PGD finds one image more at 1/255."""
    for name, robust in DESIGNED.items():
        shutil.copytree(runs / "a", tmp_path / name)
        parts = tmp_path / name / "attack_parts"
        clean = dict(np.load(parts / "clean.npz"))
        wrong = (clean["labels"] + ~_among(robust[0.0])) % 8
        np.savez(parts / "clean.npz", **clean | {"logits": np.eye(8, dtype=np.float32)[wrong]})
        for radius in (1.0, 4.0):
            for method in ("fgsm", "pgd"):
                part = parts / f"linf-{method}-{radius!r}.npz"
                success = ~_among(robust[radius][1 if (method, radius) == ("pgd", 1.0) else 0 :])
                np.savez(part, **dict(np.load(part)) | {"success": success})
    return tmp_path


def _among(chosen) -> np.ndarray:
    return np.isin(np.arange(16), list(chosen))


def test_rates_are_those_of_the_rows(runs):
    found = compare_attacks.compare([str(runs / name) for name in "ab"]).set_index(KEYS)
    assert set(found.index.get_level_values("method")) == {"fgsm"}  # that is what both have
    for name in "ab":
        rows = records.select(folder.RunFolder(runs / name).rows(), stage="adversarial", metric="accuracy")
        rows = records.select(rows, method="fgsm")
        assert len(rows) == 3
        for row in rows.itertuples():
            own = found.loc[(str(runs / name), row.method, row.strength)]
            assert tuple(own[["value", "low", "high", "count"]]) == (row.value, row.low, row.high, 16)


def test_differences_are_paired_by_image(designed):
    paths = [str(designed / name) for name in "ab"]
    found = compare_attacks.compare(paths).set_index(KEYS)
    for radius, difference in ((0.0, 2 / 16), (1.0, -4 / 16), (4.0, -1 / 16)):
        own = found.loc[(paths[1], "fgsm", radius)]
        assert own["difference_value"] == difference
        expected = statistics.paired_proportions(*(_among(DESIGNED[name][radius]) for name in "ba"))
        assert tuple(own[DIFFERENCE]) == expected[:3]
    assert found.loc[paths[0]][DIFFERENCE].isna().all(axis=None)


def test_the_worst_case_takes_in_all_attacks_and_smaller_radii(designed):
    paths = [str(designed / name) for name in "ab"]
    found = compare_attacks.compare(paths).set_index(KEYS)
    values = {path: [found.loc[(path, "any_of_linf", radius), "value"] for radius in (0.0, 1.0, 4.0)] for path in paths}
    # At 1/255 PGD finds image 0, which stays found at 4/255.
    assert values == {paths[0]: [12 / 16, 9 / 16, 2 / 16], paths[1]: [14 / 16, 3 / 16, 0.0]}


def test_command_prints_the_figures_and_writes_table_and_figure(designed, tmp_path, capsys):
    paths = [str(designed / name) for name in "ab"]
    table, figure = tmp_path / "robust.csv", tmp_path / "figures" / "robust.png"
    assert compare_attacks.main([f"--output={table}", f"--figure={figure}", *paths]) == 0
    out = capsys.readouterr().out
    found = compare_attacks.compare(paths)
    pd.testing.assert_frame_equal(pd.read_csv(table), found)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "robust accuracy (%) with 95 % intervals, 16 test images" in out
    row = found.set_index(KEYS).loc[(paths[1], "pgd", 4.0)]
    for names in (["value", "low", "high"], DIFFERENCE):
        assert records.interval_text(*row[names], percent=True) in out


def test_refusals_name_what_is_wrong(runs, designed, capsys):
    def refused(*arguments) -> str:
        assert compare_attacks.main([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    def changed(change) -> None:
        about = json.loads((designed / "a" / "config.json").read_text())
        change(about)
        (b / "config.json").write_text(json.dumps(about))

    a, b = designed / "a", designed / "b"
    assert "give the folders of two runs or more" in refused()
    assert "each once" in refused(a, f"{a}/")
    assert "is the only run on cells: give another one" in refused(a)
    assert "holds no run" in refused(a, runs)
    assert "must end in .png" in refused(a, b, "--figure=curves.pdf")
    changed(lambda about: about["identity"]["adversarial"].update(pgd_steps=3))
    assert "were not attacked alike (pgd_steps: 2 -> 3" in refused(a, b)
    changed(lambda about: about["data"].update(task="ordinal"))
    assert "task: multi-class -> ordinal" in refused(a, b)
    changed(lambda about: about["identity"]["adversarial"].update(attacks=["bim"]))
    assert "there is no attack and radius in common: " in refused(a, b)
    changed(lambda about: None)
    (b / "attack_parts" / "linf-fgsm-4.0.npz").unlink()
    assert "linf-fgsm-4.0.npz is missing: remove" in refused(a, b)
    clean = b / "attack_parts" / "clean.npz"
    np.savez(clean, **dict(np.load(clean)) | {"images": np.array("others")})
    assert "were not attacked alike (images: " in refused(a, b)
    clean.write_bytes((a / "attack_parts" / "clean.npz").read_bytes())
    np.savez(clean, **dict(np.load(clean)) | {"labels": np.zeros(16, np.int32)})
    assert "were not attacked alike (labels: " in refused(a, b)
    (b / "finished" / "adversarial.json").unlink()
    assert "has no finished attacks: add adversarial to --stages" in refused(a, b)


def test_steps_that_no_shared_attack_takes_do_not_matter(runs, designed):
    """The second run has FGSM alone."""
    text = (designed / "a" / "config.json").read_text()
    (designed / "a" / "config.json").write_text(text.replace('"pgd_steps": 2', '"pgd_steps": 3'))
    found = compare_attacks.compare([str(designed / "a"), str(runs / "b")])
    assert set(found["method"]) == {"fgsm"}
