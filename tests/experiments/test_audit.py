"""Weights that are given are measured without training: an audit, in this process, with tiny settings."""

import jax
import numpy as np
import pytest

from experiments import loading, run
from experiments.settings import config
from experiments.storage import folder, records
from mamba_jax import data, models, zoo

AUDIT = ("--eval_batch_size=16", "--fault_images=8", "--fault_trials=4", "--layer_trials=2", "--worst_candidates=2")


def _model(num_classes: int = 8) -> models.Model:
    return models.create_model("medmamba", num_classes=num_classes, depths=(1, 0, 0, 0), dims=(8, 16, 32, 64))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny untrained model as a file."""
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    zoo.save(path, _model(), _model().init(jax.random.key(1)), {})
    return path


@pytest.fixture(scope="module")
def images(cells) -> data.Dataset:
    return data.load_npz(cells)


def test_an_audit_with_several_flips_needs_no_training(weights, cells, tmp_path, refused):
    arguments = [f"--npz={cells}", f"--init_from={weights}", f"--output={tmp_path / 'run'}", *AUDIT]
    flips = ["--fault_flips=1,2", "--worst_flips=2", "--fault_modes=random,worst", "--fault_targets=weights"]
    assert run.main([*arguments, *flips, "--stages=clean,fault"]) == 0
    found = folder.RunFolder(tmp_path / "run")
    assert set(found.rows()["stage"]) == {"clean", "fault"}
    trials = found.faults()
    drawn = records.select(trials, mode="random", flips=2)
    assert len(drawn) == 2 * 4
    assert (drawn["bit"].astype(str).str.count(";") == 1).all(), "two bits in every trial"
    assert list(records.select(trials, mode="worst")["flips"]) == [1, 2]
    assert folder.finished(found, "clean")["scan_method"] == "sequential"
    assert found.about()["identity"]["model"]["scan_method"] == "sequential"
    assert not found.checkpoints.exists()
    line = refused([*arguments, *flips, "--stages=train"])
    assert "holds results of weights as they were given (clean, fault)" in line


def test_the_worst_case_of_some_sites_in_two_formats(weights, cells, tmp_path, refused):
    arguments = [f"--npz={cells}", f"--init_from={weights}", f"--output={tmp_path / 'run'}", *AUDIT]
    arguments += ["--worst_flips=2", "--fault_modes=random,worst", "--fault_targets=weights", "--stages=fault,report"]
    arguments += ["--number_formats=float32,int8", "--fault_exclude=head/*"]
    arguments += ["--worst_restarts=2", "--worst_magnitude=2"]
    assert run.main([*arguments, "--fault_include=*/kernel"]) == 0
    found = folder.RunFolder(tmp_path / "run")
    rows = records.select(found.rows(), method="worst", metric="accuracy")
    assert rows["threat"].tolist() == ["weights"] * 3 + ["weights_int8"] * 3
    assert "### Worst case, weights_int8" in found.report.read_text()
    trials = found.faults()
    made = records.select(trials, mode="worst")["value_after"].str.split(";").explode().astype(float)
    assert made.abs().max() <= 128, "float32 within the magnitude, codes within theirs"
    for target in ("weights", "weights_int8"):
        for mode in ("worst", "control"):
            hit = records.select(trials, target=target, mode=mode)["path"].str.split(";").explode()
            assert len(hit)
            assert hit.str.endswith("/kernel").all()
            assert not hit.str.startswith("head/").any()
    bits = records.select(trials, target="weights_int8", mode="control")["bit"].astype(str).str.split(";").explode()
    assert bits.astype(int).max() < 8, "codes only"
    hit = records.select(trials, mode="random")["path"]
    assert not hit.str.endswith("/kernel").all(), "random trials are of all weights"
    assert "are of some sites only: `*/kernel, without head/*`" in found.report.read_text()
    line = refused([*arguments, "--fault_include=*/bias"])
    assert "fault.worst_include: ['*/kernel'] -> ['*/bias']" in line
    arguments += [f"--output={tmp_path / 'other'}"]
    line = refused([*arguments, "--fault_include=*/kernle"])
    assert "worst case in weights: no site matches include=('*/kernle',), exclude=('head/*',); known paths: " in line
    assert not (tmp_path / "other" / "fault_parts").exists(), "nothing ran before"


def test_an_audit_of_a_multi_label_file(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{name}_images": rng.integers(0, 255, (16, 28, 28), np.uint8) for name in data.SPLITS}
    np.savez(tmp_path / "x.npz", **arrays, **{f"{name}_labels": rng.integers(0, 2, (16, 3)) for name in data.SPLITS})
    zoo.save(tmp_path / "x.safetensors", _model(3), _model(3).init(jax.random.key(1)), {})
    faults = ["--fault_modes=random", "--fault_targets=activations", "--stages=clean,fault,report"]
    arguments = [f"--npz={tmp_path / 'x.npz'}", f"--init_from={tmp_path / 'x.safetensors'}", *AUDIT, *faults]
    assert run.main([*arguments, f"--output={tmp_path / 'run'}"]) == 0
    text = (tmp_path / "run" / "report.md").read_text()
    assert "task multi-label" in text
    assert "exact match" in text
    assert len(folder.RunFolder(tmp_path / "run").faults()) == 2 * 4


def test_trials_of_an_unfinished_stage_bar_training_in_their_folder(weights, cells, tmp_path, refused):
    arguments = [f"--npz={cells}", f"--init_from={weights}", f"--output={tmp_path / 'run'}"]
    assert run.main([*arguments, "--stages=report"]) == 0
    parts = folder.RunFolder(tmp_path / "run").fault_parts
    parts.mkdir()
    (parts / "weights_random_bits_1_0_32.csv").write_text("trial\n0\n")
    assert "weights as they were given (fault, unfinished): choose another" in refused([*arguments, "--stages=train"])


def test_another_scan_method_in_the_same_folder_is_refused(weights, cells, tmp_path, refused):
    arguments = [f"--npz={cells}", f"--init_from={weights}", f"--output={tmp_path / 'run'}", "--stages=report"]
    for method in ("auto", "sequential"):
        assert run.main([*arguments, f"--scan_method={method}"]) == 0, "auto stands for sequential on a CPU"
    assert "model.scan_method: sequential -> associative" in refused([*arguments, "--scan_method=associative"])


def test_a_new_head_follows_the_seed_and_the_rest_is_kept(tmp_path, images):
    zoo.save(tmp_path / "two.safetensors", _model(2), _model(2).init(jax.random.key(1)), {})
    chosen = config.ModelConfig(init_from=str(tmp_path / "two.safetensors"))
    old = zoo.load(tmp_path / "two.safetensors").variables["params"]
    heads = []
    for seed in (0, 1):
        model, variables = loading.model_and_weights(chosen, images, adapt=True, seed=seed)
        assert model.config.num_classes == 8
        heads.append(np.asarray(variables["params"]["head"]["kernel"]))
        np.testing.assert_array_equal(
            variables["params"]["patch_embed"]["proj"]["kernel"], old["patch_embed"]["proj"]["kernel"]
        )
    assert not np.allclose(*heads)
    with pytest.raises(ValueError, match="weights for 2 classes and cells has 8"):
        loading.model_and_weights(chosen, images, adapt=False, seed=0)


def test_other_patches_are_for_weights_that_are_trained_further(weights, images):
    chosen = config.ModelConfig(init_from=str(weights), patch_size=1)
    model, variables = loading.model_and_weights(chosen, images, adapt=True, seed=0)
    assert model.config.patch_size == 1
    assert variables["params"]["patch_embed"]["proj"]["kernel"].shape[:2] == (1, 1)
    with pytest.raises(
        ValueError, match="weights for patch_size=2, got patch_size=1: leave the flag out, or add train"
    ):
        loading.model_and_weights(chosen, images, adapt=False, seed=0)


def test_weights_for_images_of_another_size_are_refused(weights, cells):
    larger = data.load_npz(cells, size=32)
    chosen = config.ModelConfig(init_from=str(weights))
    with pytest.raises(ValueError, match=r"patch_embed/proj/kernel has shape .*; give --image_size=28"):
        loading.model_and_weights(chosen, larger, adapt=False, seed=0)


def test_a_model_is_made_for_the_channels_of_its_images(images):
    grey = data.Dataset(
        **{**vars(images), "splits": {n: data.Split(s.images[..., :1], s.labels) for n, s in images.splits.items()}}
    )
    model, _ = loading.model_and_weights(config.ModelConfig(name="medmamba_n"), grey, adapt=True, seed=0)
    assert model.config.in_channels == 1
    assert loading.scan_method(model) == "sequential"


def test_a_run_is_known_by_the_dtype_it_computes_in_however_that_was_chosen(weights, images):
    def identity(**options):
        chosen = config.ModelConfig(init_from=str(weights), **options)
        model, variables = loading.model_and_weights(chosen, images, adapt=False, seed=0)
        whole = config.ExperimentConfig(
            data=config.DataConfig(dataset="cells", npz="cells.npz"), model=chosen, train=None
        )
        return loading.identity(whole, images, model, variables)

    assert identity() == identity(dtype="float32") == identity(remat=True)
    assert identity(dtype="bfloat16")["model"]["dtype"] == "bfloat16"
    assert "dtype" not in identity()["model"]


def test_a_model_without_a_scan_has_no_scan_method(images):
    model, _ = loading.model_and_weights(config.ModelConfig(name="resnet18"), images, adapt=True, seed=0)
    assert loading.scan_method(model) is None
    chosen = config.ExperimentConfig(
        data=config.DataConfig(dataset="cells"), model=config.ModelConfig(name="resnet18"), train=None
    )
    assert loading.identity(chosen, images, model, None)["model"]["scan_method"] is None
