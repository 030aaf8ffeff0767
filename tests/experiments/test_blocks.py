"""Names of layers."""

import pytest

from experiments import blocks


@pytest.mark.parametrize(
    ("layer", "split", "stage", "branch"),
    [
        ("stages_2/block_1/ssm/A_log", ("2.1", "ssm/A_log"), "stages_2", "ssm"),
        ("stages_2/block_1/out", ("2.1", "out"), "stages_2", "out"),
        ("stages_2/merge/norm", ("-", "stages_2/merge/norm"), "stages_2", "-"),
        ("blocks_3/mlp/dense_0", ("3", "mlp/dense_0"), "blocks_3", "mlp"),
        ("head", ("-", "head"), "head", "-"),
    ],
)
def test_a_layer_has_a_block_a_stage_and_a_branch(layer, split, stage, branch):
    assert blocks.split(layer) == split
    assert (blocks.stage(layer), blocks.branch(layer)) == (stage, branch)
