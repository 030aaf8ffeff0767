"""The front door of attacks: its figures against plain calls, and a model that hides its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets

import threats
from threats import adversarial, outcomes, statistics

RADII = (0.02, 0.1)


def network(variables, images):
    x = jnp.tanh(images.reshape(images.shape[0], -1) @ variables["first"])
    return x @ variables["second"]


def hides_gradients(variables, images):
    """The same decisions from pixels in eight grey levels: the gradient is zero nearly everywhere."""
    return network(variables, jnp.round(images * 7) / 7)


def saturates(variables, images):
    """The same decisions so confidently that the cross-entropy's gradient vanishes."""
    return 1e4 * network(variables, images)


@pytest.fixture(scope="module")
def digits():
    """A small network trained on handwritten digits of 8 x 8 pixels, and 60 of them."""
    found = sklearn.datasets.load_digits()
    images = jnp.asarray(found.images[:800, :, :, None] / 16, jnp.float32)
    labels = jnp.asarray(found.target[:800], jnp.int32)
    keys = jax.random.split(jax.random.key(0))
    variables = {
        "first": 0.2 * jax.random.normal(keys[0], (64, 32)),
        "second": 0.2 * jax.random.normal(keys[1], (32, 10)),
    }

    def step(variables, _):
        loss = lambda v: jnp.mean(outcomes.loss(network(v, images), labels, "multi-class"))  # noqa: E731
        return jax.tree.map(lambda x, g: x - 0.5 * g, variables, jax.grad(loss)(variables)), None

    variables, _ = jax.jit(lambda v: jax.lax.scan(step, v, length=300))(variables)
    return variables, images[:60], labels[:60]


@pytest.fixture(scope="module")
def found(digits):
    options = {"pgd": {"steps": 10}}
    return threats.evaluate(
        network, *digits, ("fgsm", "pgd"), RADII, key=jax.random.key(1), options=options, images_at_once=9
    )


def test_figures_are_those_of_the_attacks(digits, found):
    variables, images, labels = digits
    for epsilon in RADII:
        attacked = jax.jit(functools.partial(adversarial.fgsm, network))(variables, images, labels, epsilon=epsilon)
        np.testing.assert_array_equal(found.success["fgsm", epsilon], attacked.success)
        robust = statistics.wilson(int((~attacked.success).sum()), 60)
        assert found.robust_accuracy("fgsm", epsilon) == robust
    right = outcomes.correct(network(variables, images), labels, "multi-class")
    assert found.accuracy() == statistics.wilson(int(right.sum()), 60)
    assert found.accuracy().value > 0.9


def test_the_worst_case_is_taken_image_by_image(found):
    small, large = RADII
    broken = found.success["fgsm", small] | found.success["pgd", small]
    assert found.worst_case("linf", small) == statistics.wilson(int((~broken).sum()), 60)
    assert found.worst_case("linf", large).value <= min(found.robust_accuracy(a, large).value for a in ("fgsm", "pgd"))
    with pytest.raises(KeyError):
        found.worst_case("linf", 0.05)


def test_distortions_are_shortest_successes(found):
    distortion = found.distortion("linf")
    assert np.all(distortion[~found.clean] == 0)
    assert np.all(distortion <= 0.1 + 1e-6, where=np.isfinite(distortion))
    needs_more = np.isfinite(distortion) & (distortion > 0.02 + 1e-6)
    np.testing.assert_array_equal(needs_more, ~_any(found, 0.02) & _any(found, 0.1))


def _any(found, epsilon):
    return found.success["fgsm", epsilon] | found.success["pgd", epsilon]


def test_a_plain_model_passes_every_check(found):
    assert {check.name: check.verdict for check in found.sanity if check.verdict == "fail"} == {}
    assert len(found.sanity) == 7
    assert all(interval.count for check in found.sanity for interval in check.numbers.values())


@pytest.mark.parametrize(
    ("masked", "caught"),
    [(hides_gradients, {"gradients", "unbounded"}), (saturates, {"single step", "unbounded"})],
)
def test_a_model_that_masks_its_gradients_is_caught(digits, masked, caught):
    report = threats.sanity_report(masked, *digits, key=jax.random.key(2), epsilon=0.15)
    assert caught <= {check.name for check in report if check.verdict == "fail"}
    assert all(str(check).startswith(check.verdict) for check in report)


def test_an_attack_weaker_than_noise_fails_there(digits):
    report = threats.sanity_report(hides_gradients, *digits, key=jax.random.key(2), epsilon=0.45)
    assert {check.name: check.verdict for check in report}["larger ball"] == "pass"
    numbers = next(check for check in report if check.name == "noise").numbers
    assert numbers["noise"].count == 60


def test_radius_steps_and_labels_do_not_recompile(digits):
    variables, images, labels = digits
    traced = []

    def counted(variables, images):
        traced.append(images.shape)
        return network(variables, images)

    threats.evaluate(counted, variables, images, labels, ("fgsm",), RADII[:1], key=jax.random.key(0), check=False)
    once = len(traced)
    traced.clear()
    threats.evaluate(counted, variables, images, labels, ("fgsm",), (*RADII, 0.3), key=jax.random.key(0), check=False)
    assert len(traced) == once


def test_two_norms_with_radii_of_their_own(digits):
    radii = {"linf": (0.05,), "l2": (0.5,)}
    found = threats.evaluate(network, *digits, ("fgsm", "fgsm_l2"), radii, key=jax.random.key(0), check=False)
    assert set(found.success) == {("fgsm", 0.05), ("fgsm_l2", 0.5)}
    assert found.worst_case("l2", 0.5).count == 60


@pytest.mark.parametrize("task", ["binary", "multi-label"])
def test_other_tasks(digits, task):
    variables, images, labels = digits
    variables = variables | {"second": variables["second"][:, :2]}
    labels = labels % 2 if task == "binary" else jnp.stack([labels % 2, labels // 5], axis=-1)
    found = threats.evaluate(
        network, variables, images, labels, ("fgsm",), (0.1,), key=jax.random.key(0), task=task, check=False
    )
    assert found.robust_accuracy("fgsm", 0.1).value <= found.accuracy().value


def test_what_cannot_be_is_refused(digits):
    variables, images, labels = digits
    run = functools.partial(threats.evaluate, network, variables, key=jax.random.key(0))
    with pytest.raises(ValueError, match="equally many"):
        run(images, labels[:3], ("pgd",), RADII)
    with pytest.raises(ValueError, match="attack must be one of"):
        run(images, labels, ("pgdd",), RADII)
    with pytest.raises(ValueError, match="radii for l2"):
        run(images, labels, ("pgd_l2",), {"linf": RADII})
    with pytest.raises(ValueError, match="options must be of the attacks"):
        run(images, labels, ("fgsm",), RADII, options={"pgd": {"steps": 3}})
    with pytest.raises(ValueError, match="images_at_once must be at least 1"):
        run(images, labels, ("fgsm",), RADII, images_at_once=0)
