"""Convolutions in loops: the same values, in the layout that is fast, and nothing else touched."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats.adversarial import convolutions

NHWC = ("NHWC", "HWIO", "NHWC")
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere convolutions stay as they are")


def gradient(numbers=NHWC, **options):
    """The gradient of a convolution with respect to its images, and images for it."""
    draws = np.random.default_rng(0)
    sizes = dict(zip("NHWC", (2, 7, 6, 4), strict=True)) | dict(zip("IO", (4, 6), strict=True))
    sizes["I"] //= options.get("feature_group_count", 1)
    images = draws.normal(size=[sizes[letter] for letter in numbers[0]]).astype(np.float32)
    kernel = draws.normal(size=[3 if letter in "HW" else sizes[letter] for letter in numbers[1]]).astype(np.float32)
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": numbers} | options

    @jax.jit
    def total(images):
        made = jnp.tanh(jax.lax.conv_general_dilated(images, kernel, **options))
        return jnp.sum(jax.nn.relu(made) * jnp.cos(jnp.arange(made.size, dtype=jnp.float32)).reshape(made.shape))

    return jax.value_and_grad(total), images


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window_strides": (2, 2)},
        {"window_strides": (2, 1), "padding": ((1, 0), (2, 1))},
        {"rhs_dilation": (2, 1)},
        {"feature_group_count": 2},
        {"numbers": ("NCHW", "OIHW", "NCHW")},
        {"numbers": ("HWNC", "OHWI", "NHCW")},
    ],
)
def test_the_values_are_the_same(options):
    function, images = gradient(**options)
    found = jax.jit(convolutions.in_loop(function))(images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, function(images))


@ON_CPU
@pytest.mark.parametrize("numbers", [NHWC, ("NCHW", "OIHW", "NCHW")])
def test_every_convolution_of_a_loop_has_the_fast_layout(numbers):
    function, images = gradient(numbers)

    def layouts(function):
        run = jax.jit(lambda x: jax.lax.scan(lambda x, _: (x + function(x)[1], None), x, length=3)[0])
        return set(re.findall("dim_labels=([^, ]+)", run.lower(images).compile().as_text()))

    assert layouts(convolutions.in_loop(function)) == {"b01f_01io->b01f"}
    assert layouts(function) != {"b01f_01io->b01f"}, "XLA does it itself: this module has become needless"


def test_what_has_no_convolution_in_another_layout_stays_as_it_is():
    @jax.jit
    def function(x):
        return jax.lax.conv_general_dilated(x, jnp.ones((3, 3, 4, 6)), (1, 1), "SAME", dimension_numbers=NHWC)

    traced = [jax.make_jaxpr(one)(jnp.ones((2, 7, 6, 4))) for one in (function, convolutions.in_loop(function))]
    assert str(traced[0]) == str(traced[1])


def test_it_closes_over_what_is_traced_and_keeps_the_tree():
    function, images = gradient()

    @jax.jit
    def run(scale, images):
        return convolutions.in_loop(lambda given: {"scaled": scale * function(given["images"])[1]})({"images": images})

    np.testing.assert_allclose(run(2.0, images)["scaled"], 2 * function(images)[1], rtol=1e-5, atol=1e-5)
