"""Convolutions in XLA's fast form: the same values, in every layout that gradients bring about."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from threats import convolutions


def _layer(images, kernel, *, stride=1, dilation=1, groups=1):
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _inputs(groups=1):
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (5, 9, 8, 4)), jax.random.normal(keys[1], (3, 2, 4 // groups, 6 * groups))


def _gradients(layer):
    return jax.grad(lambda images, kernel: jnp.sum(jnp.sin(layer(images, kernel))), argnums=(0, 1))


def _layouts(function, *arguments):
    """How XLA computes each convolution of a function in the body of a loop."""
    looped = jax.jit(lambda *many: jax.lax.map(lambda one: function(*one), many))
    compiled = looped.lower(*(x[None] for x in arguments)).compile().as_text()
    return set(re.findall(r"dim_labels=(\w+->\w+)", compiled))


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}])
def test_gradients_are_the_same(options):
    given = _inputs(options.get("groups", 1))
    for layer in (functools.partial(_layer, **options), jax.checkpoint(jax.jit(functools.partial(_layer, **options)))):
        plain, fast = jax.jit(_gradients(layer)), jax.jit(convolutions.in_loops(_gradients(layer)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain(*given), fast(*given))


@pytest.mark.parametrize("spec", [("NCHW", "OIHW", "NHWC"), ("HWNC", "IHWO", "NCHW")])
def test_any_layout(spec):
    images, kernel = _inputs()
    place = {"N": 0, "H": 1, "W": 2, "C": 3}, {"H": 0, "W": 1, "I": 2, "O": 3}
    laid = [jnp.transpose(x, [at[c] for c in name]) for x, at, name in zip((images, kernel), place, spec, strict=False)]

    def layer(images, kernel):
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=spec)

    expected = jnp.transpose(_layer(images, kernel), [place[0][c] for c in spec[2]])
    np.testing.assert_allclose(convolutions.in_loops(layer)(*laid), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the form is that of XLA's CPU backend")
def test_a_loop_has_no_other_form():
    given = _inputs()
    scanned = _gradients(lambda images, kernel: jax.lax.map(lambda some: _layer(some[None], kernel), images))
    for function in (_gradients(_layer), scanned):
        assert _layouts(convolutions.in_loops(function), *given) == {"b01f_01io->b01f"}
        assert _layouts(function, *given) != {"b01f_01io->b01f"}


def test_a_tree_of_results_and_values_from_outside():
    images, kernel = _inputs()
    inside = convolutions.in_loops(lambda given: {"out": _layer(given["x"], kernel), "twice": (2 * kernel,)})
    found = jax.jit(lambda x: inside({"x": x}))(images)
    np.testing.assert_allclose(found["out"], _layer(images, kernel), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["twice"][0], 2 * kernel)
