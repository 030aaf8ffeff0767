"""The fused kernels, interpreted on the CPU, against a float64 loop; and that they lower for CUDA and TPU."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mamba_jax.scan import pallas
from mamba_jax.scan.pallas import backward, forward

CALLS = {"cuda": "custom_call @mosaic_gpu", "tpu": "custom_call @tpu_custom_call"}  # a kernel in a lowered program
NAMES = ("u", "dt", "A", "B", "C")
STEPS = pallas.VALUE_STEPS  # a multiple of pallas.GRADIENT_STEPS


class Case(NamedTuple):
    u: np.ndarray
    dt: np.ndarray
    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    dy: np.ndarray


def _case(length, d, *, b=1, k=1, n=3, seed=0, lead=()) -> Case:
    rng = np.random.default_rng(seed)
    return Case(
        u=rng.normal(size=(*lead, b, k, length, d)),
        dt=rng.uniform(0.01, 1.0, size=(*lead, b, k, length, d)),
        A=-rng.uniform(0.2, 3.0, size=(*lead, k, d, n)),
        B=rng.normal(size=(*lead, b, k, length, n)),
        C=rng.normal(size=(*lead, b, k, length, n)),
        dy=rng.normal(size=(*lead, b, k, length, d)),
    )


def _loop(case: Case, reverse: bool):
    """(y, gradients of sum(y dy)), step by step in float64."""
    u, dt, A, B, C, dy = case
    order = range(u.shape[2])[:: -1 if reverse else 1]
    h = np.zeros((*u.shape[:2], *A.shape[1:]))
    y, before = np.zeros_like(u), np.zeros((*u.shape, A.shape[-1]))
    for t in order:
        before[:, :, t] = h
        h = np.exp(dt[:, :, t, :, None] * A) * h + (dt * u)[:, :, t, :, None] * B[:, :, t, None, :]
        y[:, :, t] = (h * C[:, :, t, None, :]).sum(-1)
    gradients = [np.zeros_like(x) for x in case[:5]]
    g = np.zeros_like(h)
    for t in order[::-1]:
        u_t, dt_t, B_t, C_t, dy_t = (x[:, :, t] for x in (u, dt, B, C, dy))
        decay = np.exp(dt_t[..., None] * A)
        h = decay * before[:, :, t] + (dt_t * u_t)[..., None] * B_t[..., None, :]
        g = g + dy_t[..., None] * C_t[..., None, :]
        through = g * before[:, :, t] * decay
        driven = (g * B_t[..., None, :]).sum(-1)
        gradients[0][:, :, t] = driven * dt_t
        gradients[1][:, :, t] = (through * A).sum(-1) + driven * u_t
        gradients[2] += (through * dt_t[..., None]).sum(0)
        gradients[3][:, :, t] = (g * (dt_t * u_t)[..., None]).sum(-2)
        gradients[4][:, :, t] = (h * dy_t[..., None]).sum(-2)
        g = g * decay
    return y, gradients


def _run(reverse, *case):
    y, pull = jax.vjp(functools.partial(pallas.scan, reverse=reverse), *case[:5])
    return y, list(pull(case[5]))


def _float32(case):
    return [jnp.asarray(x, jnp.float32) for x in case]


def _assert_close(got, wanted, relative=1e-5):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert x.shape == y.shape
        y = np.asarray(y, np.float64)
        scale = max(np.max(np.abs(y)), 1e-30)
        np.testing.assert_allclose(np.asarray(x, np.float64) / scale, y / scale, rtol=0, atol=relative)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 3])
def test_values_and_gradients_agree_with_a_float64_loop(length, reverse):
    case = _case(length, 5, b=2, k=2)
    y, gradients = jax.jit(functools.partial(_run, reverse))(*_float32(case))
    assert y.dtype == jnp.float32
    _assert_close((y, gradients), _loop(case, reverse))
    only_y = jax.jit(functools.partial(pallas.scan, reverse=reverse))(*_float32(case)[:5])
    _assert_close(only_y, y, relative=1e-6)


@pytest.mark.parametrize(("d", "n"), [(128, 4), (130, 6), (257, 1)])
def test_channels_that_fill_blocks_or_do_not(d, n):
    case = _case(11, d, k=2, n=n, seed=1)
    _assert_close(jax.jit(functools.partial(_run, True))(*_float32(case)), _loop(case, True))


@pytest.mark.parametrize("reverse", [False, True])
def test_bfloat16_is_read_as_it_is_and_computed_in_float32(reverse):
    case = [jnp.asarray(x, jnp.bfloat16) for x in _case(41, 7, b=2, seed=2)]
    y, gradients = jax.jit(functools.partial(_run, reverse))(*case[:5], case[5].astype(jnp.float32))
    assert y.dtype == jnp.float32
    assert all(x.dtype == jnp.bfloat16 for x in gradients)
    wanted, wanted_gradients = _loop(Case(*(np.asarray(x, np.float64) for x in case)), reverse)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * np.max(np.abs(wanted)))
    _assert_close((y, gradients), (wanted, wanted_gradients), relative=2**-8)


@pytest.mark.parametrize("mapped", [("A",), ("u",), ("B", "C"), ("A", "dt"), NAMES])
def test_vmap_over_any_arguments_is_a_loop_over_them(mapped):
    one, many = _float32(_case(10, 5, b=2, k=2, seed=3)), _float32(_case(10, 5, b=2, k=2, seed=4, lead=(3,)))
    axes = [0 if name in mapped else None for name in NAMES] + [None]
    arguments = [y if axis == 0 else x for x, y, axis in zip(one, many, axes, strict=True)]
    run = jax.jit(functools.partial(_run, False))
    loop = [run(*(x if axis is None else x[i] for x, axis in zip(arguments, axes, strict=True))) for i in range(3)]
    wanted = jax.tree.map(lambda *x: jnp.stack(x), *loop)
    _assert_close(jax.jit(jax.vmap(run, in_axes=axes))(*arguments), wanted, relative=1e-6)


def test_nested_vmap_and_the_gradient_of_a_vmap():
    u, dt, A, B, C, dy = _float32(_case(9, 5, k=2, seed=5, lead=(2, 3)))

    def total(A, u, dt, B, C, dy):
        return jnp.sum(pallas.scan(u, dt, A, B, C, reverse=True) * dy)

    one = jax.jit(jax.grad(total, argnums=(0, 1)))
    # The inner maps A, u and dy, the outer all but dt: dt stays shared throughout, B and C among the inner.
    wanted = [[one(A[i, j], u[i, j], dt[0, 0], B[i, 0], C[i, 0], dy[0, j]) for j in range(3)] for i in range(2)]
    wanted = jax.tree.map(lambda *x: jnp.stack(x).reshape((2, 3, *x[0].shape)), *wanted[0], *wanted[1])
    inner = (0, 0, None, None, None, 0)
    outer = (0, 0, None, 0, 0, None)
    arguments = (A, u, dt[0, 0], B[:, 0], C[:, 0], dy[0])
    got = jax.jit(jax.vmap(jax.vmap(jax.grad(total, argnums=(0, 1)), inner), outer))(*arguments)
    _assert_close(got, wanted)

    def all_of_them(A, u):
        return jnp.sum(jax.vmap(jax.vmap(total, inner), outer)(A, u, *arguments[2:]))

    _assert_close(jax.grad(jax.jit(all_of_them), argnums=(0, 1))(A, u), wanted)


@pytest.mark.parametrize("check_vma", [False, True])
def test_shard_map_over_the_batch_sums_the_gradient_of_what_is_shared(check_vma):
    """What JAX checks there is how values vary over the mesh; see `targets` for how the kernels hide it."""
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    case = _float32(_case(9, 5, b=2 * devices, k=2, seed=6))
    split, whole = jax.P("batch"), jax.P()
    specs = [split, split, whole, split, split]
    sharded = functools.partial(jax.shard_map, mesh=mesh, check_vma=check_vma)
    scan = sharded(functools.partial(pallas.scan, reverse=True), in_specs=tuple(specs), out_specs=split)
    wanted = jax.jit(functools.partial(_run, True))(*case)
    run = jax.jit(lambda *case: (lambda y, pull: (y, list(pull(case[5]))))(*jax.vjp(scan, *case[:5])))
    _assert_close(run(*case), wanted)
    if check_vma:  # without the check nothing tells JAX to sum what each device wants of A
        inside = sharded(functools.partial(_run, True), in_specs=(*specs, split), out_specs=(split, specs))
        _assert_close(jax.jit(inside)(*case), wanted)
        exported = jax.export.export(jax.jit(inside), platforms=("cuda", "tpu"))(*case).mlir_module()
        assert [exported.count(CALLS[platform]) for platform in ("cuda", "tpu")] == [2, 2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(2, 2, 196, 96, 16), (2, 2, 49, 192, 16), (2, 1, 7, 5, 1)])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_value_and_gradient_lower_for_an_accelerator(platform, shape, dtype):
    b, k, length, d, n = shape
    sizes = ((b, k, length, d), (b, k, length, d), (k, d, n), (b, k, length, n), (b, k, length, n))
    arguments = [jax.ShapeDtypeStruct(x, dtype) for x in sizes] + [jax.ShapeDtypeStruct(sizes[0], jnp.float32)]
    exported = jax.export.export(jax.jit(functools.partial(_run, True)), platforms=(platform,))(*arguments)
    assert [x.shape for x in exported.out_avals] == [sizes[0], *sizes]
    assert exported.mlir_module().count(CALLS[platform]) == 2


def test_one_exported_program_runs_here_and_holds_the_kernels_of_all_platforms():
    case = _float32(_case(9, 8, n=8, seed=7))[:5]
    scan = jax.jit(functools.partial(pallas.scan, reverse=False))
    exported = jax.export.export(scan, platforms=("cpu", "cuda", "tpu"))(*case)
    assert [exported.mlir_module().count(CALLS[platform]) for platform in ("cuda", "tpu")] == [1, 1]
    np.testing.assert_array_equal(exported.call(*case), scan(*case))


def test_tpu_kernels_in_their_simulator_where_unwritten_memory_is_nan():
    case = _case(9, 130, seed=9)
    u, dt, A, B, C, dy = (x if i == 2 else x[0][None] for i, x in enumerate(_float32(case)))
    rate = forward.exponents(A[None])
    settings = {"k": 1, "descending": False, "target": "tpu"}
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        y, starts = jax.jit(lambda *x: forward.run(*x, keep=True, **settings))(u, dt, rate, B, C)
        got = jax.jit(lambda *x: backward.run(*x, **settings))(u, dt, rate, B, C, starts, dy)
    _assert_close((y, list(got._replace(A=got.A[0]))), _loop(case, False))  # one sequence


def test_derivatives_that_there_are_not():
    u, *rest, _ = _float32(_case(3, 5, seed=10))

    def total(u):
        return jnp.sum(pallas.scan(u, *rest, reverse=False))

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(total, (u,), (u,))
    with pytest.raises(NotImplementedError):
        jax.grad(lambda u: jnp.sum(jax.grad(total)(u) ** 2))(u)


def test_infinities_stay_where_the_recurrence_leaves_them():
    u, dt, A, B, C, _ = _float32(_case(20, 5, seed=8))
    y = pallas.scan(u.at[0, 0, 10, 0].set(jnp.inf), dt, A, B, C, reverse=False)
    assert bool(jnp.all(jnp.isfinite(y[..., :10, :])))
    assert not bool(jnp.any(jnp.isfinite(y[..., 10:, 0])))
    assert bool(jnp.all(jnp.isfinite(y[..., 1:])))
    forgetful = A.at[0, 0].set(-jnp.inf)

    def channel(u):
        y = pallas.scan(u, dt, forgetful, B, C, reverse=True)
        return jnp.sum(y), y

    gradient, y = jax.grad(channel, has_aux=True)(u)
    wanted = jnp.sum(B * C, axis=-1) * dt[..., 0] * u[..., 0]
    np.testing.assert_allclose(y[..., 0], wanted, rtol=1e-5, atol=1e-6)
    assert bool(jnp.all(jnp.isfinite(y)))
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_bytes_are_counted_by_hand():
    bytes_moved = pallas.bytes_moved(b=2, k=1, length=16, d=128, n=4, dtype=jnp.float32)
    sequence, projection = 2 * 16 * 128 * 4, 2 * 16 * 4 * 4
    assert bytes_moved.forward == 3 * sequence + 2 * projection + 128 * 4 * 4
