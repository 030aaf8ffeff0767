"""Batches held on the device and batches fed from the host are the same, and the images' share of memory decides."""

import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import data
from mamba_jax.training import feeding, parallel, train


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return data.Split(rng.integers(0, 256, (10, 2, 2, 1)).astype(np.uint8), np.arange(10, dtype=np.int32))


def _update(state, images, labels, key):
    figures = {"labels": labels, "pixels": images[:, 0, 0, 0], "key": jax.random.key_data(key)}
    return train.TrainState(state.step + 1, state.params + 1, {}, None), figures


@pytest.mark.parametrize("feed", [feeding.resident, feeding.streamed])
def test_every_step_gets_the_batch_of_its_turn(split, feed):
    mesh = parallel.make_mesh()
    epoch = feed(_update, split, mesh)
    state = parallel.to_all(train.TrainState(jnp.int32(0), jnp.float32(0), {}, None), mesh)
    key_data = np.asarray(jax.random.key_data(jax.random.key(7)))
    key = parallel.to_all(jax.random.key(7), mesh)
    for turn in range(2):
        order = np.random.default_rng(turn).permutation(10)[:9].reshape(3, 3).astype(np.int32)
        steps = epoch(state, order, key)
        for rows in order:
            state, figures = next(steps)
            wanted = {"labels": split.labels[rows], "pixels": split.images[rows, 0, 0, 0], "key": key_data}
            chex.assert_trees_all_equal(parallel.to_host(figures), wanted)
        assert next(steps, None) is None
    assert int(state.step) == 6


def test_images_beyond_a_quarter_of_the_memory_stay_on_the_host(split):
    def mesh(stats):
        return types.SimpleNamespace(
            is_multi_process=False, local_devices=[types.SimpleNamespace(memory_stats=lambda: stats)]
        )

    assert split.images.nbytes == 40
    assert feeding.fits(split, mesh(None)), "a device that does not say"
    assert feeding.fits(split, mesh({"bytes_limit": 160}))
    assert not feeding.fits(split, mesh({"bytes_limit": 159}))
