"""How many trials and images run at a time: measured, and bounded by the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import faults
from threats.faults import batching, campaign, measured, memory, program, reuse


def _apply(variables, images):
    params = variables["params"]
    return jnp.tanh(images.reshape(images.shape[0], -1) @ params["first"]) @ params["second"]


def _case():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"first": (12, 8), "second": (8, 3)}
    params = {name: jax.random.normal(key, shapes[name]) for name, key in zip(shapes, keys, strict=False)}
    images = jax.random.uniform(keys[2], (40, 2, 2, 3))
    variables = {"params": params}
    return variables, images, jnp.zeros(40, jnp.int32), faults.weight_sites(variables)


def test_the_fastest_of_what_was_tried_is_taken():
    variables, images, labels, table = _case()
    tried: list[faults.Measured] = []
    best = faults.measure(_apply, variables, images, labels, table, trials=(1, 4), watch=tried.append)
    assert [(one.trials_at_once, one.images_at_once) for one in tried[:2]] == [(1, 40), (4, 40)]
    assert tried[2][1] == 20
    assert best == max(tried, key=lambda one: one.per_second)
    assert best.per_second > 0


def test_what_does_not_fit_is_left_out(monkeypatch):
    made = campaign.make_trial_fn

    def small(*arguments, trials_at_once, images_at_once, **options):
        if trials_at_once > 4 or images_at_once > 20:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return made(*arguments, trials_at_once=trials_at_once, images_at_once=images_at_once, **options)

    monkeypatch.setattr(campaign, "make_trial_fn", small)
    monkeypatch.setattr(batching, "default_images", lambda images: 20)
    best = measured.measure(_apply, *_case(), trials=(4, 64))
    assert best.trials_at_once == 4
    assert best.images_at_once in (10, 20)
    with pytest.raises(ValueError, match="no trial fits"):
        measured.measure(_apply, *_case(), trials=(64,))


def test_on_a_mesh():
    mesh = faults.trial_mesh(jax.devices()[:1])
    best = faults.measure(_apply, *_case(), trials=(2,), mesh=mesh)
    assert best.trials_at_once == 2


def test_a_share_of_the_machines_memory():
    assert 0 < memory.budget(1 / 16) <= 2**30
    assert memory.budget(1 / 8) == pytest.approx(2 * memory.budget(1 / 16), abs=1)


def test_little_memory_means_fewer_trials_and_nothing_kept(monkeypatch):
    variables, images, _, table = _case()
    monkeypatch.setattr(memory, "budget", lambda share: int(share * 64 * 1024))
    own_bytes = sum(site.size * 4 for site in table)
    assert batching.most_trials(table) == 64 * 1024 // 16 // own_bytes
    assert batching.default_trials(table, "vmap") == 8
    found = program.trace(_apply, variables, images, table)
    monkeypatch.setattr(memory, "budget", lambda share: 0)
    kept = reuse.plan(found, table, batches=1)
    assert kept is None or np.all(kept.cost == 1)
