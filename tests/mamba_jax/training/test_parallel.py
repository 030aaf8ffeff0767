"""The same training on one device and on eight, in a process that simulates eight."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from mamba_jax.training import parallel

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = """
import json, pathlib, sys
import jax, numpy as np
from mamba_jax import data, models, training

jax.config.update("jax_default_matmul_precision", "highest")
dataset = data.synthetic_blood(train=48, val=16, test=8, size=28, seed=0)
model = models.create_model(
    "medmamba", num_classes=dataset.num_classes, depths=(1, 0, 0, 0), dims=(4, 8, 16, 32), d_state=2,
    scan_method="sequential",
)
root, config = pathlib.Path(sys.argv[1]), training.TrainConfig(epochs=3, batch_size=16, warmup_epochs=1, seed=1)


class Stopped(Exception):
    pass


def stop(epoch, step, steps, figures):
    if epoch == 2:
        raise Stopped


def fit(name, devices, **options):
    mesh = training.make_mesh(jax.devices()[:devices])
    return training.fit(model, dataset, config, directory=root / name, mesh=mesh, **options)


one, eight = fit("one", 1), fit("eight", 8)
try:
    fit("moved", 8, progress=stop, resident=False)
except Stopped:
    moved = fit("moved", 1)
print(json.dumps([fitted.history for fitted in (one, eight, moved)]))
"""


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """Of one device, of eight, and of a run that began on eight, fed from the host, and ended on one."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("runs"))],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("figure", ["train_loss", "val_loss"])
def test_the_loss_curve_does_not_depend_on_the_number_of_devices(histories, figure):
    one, eight, moved = ([row[figure] for row in history] for history in histories)
    assert len(one) == 3
    assert len(set(one)) == 3, "nothing was learnt"
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    np.testing.assert_allclose(moved, one, rtol=1e-5)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    parallel.check_batch(32, accumulate=2, devices=8)
    with pytest.raises(
        ValueError, match=r"accumulate times the number of devices \(2 x 8\).*of 40 images: 32 would do"
    ):
        parallel.check_batch(40, accumulate=2, devices=8)
    with pytest.raises(ValueError, match="of 3 images: 8 would do"):
        parallel.check_batch(3, accumulate=1, devices=8)


def test_a_mesh_of_other_axes_is_refused_and_one_of_explicit_placement_taken():
    with pytest.raises(ValueError, match=r"mesh must have the one axis 'data', got \('model',\)"):
        parallel.check_mesh(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",)))
    explicit = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    assert parallel.check_mesh(explicit) == parallel.make_mesh(jax.devices()[:1])
