"""Hidden states of the layers: where they are in the image, that none are read unasked, and what a hit reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import models
from mamba_jax.models import ssm

SIDES = (3, 4)


@pytest.fixture(scope="module")
def layer():
    module = ssm.SS2D(d_state=2, scan_method="sequential")
    x = jax.random.normal(jax.random.key(0), (2, *SIDES, 4))
    return module, module.init(jax.random.key(1), x), x


def _run(layer, masks=None):
    """The values at the taps, after a hit of the states."""
    module, variables, x = layer
    if masks is not None:
        variables = {**variables, "taps": {"state": jax.tree_util.Partial(lambda m, _: m, masks)}}
    _, sown = jax.jit(lambda v, x: module.apply(v, x, mutable=["tap_values", "state_values"]))(variables, x)
    values = {**sown["tap_values"], **sown["state_values"]}
    return {name: np.asarray(value[0]) for name, value in values.items()}


def _masks(*where, bit=30):
    return jnp.zeros((2, 4, 12, 8, 2), jnp.uint32).at[(1, *where)].set(1 << bit)


def _in_place(sequence, direction):
    """[b, l, d] of a direction as [b, h, w, d]."""
    h, w = SIDES
    if direction % 2:
        return np.swapaxes(sequence.reshape(len(sequence), w, h, -1), 1, 2)
    return sequence.reshape(len(sequence), h, w, -1)


def test_states_are_in_the_order_of_the_other_taps(layer):
    values = _run(layer)
    assert values["state"].shape == (2, 4, 12, 8, 2)
    y = np.einsum("bkldn,bkln->kbld", values["state"], values["C"])
    drive = np.einsum("bkld,bkln->bkldn", values["dt"], values["B"])
    first = [0, 0, 11, 11]  # the step that each direction begins with
    u = [values["state"][:, k, t, :, 0] / drive[:, k, t, :, 0] for k, t in enumerate(first)]
    np.testing.assert_allclose(u[0], u[1], rtol=1e-4)  # the same pixel, the first
    np.testing.assert_allclose(u[2], u[3], rtol=1e-4)
    skip = values["scan"] - sum(_in_place(y[k], k) for k in range(4))
    # D is one in every direction: what remains is four times u.
    np.testing.assert_allclose(skip[:, 0, 0], 4 * u[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(skip[:, -1, -1], 4 * u[2], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("direction", range(4))
@pytest.mark.parametrize("step", [0, 5, 11])
def test_a_hit_reaches_its_step_and_those_scanned_after_it(layer, direction, step):
    clean, faulty = _run(layer), _run(layer, _masks(direction, step, 3, 1))
    reached = np.arange(12) <= step if direction > 1 else np.arange(12) >= step
    where = np.zeros((1, 12, 8), bool)
    where[0, reached, 3] = True
    changed = clean["scan"] != faulty["scan"]
    np.testing.assert_array_equal(changed, np.broadcast_to(_in_place(where, direction), changed.shape))


def test_an_empty_mask_and_no_entry_are_the_same(layer):
    clean, empty = _run(layer), _run(layer, jnp.zeros((2, 4, 12, 8, 2), jnp.uint32))
    np.testing.assert_allclose(empty["scan"], clean["scan"], rtol=1e-6, atol=1e-6)


def test_nothing_is_read_and_nothing_branches_unasked(layer):
    module, variables, x = layer
    _, sown = module.apply(variables, x, mutable=["tap_values"])
    assert set(sown) == {"tap_values"}
    assert "state" not in sown["tap_values"]
    assert set(variables) == {"params"}
    assert "cond[" not in str(jax.make_jaxpr(module.apply)(variables, x))


def test_the_block_for_sequences_is_causal_in_its_states():
    module = ssm.MambaBlock(d_state=2)
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    variables = module.init(jax.random.key(1), x)

    def run(masks):
        entry = jax.tree_util.Partial(lambda m, _: m, masks)
        _, sown = module.apply({**variables, "taps": {"state": entry}}, x, mutable=["tap_values", "state_values"])
        return sown["tap_values"]["scan"][0], sown["state_values"]["state"][0]

    masks = jnp.zeros((2, 6, 8, 2), jnp.uint32)
    clean, states = run(masks)
    faulty, _ = run(masks.at[1, 4, 5, 0].set(1 << 30))
    assert states.shape == (2, 6, 8, 2)
    reached = np.zeros((2, 6, 8), bool)
    reached[:, 4:, 5] = True
    np.testing.assert_array_equal(clean != faulty, reached)


@pytest.mark.parametrize("method", ["sequential", "chunked", "pallas"])
@pytest.mark.parametrize("remat", [False, True])
def test_states_of_a_whole_model(method, remat):
    options = {"depths": (1, 1, 1, 1), "dims": (4, 8, 16, 32), "d_state": 2, "scan_method": method, "remat": remat}
    model = models.create_model("medmamba", num_classes=3, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.float32)
    _, sown = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["state_values"]), variables, images)
    state = sown["state_values"]["stages_1"]["block_0"]["ssm"]["state"][0]
    assert (state.shape, state.dtype) == ((2, 4, 49, 8, 2), jnp.float32)
