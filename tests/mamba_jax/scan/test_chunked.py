"""The scan in chunks, cut small: the same values and gradients as step by step, in memory that the chunk bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax.scan import associative, chunked, sequential


def _inputs(length, *, b=2, k=2, d=5, n=3, dtype=jnp.float32):
    rng = np.random.default_rng(length)
    shapes = {"u": (b, k, length, d), "dt": (b, k, length, d), "A": (k, d, n), "B": (b, k, length, n)}
    inputs = {name: rng.normal(size=shape) for name, shape in (shapes | {"C": shapes["B"]}).items()}
    inputs |= {"dt": rng.uniform(0.01, 1.0, shapes["dt"]), "A": -rng.uniform(0.2, 3.0, shapes["A"])}
    return {name: jnp.asarray(x, dtype) for name, x in inputs.items()}


def _values_and_gradients(scan, inputs):
    def run(inputs):
        y, pull = jax.vjp(lambda inputs: scan(**inputs), inputs)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]

    return jax.jit(run)(inputs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("length", "chunk_steps"), [(1, 4), (3, 4), (4, 4), (12, 4), (13, 4), (15, 4), (9, 1)])
def test_agrees_with_the_steps_for_every_way_of_cutting(length, chunk_steps, reverse):
    inputs = _inputs(length)
    cut = functools.partial(chunked.scan, reverse=reverse, chunk_steps=chunk_steps)
    y, gradients = _values_and_gradients(cut, inputs)
    wanted_y, wanted = _values_and_gradients(functools.partial(sequential.scan, reverse=reverse), inputs)
    np.testing.assert_allclose(y, wanted_y, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(wanted_y))))
    for name, gradient in gradients.items():
        scale = float(jnp.max(jnp.abs(wanted[name])))
        np.testing.assert_allclose(gradient, wanted[name], rtol=0, atol=1e-5 * scale, err_msg=name)


def test_gradients_of_a_long_sequence_take_the_memory_of_a_chunk():
    inputs = jax.eval_shape(functools.partial(_inputs, 2048, d=16, n=8))

    def temporary_bytes(scan):
        compiled = jax.jit(functools.partial(_values_and_gradients, scan)).lower(inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = temporary_bytes(functools.partial(associative.scan, reverse=False))
    cut = temporary_bytes(functools.partial(chunked.scan, reverse=False, chunk_steps=64))
    assert cut < whole / 5, f"{cut} bytes in chunks, {whole} at once"


def test_the_default_chunk_is_bounded_in_bytes_and_by_the_sequence():
    assert chunked.default_chunk_steps((2, 2, 49, 96), 16) == 49
    steps = chunked.default_chunk_steps((64, 2, 3136, 96), 16)
    assert steps == 128 * 2**20 // (64 * 2 * 96 * 16 * 4)
    assert chunked.default_chunk_steps((4096, 2, 3136, 96), 16) == 16


def test_an_infinite_decay_makes_no_nan_in_the_last_shorter_chunk():
    inputs = _inputs(13)
    inputs["A"] = inputs["A"].at[0, 0].set(-jnp.inf)
    y = chunked.scan(**inputs, reverse=True, chunk_steps=4)
    wanted = sequential.scan(**inputs, reverse=True)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
