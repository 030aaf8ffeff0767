"""Auto-PGD: every iterate and step against a transcription of the paper, its strength against PGD, targets, tasks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets

from threats import adversarial
from threats.adversarial import autopgd


class Reference:
    """Algorithm 1 of Croce and Hein (2020) for one image, in float64; x_0 is the clean image.

    close: the least difference of two values, or of a gradient's entry from 0, that decided something.
    second: how often the second condition halved the step where the first one would not have.
    """

    def __init__(self, norm, epsilon, centre, climbed):
        self.norm, self.epsilon, self.centre, self.climbed = norm, epsilon, centre, climbed
        self.close, self.second = np.inf, 0

    def project(self, x):
        d = x - self.centre
        if self.norm == "linf":
            d = np.clip(d, -self.epsilon, self.epsilon)
        elif np.linalg.norm(d) > self.epsilon:
            d = d * self.epsilon / np.linalg.norm(d)
        return np.clip(self.centre + d, 0.0, 1.0)

    def step(self, x, size):
        gradient = self.climbed(x)[1]
        if self.norm == "l2":
            return self.project(x + size * gradient / np.linalg.norm(gradient))
        self.close = min(self.close, np.abs(gradient).min())
        return self.project(x + size * np.sign(gradient))

    def exceeds(self, a, b):
        self.close = min(self.close, abs(a - b)) if a != b else self.close
        return a > b

    def run(self, n):
        """x_k and eta_k for k < n, as they are when x_k is moved."""
        share, period, w = 0.22, 0.22, [0]
        while share < 1:
            w.append(int(np.ceil(round(share * n, 9))))
            period = max(period - 0.03, 0.06)
            share += period
        eta = [2 * self.epsilon, 2 * self.epsilon]
        x = [self.centre, self.step(self.centre, eta[0])]
        f = [self.climbed(each)[0] for each in x]
        top = x[int(self.exceeds(f[1], f[0]))]
        highest = [f[0], max(f)]
        for k in range(1, n):
            z = self.step(x[k], eta[k])
            x.append(self.project(x[k] + 0.75 * (z - x[k]) + 0.25 * (x[k] - x[k - 1])))
            f.append(self.climbed(x[-1])[0])
            if self.exceeds(f[-1], highest[-1]):
                top = x[-1]
            highest.append(max(highest[-1], f[-1]))
            eta.append(eta[k])
            if k in w[1:]:
                last = w[w.index(k) - 1]
                rises = sum(self.exceeds(f[i + 1], f[i]) for i in range(last, k))
                first = rises < 0.75 * (k - last)
                second = eta[last] == eta[k] and highest[last] == highest[k]
                self.second += second and not first
                if first or second:
                    eta[-1], x[-1], f[-1] = eta[k] / 2, top, highest[-1]
        return np.array(x[:n]), np.array(eta[:n])


# Softmax regression. sign -1: the cross-entropy with soft labels is climbed down to its minimum within the ball, a
# convex problem that every step overshoots. height: a narrow peak at the clean image, which no later point reaches.
@pytest.mark.parametrize(
    ("norm", "epsilon", "seed", "sign", "height"),
    [("linf", 0.1, 51, -1.0, 0.0), ("l2", 0.2, 51, -1.0, 0.0), ("l2", 0.3, 38, 1.0, 5.0)],
)
def test_every_iterate_and_step_is_that_of_algorithm_1(monkeypatch, norm, epsilon, seed, sign, height):
    steps, width = 20, 0.02
    draws = np.random.default_rng(seed)
    weights, images = 5 * draws.normal(size=(6, 4)), draws.uniform(0.3, 0.7, (4, 6))
    nearby = images + draws.uniform(-0.05, 0.05, (4, 6))
    soft = np.eye(4) if height else np.array(jax.nn.softmax(nearby @ weights))

    def climbed(row, x):
        exponentials = np.exp(x @ weights - (x @ weights).max())
        p = exponentials / exponentials.sum()
        peak = height * np.exp(-((x - images[row]) @ (x - images[row])) / width**2)
        slope = sign * weights @ (p - soft[row]) - 2 * peak * (x - images[row]) / width**2
        return -sign * soft[row] @ np.log(p) + peak, slope

    def apply(variables, x):
        peak = height * jnp.exp(-jnp.sum((x - variables["images"]) ** 2, axis=1) / width**2)
        return jnp.concatenate([x @ variables["weights"], peak[:, None]], axis=1)

    def objective(logits, labels):
        return logits[:, 4] - sign * jnp.sum(variables["soft"] * jax.nn.log_softmax(logits[:, :4]), axis=1)

    references = [Reference(norm, epsilon, images[row], functools.partial(climbed, row)) for row in range(4)]
    expected = [np.stack(of_rows, axis=1) for of_rows in zip(*(r.run(steps) for r in references), strict=True)]
    assert min(r.close for r in references) > 1e-5, "nothing may hang on float32"
    assert len({tuple(etas) for etas in expected[1].T}) > 1 or all(r.second for r in references)

    seen, look = [], autopgd._look

    def spy(state, point, now):
        state, point = look(state, point, now)
        jax.debug.callback(lambda *pair: seen.append(pair), point.x, state.step, ordered=True)
        return state, point

    monkeypatch.setattr(autopgd, "_look", spy)
    variables = jax.tree.map(np.float32, {"weights": weights, "images": images, "soft": soft})
    attack = functools.partial(autopgd.apgd, apply, key=None, random_start=False, norm=norm, objective=objective)
    jax.jit(functools.partial(attack, steps=steps))(
        variables, variables["images"], np.zeros(4, np.int32), epsilon=epsilon
    )
    jax.effects_barrier()
    for ours, theirs in zip(zip(*seen, strict=True), expected, strict=True):
        np.testing.assert_allclose(np.stack(ours), theirs, atol=1e-5, rtol=0)


def test_checkpoints_are_the_papers_and_few_steps_have_few():
    assert autopgd.checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert autopgd.checkpoints(7) == [0, 2, 3, 4, 5, 6]
    assert autopgd.checkpoints(1) == [0]


def cnn(variables, images):
    features = jax.lax.conv_general_dilated(
        images, variables["first"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(features).reshape(images.shape[0], -1) @ variables["last"]


def mlp(activation, variables, images):
    return activation(images.reshape(images.shape[0], -1) @ variables["first"]) @ variables["last"]


MODELS = {
    "cnn": (cnn, (3, 3, 1, 16), 256),
    "relu": (functools.partial(mlp, jax.nn.relu), (64, 64), 64),
    "tanh": (functools.partial(mlp, jnp.tanh), (64, 32), 32),
}


@functools.cache
def trained(name):
    """A model of real digits that is right on about nine in ten of the images returned, which it has not seen."""
    images, labels = datasets.load_digits(return_X_y=True)
    images, labels = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels.astype(np.int32)
    apply, first, width = MODELS[name]
    draws, optimizer = np.random.default_rng(0), optax.adam(0.02)
    shapes = {"first": first, "last": (width, 10)}
    variables = {
        key: (draws.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)
        for key, shape in shapes.items()
    }

    def loss(variables):
        logits = apply(variables, images[:1400])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[:1400]).mean()

    def update(carry, _):
        variables, state = carry
        change, state = optimizer.update(jax.grad(loss)(variables), state)
        return (optax.apply_updates(variables, change), state), None

    start = (variables, optimizer.init(variables))
    with jax.numpy_dtype_promotion("standard"):
        variables = jax.jit(lambda start: jax.lax.scan(update, start, length=100)[0][0])(start)
    return apply, variables, images[1400:1600], labels[1400:1600]


@pytest.mark.parametrize("name", MODELS)
def test_never_weaker_than_pgd_of_as_many_gradients(name):
    """Counted over two radii of both norms: one image more or less is the luck of its start."""
    apply, variables, images, labels = trained(name)
    images, labels = np.concatenate([images, images]), np.concatenate([labels, labels])

    def robust(name, radii):
        attack = jax.jit(functools.partial(adversarial.ATTACKS[name].fn, apply, steps=20))
        radius = np.repeat(np.float32(radii), len(images) // 2)
        return int(np.sum(~attack(variables, images, labels, key=jax.random.key(0), epsilon=radius).success))

    ours = robust("apgd_ce", (0.05, 0.1)) + robust("apgd_ce_l2", (0.3, 0.6))
    theirs = robust("pgd", (0.05, 0.1)) + robust("pgd_l2", (0.3, 0.6))
    assert 200 < ours <= theirs < 600


def test_targets_reach_what_the_likeliest_one_hides():
    """Class 1 is near but never reached; class 2 is far behind and reached on the way to it alone."""

    def model(variables, x):
        near = 0.5 + 0.4 * jnp.tanh(20.0 * (x[:, 0] - 0.5))
        far = 3.0 * (x[:, 1] - 0.5) - 5.0 * (x[:, 0] - 0.5)
        return jnp.stack([jnp.ones_like(near), near, far, far - 9.0], axis=1)

    images, labels = jnp.full((2, 2), 0.5), jnp.array([0, 0])
    attack = functools.partial(autopgd.apgd, model, None, images, labels, key=jax.random.key(0), epsilon=0.2, steps=10)
    one, two, all_three = (attack(targets=count) for count in (1, 2, 9))
    assert not one.success.any()
    assert two.success.all()
    assert all_three.success.all()
    given = attack(targets=jnp.array([[1, 1], [2, 2]]))
    np.testing.assert_array_equal(given.images, two.images)


def test_more_restarts_never_help_the_model():
    apply, variables, images, labels = trained("cnn")
    attack = functools.partial(autopgd.apgd, apply, key=jax.random.key(2), steps=4)

    def loss(restarts):
        compiled = jax.jit(functools.partial(attack, restarts=restarts))
        result = compiled(variables, images[:40], labels[:40], epsilon=0.05)
        return 1e3 * np.asarray(result.success) + np.asarray(result.loss)

    assert np.all(loss(3) >= loss(1))
    assert np.any(loss(3) > loss(1))


def test_a_bfloat16_model_is_attacked_in_float32():
    apply, variables, images, labels = trained("cnn")
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    attack = jax.jit(functools.partial(autopgd.apgd, lambda v, x: apply(v, x.astype(jnp.bfloat16)), steps=5, targets=2))
    found = attack(narrow, images[:20], labels[:20], key=jax.random.key(0), epsilon=0.1)
    assert (found.images.dtype, found.loss.dtype) == (jnp.float32, jnp.float32)
    assert found.success.sum() > 5


def test_epsilon_labels_and_weights_do_not_recompile(problem):
    p = problem()
    traces = []

    def counted(variables, images):
        traces.append(images.shape)
        return p.apply(variables, images)

    attack = jax.jit(functools.partial(adversarial.ATTACKS["apgd_t"].fn, counted, steps=3, restarts=2))
    attack(p.variables, p.images, p.labels, key=jax.random.key(0), epsilon=0.1)
    count = len(traces)
    assert count == 3, "the clean images, one gradient, the last iterate"
    variables = jax.tree.map(lambda x: 2 * x, p.variables)
    attack(variables, p.images, p.targets, key=jax.random.key(1), epsilon=0.2)
    assert len(traces) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 2, "random_start": False}, "restarts must be 1 without random_start"),
        ({"key": None}, "key must be a jax.random.key"),
        ({"epsilon": -0.1}, "epsilon must be 0 or more, got -0.1"),
        ({"images": np.full((6, 8, 8, 3), 2.0, np.float32)}, r"images must be in \[0, 1\]"),
        ({"targets": 0}, "the number of targets must be at least 1, got 0"),
        ({"targets": np.zeros(6, np.int32)}, r"targets must be a number or of shape \(targets, 6\), got \(6,\)"),
        ({"targets": 2, "targeted": True}, "targets must be None with targeted=True"),
        ({"targets": 2, "towards": lambda *a: jnp.float32(0)}, r"towards must return one value per image, \(6,\)"),
        ({"objective": lambda logits, labels: logits.sum()}, r"objective must return one value per image, \(6,\)"),
    ],
)
def test_bad_options_are_named(problem, options, message):
    p = problem()
    arguments = {"images": p.images, "labels": p.labels, "key": jax.random.key(0), "epsilon": 0.1, "steps": 1} | options
    with pytest.raises(ValueError, match=message):
        autopgd.apgd(p.apply, p.variables, **arguments)
