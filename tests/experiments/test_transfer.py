"""The matrix of transfer from the command line: its cells by hand, and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments import transfer
from mamba_jax import data, models, zoo
from threats import ATTACKS, outcomes


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("weights")
    for seed in (0, 1):
        model = models.create_model("medmamba", num_classes=8, depths=(1, 0, 0, 0), dims=(4, 8, 16, 32))
        zoo.save(root / f"{seed}.safetensors", model, model.init(jax.random.key(seed)), {})
    return [str(root / f"{seed}.safetensors") for seed in (0, 1)]


def test_every_cell_counts_the_images_that_both_get_right(cells, weights, tmp_path, capsys):
    output = tmp_path / "transfer.csv"
    command = [
        f"--npz={cells}",
        f"--weights={','.join(weights)}",
        "--attack=bim",
        "--steps=3",
        "--epsilons=4",
        f"--output={output}",
    ]
    assert transfer.main([*command, "--eval_batch_size=10"]) == 0
    assert "bim, linf, epsilon 4/255" in capsys.readouterr().out
    found = pd.read_csv(output).set_index(["made_on", "tried_on"])

    test = data.load_npz(str(cells)).splits["test"]
    images, labels = data.to_float(test.images), jnp.asarray(test.labels)
    loaded = [zoo.load(path)[:2] for path in weights]
    apply = jax.jit(loaded[0][0].apply)  # two models of one architecture
    attack = jax.jit(functools.partial(ATTACKS["bim"].fn, apply, steps=3))
    right = [np.asarray(outcomes.correct(apply(own, images), labels, "multi-class")) for _, own in loaded]
    for source, (_, own) in zip(weights, loaded, strict=True):
        made = attack(own, images, labels, key=None, epsilon=4 / 255).images
        for target, (_, theirs) in zip(weights, loaded, strict=True):
            wrong = ~np.asarray(outcomes.correct(apply(theirs, made), labels, "multi-class"))
            both = right[weights.index(source)] & right[weights.index(target)]
            cell = found.loc[(source, target)]
            assert cell["count"] == both.sum()
            assert cell["value"] == pytest.approx(wrong[both].mean() if both.any() else np.nan, nan_ok=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "weights must name two models or more, got 0"),
        (["--weights=zoo:a,zoo:b", "--attack=pdg"], "attack must be one of"),
        (["--weights=zoo:a,zoo:b", "--epsilons=0"], "epsilons must be above 0, got 0"),
        (["--weights=zoo:a,zoo:b", "--epsilons=x"], "epsilons must be numbers, got 'x'"),
        (["--weights=zoo:a,zoo:b", "more"], "unexpected argument 'more': every option is written as --flag=value"),
        (["--weights=zoo:a,zoo:b", "--attack=fgsm", "--steps=3"], "steps cannot be given for fgsm"),
        (["--dataset=breastmnist"], "give the images: either --dataset=NAME or --npz=FILE"),
        (["--weights=zoo:a,zoo:b"], "there is no trained model 'a'"),
    ],
)
def test_refusals_are_one_line(flags, message, cells, capsys):
    assert transfer.main([f"--npz={cells}", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
