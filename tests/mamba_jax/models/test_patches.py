"""A patch embedding resized to other patches keeps its products, as far as that is possible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba_jax import models
from mamba_jax.models import patches


@pytest.fixture
def kernel():
    return jax.random.normal(jax.random.key(0), (2, 2, 3, 4))


def test_larger_patches_give_the_same_products(kernel):
    patch = jax.random.normal(jax.random.key(1), (2, 2, 3))
    larger = jax.image.resize(patch, (4, 4, 3), "bilinear")
    got = np.einsum("ijc,ijcd->d", larger, patches.resize_kernel(kernel, 4))
    np.testing.assert_allclose(got, np.einsum("ijc,ijcd->d", patch, kernel), atol=1e-5)


def test_one_pixel_takes_the_sum_and_the_same_size_is_the_same(kernel):
    np.testing.assert_allclose(patches.resize_kernel(kernel, 1), jnp.sum(kernel, (0, 1), keepdims=True), atol=1e-6)
    np.testing.assert_allclose(patches.resize_kernel(kernel, 2), kernel, atol=1e-6)


def test_a_model_sees_an_enlarged_image_as_it_saw_the_image():
    small, large = (
        models.create_model(
            "medmamba", num_classes=2, image_size=8 * p, patch_size=p, depths=(1,) * 4, dims=(4, 8, 16, 32)
        )
        for p in (1, 2)
    )
    variables = small.init(jax.random.key(0))
    embedding = variables["params"]["patch_embed"]["proj"]
    resized = {**embedding, "kernel": patches.resize_kernel(embedding["kernel"], 2)}
    params = {**variables["params"], "patch_embed": {**variables["params"]["patch_embed"], "proj": resized}}
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    enlarged = jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)
    got = jax.jit(large.apply)({**variables, "params": params}, enlarged)
    np.testing.assert_allclose(got, jax.jit(small.apply)(variables, images), atol=1e-4)
