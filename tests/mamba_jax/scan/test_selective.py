"""Every scan method against a float64 loop in NumPy, in values and in all gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mamba_jax import scan

METHODS = tuple(scan.METHODS)
NAMES = ("u", "dt", "A", "B", "C", "D")


def _inputs(batch, length, d=5, n=3, *, groups=(), seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(size=(*batch, length, d)).astype(dtype),
        "dt": rng.uniform(0.01, 1.0, size=(*batch, length, d)).astype(dtype),
        "A": -rng.uniform(0.2, 3.0, size=(*groups, d, n)).astype(dtype),
        "B": rng.normal(size=(*batch, length, n)).astype(dtype),
        "C": rng.normal(size=(*batch, length, n)).astype(dtype),
        "D": rng.normal(size=(*groups, d)).astype(dtype),
    }


def _loop(u, dt, A, B, C, D, *, reverse=False):
    """y and the states h [*batch, l, d, n], step by step in float64."""
    h = np.zeros((*u.shape[:-2], *A.shape[-2:]))
    y, states = np.zeros_like(u), np.zeros((*u.shape, A.shape[-1]))
    for t in reversed(range(u.shape[-2])) if reverse else range(u.shape[-2]):
        drive = (dt[..., t, :] * u[..., t, :])[..., None] * B[..., t, None, :]
        h = np.exp(dt[..., t, :, None] * A) * h + drive
        states[..., t, :, :] = h
        y[..., t, :] = (h * C[..., t, None, :]).sum(-1) + D * u[..., t, :]
    return y, states


def _loop_gradients(inputs, dy):
    """Gradients of sum(y dy) by the adjoint recurrence, in float64; forward direction."""
    u, dt, A, B, C, D = (inputs[name] for name in NAMES)
    _, states = _loop(**inputs)
    gradients = {name: np.zeros_like(inputs[name]) for name in NAMES}
    g = np.zeros((*u.shape[:-2], *A.shape[-2:]))
    over = tuple(range(u.ndim - 2 - (A.ndim - 2)))
    for t in reversed(range(u.shape[-2])):
        before = states[..., t - 1, :, :] if t else np.zeros_like(g)
        u_t, dt_t, B_t, C_t, dy_t = (x[..., t, :] for x in (u, dt, B, C, dy))
        decay = np.exp(dt_t[..., None] * A)
        g = g + dy_t[..., None] * C_t[..., None, :]
        gradients["C"][..., t, :] = (states[..., t, :, :] * dy_t[..., None]).sum(-2)
        gradients["B"][..., t, :] = (g * (dt_t * u_t)[..., None]).sum(-2)
        gradients["u"][..., t, :] = (g * B_t[..., None, :]).sum(-1) * dt_t + D * dy_t
        through = g * before * decay
        gradients["dt"][..., t, :] = (through * A).sum(-1) + (g * B_t[..., None, :]).sum(-1) * u_t
        gradients["A"] += (through * dt_t[..., None]).sum(over)
        gradients["D"] += (u_t * dy_t).sum(over)
        g = g * decay
    return gradients


def _assert_close(got, wanted, relative=1e-5):
    scale = max(np.max(np.abs(wanted)), 1e-30)
    np.testing.assert_allclose(np.asarray(got, np.float64) / scale, wanted / scale, rtol=0, atol=relative)


def _jax(inputs, dtype=jnp.float32):
    return {name: jnp.asarray(value, dtype) for name, value in inputs.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 7, 49, 784])
def test_values_and_gradients_agree_with_a_float64_loop(method, length):
    inputs = _inputs((2,), length)
    dy = np.random.default_rng(1).normal(size=inputs["u"].shape)

    def objective(arguments):
        y = scan.selective_scan(**arguments, method=method)
        return jnp.sum(y * jnp.asarray(dy, jnp.float32)), y

    gradients, y = jax.jit(jax.grad(objective, has_aux=True))(_jax(inputs))
    _assert_close(y, _loop(**inputs)[0])
    wanted = _loop_gradients(inputs, dy)
    for name in NAMES:
        _assert_close(gradients[name], wanted[name])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [29, 31, 97])
def test_lengths_that_no_chunk_divides(method, length):
    inputs = _inputs((3,), length, seed=2)
    dy = np.random.default_rng(3).normal(size=inputs["u"].shape)
    gradients = jax.grad(lambda a: jnp.sum(scan.selective_scan(**a, method=method) * jnp.asarray(dy, jnp.float32)))(
        _jax(inputs)
    )
    for name, wanted in _loop_gradients(inputs, dy).items():
        _assert_close(gradients[name], wanted)


@pytest.mark.parametrize("method", METHODS)
def test_reverse_is_the_scan_of_the_reversed_sequence(method):
    inputs = _inputs((2,), 31, seed=4)
    arguments = _jax(inputs)
    y = scan.selective_scan(**arguments, reverse=True, method=method)
    _assert_close(y, _loop(**inputs, reverse=True)[0])
    dy = jnp.asarray(np.random.default_rng(5).normal(size=inputs["u"].shape), jnp.float32)
    flipped = {name: x[:, ::-1] if name in ("u", "dt", "B", "C") else x for name, x in arguments.items()}

    def objective(a, dy, *, reverse):
        return jnp.sum(scan.selective_scan(**a, reverse=reverse, method=method) * dy)

    backward = jax.grad(objective)(arguments, dy, reverse=True)
    forward = jax.grad(objective)(flipped, dy[:, ::-1], reverse=False)
    for name in NAMES:
        wanted = forward[name][:, ::-1] if name in ("u", "dt", "B", "C") else forward[name]
        _assert_close(backward[name], np.asarray(wanted, np.float64))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("batch", "groups"), [((), ()), ((2, 3), ()), ((2, 3), (3,)), ((2, 4, 3), (4, 3))])
def test_any_leading_axes_and_parameter_groups(method, batch, groups):
    inputs = _inputs(batch, 9, groups=groups, seed=6)
    dy = np.random.default_rng(10).normal(size=inputs["u"].shape)
    y, gradients = _values_and_gradients(_jax(inputs), jnp.asarray(dy, jnp.float32), method)
    assert y.shape == inputs["u"].shape
    _assert_close(y, _loop(**inputs)[0])
    for name, wanted in _loop_gradients(inputs, dy).items():
        assert gradients[name].shape == inputs[name].shape
        _assert_close(gradients[name], wanted)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_inputs_accumulate_in_float32(method):
    rounded = _jax(_inputs((2,), 196, seed=7), jnp.bfloat16)
    dy = jnp.asarray(np.random.default_rng(11).normal(size=rounded["u"].shape), jnp.bfloat16)
    y, gradients = _values_and_gradients(rounded, dy, method)
    assert y.dtype == jnp.bfloat16
    exact = {name: np.asarray(x, np.float64) for name, x in rounded.items()}
    # One rounding to 8 bits at the end; accumulating in bfloat16 would lose several times that over 196 steps.
    _assert_close(y, _loop(**exact)[0], relative=2**-8)
    # u is read twice, by the scan and by D, so that its gradient is a sum of two rounded ones.
    for name, wanted in _loop_gradients(exact, np.asarray(dy, np.float64)).items():
        assert gradients[name].dtype == jnp.bfloat16
        _assert_close(gradients[name], wanted, relative=2**-7 if name == "u" else 2**-8)


def _values_and_gradients(arguments, dy, method):
    def run(arguments, dy):
        y, pull = jax.vjp(lambda a: scan.selective_scan(**a, method=method), arguments)
        return y, pull(dy)[0]

    return jax.jit(run)(arguments, dy)


@pytest.mark.parametrize("method", ["associative", "chunked"])
def test_forward_mode_is_for_the_methods_in_trees(method):
    arguments = _jax(_inputs((), 9, seed=12))
    tangents = _jax(_inputs((), 9, seed=13))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda a: scan.selective_scan(**a, method="sequential"), (arguments,), (tangents,))
    dy = jnp.ones_like(arguments["u"])
    _, dy_forward = jax.jvp(lambda a: scan.selective_scan(**a, method=method), (arguments,), (tangents,))
    _, gradients = _values_and_gradients(arguments, dy, method)
    wanted = sum(jnp.vdot(gradients[name], tangents[name]) for name in NAMES)
    np.testing.assert_allclose(jnp.sum(dy_forward), wanted, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_mix_and_vmap_over_parameters_works(method):
    arguments = _jax(_inputs((3,), 12, seed=8))
    y = scan.selective_scan(**arguments, method=method)
    poisoned = {**arguments, "u": arguments["u"].at[1].set(jnp.nan)}
    other = scan.selective_scan(**poisoned, method=method)
    np.testing.assert_array_equal(y[0], other[0])
    np.testing.assert_array_equal(y[2], other[2])
    assert bool(jnp.all(jnp.isnan(other[1])))
    many = jnp.stack([arguments["A"], 2 * arguments["A"]])
    batched = jax.vmap(lambda A: scan.selective_scan(**{**arguments, "A": A}, method=method))(many)
    np.testing.assert_allclose(batched[0], y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_steps_first_is_the_same_scan(method):
    arguments = _jax(_inputs((2, 3), 9, groups=(3,), seed=15))
    y = scan.selective_scan(**arguments, reverse=True, method=method)
    moved = {name: jnp.moveaxis(x, -2, 0) if name in ("u", "dt", "B", "C") else x for name, x in arguments.items()}
    other = scan.selective_scan(**moved, reverse=True, method=method, time_major=True)
    np.testing.assert_allclose(jnp.moveaxis(other, 0, -2), y, rtol=0, atol=1e-6)

    def gradients(inputs, time_major):
        def scanned(x):
            return jnp.sum(scan.selective_scan(**x, reverse=True, method=method, time_major=time_major) ** 2)

        return jax.grad(scanned)(inputs)

    wanted, found = gradients(arguments, False), gradients(moved, True)
    for name, gradient in wanted.items():
        other = jnp.moveaxis(found[name], 0, -2) if name in ("u", "dt", "B", "C") else found[name]
        np.testing.assert_allclose(other, gradient, rtol=0, atol=1e-5 * np.abs(gradient).max(), err_msg=name)
    with pytest.raises(ValueError, match=r"B must be \(9, 2, 3, 3\)"):
        scan.selective_scan(**(moved | {"B": moved["B"][..., :2]}), method="sequential", time_major=True)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_at_one_end_do_not_see_the_other(reverse):
    """The reverse pass of `sequential` reads past the first step; nothing of what it finds there may be left."""
    arguments = _jax(_inputs((2,), 9, seed=16))
    first, last = (-1, 0) if reverse else (0, -1)
    arguments |= {name: arguments[name].at[:, last].set(jnp.inf) for name in ("u", "B")}

    def at_first(x):
        return jnp.sum(scan.selective_scan(**x, reverse=reverse, method="sequential")[:, first])

    gradients = jax.grad(at_first)(arguments)
    for name in ("u", "B", "C"):
        assert np.isfinite(gradients[name][:, first]).all(), name


def test_second_derivatives_of_the_steps():
    arguments = _jax(_inputs((2,), 6, seed=17))

    def of_gradient(method):
        gradient = jax.grad(lambda x: jnp.sum(scan.selective_scan(**x, method=method) ** 2))
        return jax.grad(lambda x: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient(x))))(arguments)

    found, wanted = of_gradient("sequential"), of_gradient("associative")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_sharded_over_the_batch(method):
    """Values and gradients inside `shard_map`: each device scans its own rows; A's gradient is summed over them."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    arguments = _jax(_inputs((2 * jax.device_count(),), 12, seed=14))
    specs = {name: P() if name in ("A", "D") else P("data") for name in NAMES}
    run = functools.partial(_values_and_gradients, method=method)
    sharded = jax.shard_map(
        lambda a, dy: run(a, dy), mesh=mesh, in_specs=(specs, P("data")), out_specs=(P("data"), specs)
    )
    dy = jnp.ones_like(arguments["u"])
    got, wanted = sharded(arguments, dy), run(arguments, dy)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, wanted)


def test_an_infinite_state_stays_where_the_recurrence_leaves_it():
    """The reference for faults: one infinite input makes its own state infinite from that step on, not before."""
    arguments = _jax(_inputs((1,), 20, seed=9))
    arguments["u"] = arguments["u"].at[0, 10, 0].set(jnp.inf)
    y = scan.selective_scan(**arguments, method="sequential")
    assert bool(jnp.all(jnp.isfinite(y[0, :10])))
    assert not bool(jnp.any(jnp.isfinite(y[0, 10:, 0])))
    assert bool(jnp.all(jnp.isfinite(y[0, :, 1:])))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [29, 31])
def test_an_infinite_decay_forgets_and_makes_no_nan(length, reverse):
    """A = -inf, as a flipped exponent of A_log makes it: exp(dt A) = 0, so h_t = dt_t B_t u_t."""
    arguments = _jax(_inputs((1,), length, seed=10))
    arguments["A"] = arguments["A"].at[0].set(-jnp.inf)
    y = scan.selective_scan(**arguments, reverse=reverse, method="sequential")
    u, dt, B, C, D = (arguments[name] for name in ("u", "dt", "B", "C", "D"))
    wanted = (jnp.sum(B * C, axis=-1) * dt[..., 0] + D[0]) * u[..., 0]
    np.testing.assert_allclose(y[..., 0], wanted, rtol=1e-5, atol=1e-6)
    assert bool(jnp.all(jnp.isfinite(y)))

    def total(u):
        return jnp.sum(scan.selective_scan(**{**arguments, "u": u}, reverse=reverse, method="sequential"))

    gradient = jax.grad(total)(u)
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize(("backend", "method"), [("cpu", "sequential"), ("gpu", "chunked"), ("tpu", "chunked")])
def test_auto_follows_the_backend(monkeypatch, backend, method):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert scan.resolve_method("auto") == method


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fast"}, r"method must be one of \('auto', 'associative', .*\), got 'fast'"),
        ({"dt": (2, 8, 5)}, r"dt must be \(2, 9, 5\)"),
        ({"B": (2, 9, 4)}, r"B must be \(2, 9, 3\)"),
        ({"A": (4, 3)}, r"A must be \[\*groups, 5, n\]"),
        ({"A": (3, 5, 3)}, "groups the last axes of"),
        ({"D": (4,)}, r"D must be \(5,\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = _jax(_inputs((2,), 9))
    change = {name: jnp.zeros(value) if isinstance(value, tuple) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        scan.selective_scan(**{**arguments, **change})
