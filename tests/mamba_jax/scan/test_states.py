"""Hidden states with bits changed on the way: against step-by-step loops in NumPy float32, and what NaN does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mamba_jax import scan

METHODS = tuple(scan.METHODS)
ACTIONS = ((0, 1), (1, 0), (1, 1))  # (cleared, flipped) for flip, stuck at 0, stuck at 1


def _inputs(batch, length, d=3, n=4, *, groups=(), seed=0):
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(size=(*batch, length, d)).astype(np.float32),
        "dt": rng.uniform(0.01, 1.0, size=(*batch, length, d)).astype(np.float32),
        "A": -rng.uniform(0.2, 3.0, size=(*groups, d, n)).astype(np.float32),
        "B": rng.normal(size=(*batch, length, n)).astype(np.float32),
        "C": rng.normal(size=(*batch, length, n)).astype(np.float32),
    }


def _loop(u, dt, A, B, C, masks, *, reverse=False):
    """y, the states h [*batch, l, d, n], and sum_n |C_n h_n|, step by step in float32."""
    h = np.zeros((*u.shape[:-2], *A.shape[-2:]), np.float32)
    y, states, size = np.zeros_like(u), np.zeros((*u.shape, A.shape[-1]), np.float32), np.zeros_like(u)
    with np.errstate(all="ignore"):
        for t in reversed(range(u.shape[-2])) if reverse else range(u.shape[-2]):
            drive = (dt[..., t, :] * u[..., t, :])[..., None] * B[..., t, None, :]
            h = np.exp(dt[..., t, :, None] * A) * h + drive
            h = ((h.view(np.uint32) & ~masks[0, ..., t, :, :]) ^ masks[1, ..., t, :, :]).view(np.float32)
            states[..., t, :, :] = h
            y[..., t, :] = (h * C[..., t, None, :]).sum(-1)
            size[..., t, :] = np.abs(h * C[..., t, None, :]).sum(-1)
    return y, states, size


def _masks(shape, count, rng, bits=range(32)):
    """[2, *shape] uint32 with `count` random bits hit, each in a random way."""
    masks = np.zeros((2, *shape), np.uint32)
    for _ in range(count):
        where = tuple(rng.integers(size) for size in shape)
        bit = np.uint32(1 << rng.choice(bits))
        for plane, on in enumerate(ACTIONS[rng.integers(3)]):
            masks[(plane, *where)] |= bit * np.uint32(on)
    return masks


def _assert_close(y, wanted, size):
    """Relative to what is summed; a state that was hit may be 1e38 times another one."""
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(wanted))
    finite = np.isfinite(wanted)
    error = np.abs(np.asarray(y)[finite].astype(np.float64) - wanted[finite])
    assert (error <= 1e-5 * (size[finite].astype(np.float64) + 1.0)).all()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 13])
def test_outputs_are_those_of_a_float32_loop(length, reverse):
    """Twelve trials under `jax.vmap`, one to six bits each, in the lower bits of the exponent and below."""
    inputs = _inputs((3, 2), length, groups=(2,))
    rng = np.random.default_rng(1)
    masks = np.stack([_masks((2, length, 3, 4), 1 + i % 6, rng, bits=[*range(29), 31]) for i in range(12)])
    run = functools.partial(scan.selective_scan, **inputs, reverse=reverse, method="sequential")
    found = jax.jit(jax.vmap(lambda masks: run(state_masks=masks)))(masks)
    alone = jax.jit(lambda masks: run(state_masks=masks))
    changed = 0
    plain = np.asarray(run())
    for trial, y in zip(masks, np.asarray(found), strict=True):
        wanted, _, size = _loop(**inputs, masks=trial, reverse=reverse)
        _assert_close(y, wanted, size)
        _assert_close(alone(trial), wanted, size)
        changed += not np.allclose(plain, wanted, atol=1e-4)
    assert changed >= 6


def test_states_change_bit_by_bit():
    """With decay one and whole numbers the arithmetic is exact: every action in every bit, many bits per state."""
    rng = np.random.default_rng(2)
    shape = (5, 64)
    whole = functools.partial(rng.integers, 1, 9, size=(*shape, 1))
    inputs = {"u": rng.integers(-9, 9, size=shape), "dt": np.ones(shape), "A": np.zeros((64, 1)), "B": whole()[:, 0]}
    inputs = {name: x.astype(np.float32) for name, x in inputs.items()}
    inputs["C"] = np.ones((5, 1), np.float32)
    masks = _masks((5, 64, 1), 400, rng)
    for channel, value in enumerate((0x7F800001, 0x7FC12345, 0x7F800000, 0xFF800000, 0x00000001, 0x80000000)):
        masks[:, 2, channel, 0] = 0xFFFFFFFF, value  # two NaNs, infinities, the smallest number and minus zero
    wanted = _loop(**inputs, masks=masks)[0]
    y = jax.jit(scan.selective_scan, static_argnames="method")(**inputs, state_masks=masks, method="sequential")
    assert np.isnan(wanted).any()
    assert np.isinf(wanted).any()
    # Of the same bits but for what arithmetic on a CPU makes of the smallest numbers, which is zero.
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2**-126)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_becomes_the_recurrence(method):
    """The same states whatever the fault-free scan is; an infinite one stays so until a decay is zero."""
    inputs = _inputs((2,), 9, seed=3)
    inputs["dt"][:, 6] = 1e4
    masks = np.zeros((2, 9, 3, 4), np.uint32)
    masks[:, 3, 1, 2] = 0xFFFFFFFF, 0x7F800000  # all bits cleared, then those of infinity
    y = np.asarray(scan.selective_scan(**inputs, method=method, state_masks=masks))
    plain = np.asarray(scan.selective_scan(**inputs, method=method))
    np.testing.assert_allclose(y[:, :3], plain[:, :3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y[..., [0, 2]], plain[..., [0, 2]], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y[:, 3:6, 1], np.sign(inputs["C"][:, 3:6, 2]) * np.inf)
    assert np.isnan(y[:, 6:, 1]).all()
    step = jax.jit(functools.partial(scan.selective_scan, method="sequential"))
    np.testing.assert_array_equal(step(**inputs, state_masks=masks), y)


@pytest.mark.parametrize("method", METHODS)
def test_masks_without_a_bit_leave_the_scan_alone(method):
    inputs = _inputs((2, 3), 17, groups=(3,), seed=4)
    run = jax.jit(functools.partial(scan.selective_scan, method=method))
    y = run(**inputs, state_masks=np.zeros((2, 3, 17, 3, 4), np.uint32))
    np.testing.assert_allclose(y, run(**inputs), rtol=1e-6, atol=1e-6)


def test_steps_first_and_bfloat16():
    inputs = _inputs((2, 3), 9, groups=(3,), seed=5)
    masks = _masks((3, 9, 3, 4), 5, np.random.default_rng(6), bits=range(29))
    moved = {name: np.moveaxis(x, -2, 0) if name != "A" else x for name, x in inputs.items()}
    for method in ("sequential", "associative"):
        y = scan.selective_scan(**moved, reverse=True, method=method, time_major=True, state_masks=masks)
        wanted, _, size = _loop(**inputs, masks=masks, reverse=True)
        _assert_close(np.moveaxis(np.asarray(y), 0, -2), wanted, size)
    narrow = {name: jnp.asarray(x, jnp.bfloat16) for name, x in inputs.items()}
    y = scan.selective_scan(**narrow, state_masks=masks)
    wide = {name: np.asarray(x, np.float32) for name, x in narrow.items()}
    wanted, _, size = _loop(**wide, masks=masks)
    assert y.dtype == jnp.bfloat16
    assert (np.abs(np.asarray(y, np.float32) - wanted) <= 2**-7 * size + 1e-3).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_states_are_read_where_they_are_hit(reverse):
    inputs = _inputs((2, 3), 9, groups=(3,), seed=7)
    steps = {name: inputs[name] for name in ("u", "dt", "A", "B")}
    none = np.zeros((2, 3, 9, 3, 4), np.uint32)
    wanted = _loop(**inputs, masks=none, reverse=reverse)[1]
    np.testing.assert_allclose(scan.hidden_states(**steps, reverse=reverse), wanted, rtol=1e-5, atol=1e-5)
    moved = {name: np.moveaxis(x, -2, 0) if name != "A" else x for name, x in steps.items()}
    found = scan.hidden_states(**moved, reverse=reverse, time_major=True)
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), 0, -3), wanted, rtol=1e-5, atol=1e-5)


def test_gradients_pass_all_states_but_those_that_are_hit():
    inputs = _inputs((), 8, d=2, n=1, seed=8)

    def jacobian(masks):
        run = functools.partial(scan.selective_scan, method="sequential", state_masks=masks)
        return np.array(jax.jit(jax.jacrev(lambda u: run(**{**inputs, "u": u})))(inputs["u"]))

    masks = np.zeros((2, 8, 2, 1), np.uint32)
    masks[1, 3, 1] = 1 << 22
    wanted = jacobian(None)  # [l, d, l, d]
    wanted[3:, 1, :4, 1] = 0.0
    np.testing.assert_allclose(jacobian(masks), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["sequential", "chunked"])
def test_masks_are_shared_by_the_devices_of_a_batch(method):
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    inputs = _inputs((2 * devices,), 6, seed=9)
    masks = _masks((6, 3, 4), 3, np.random.default_rng(10), bits=range(29))
    specs = {name: P() if name == "A" else P("data") for name in inputs}

    def run(inputs, masks):
        return scan.selective_scan(**inputs, method=method, state_masks=masks)

    sharded = jax.shard_map(run, mesh=mesh, in_specs=(specs, P()), out_specs=P("data"))
    np.testing.assert_allclose(jax.jit(sharded)(inputs, masks), run(inputs, masks), rtol=1e-5, atol=1e-5)


def test_masks_that_do_not_fit_are_refused():
    inputs = _inputs((2,), 5)
    for shape, dtype in (((3, 5, 3, 4), np.uint32), ((2, 2, 5, 3, 4), np.uint32), ((2, 5, 3, 4), np.int32)):
        with pytest.raises(ValueError, match=r"state_masks must be uint32 \(2, 5, 3, 4\) to fit A \(3, 4\), got"):
            scan.selective_scan(**inputs, state_masks=np.zeros(shape, dtype))
