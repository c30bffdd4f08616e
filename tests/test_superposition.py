"""Superposed masks: the mixture, the entropy's gradient, and tasks planted in them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth import data, masks, models, supermask, train
from lth.supermask import superposition
from tests.conftest import assert_same, plain_mlp

CLASSES = 3
MLP = plain_mlp((4, 7, 5))
FINDERS = [superposition.one_shot, superposition.binary]


def two_d(path, leaf):
    return leaf.ndim == 2


def linear(params, inputs):
    return inputs @ params["w"] + params["b"][None]


def planted(tasks, task, batch):
    """Weights, masks and inputs: every mask has its block of inputs, one of which says
    the class, where the other blocks say nothing."""
    w = 5 * np.tile(np.eye(CLASSES, dtype=np.float32), (tasks, 1))
    blocks = np.repeat(np.eye(tasks, dtype=bool), CLASSES, axis=1)
    stacked = {"w": np.repeat(blocks[:, :, None], CLASSES, axis=2), "b": None}
    inputs = np.ones((batch, tasks, CLASSES), np.float32)
    inputs[:, task] = 2 * np.eye(CLASSES)[np.arange(batch) % CLASSES]
    return (
        {"w": w, "b": jnp.zeros(CLASSES)},
        stacked,
        jnp.array(inputs.reshape(batch, -1)),
    )


def mlp(params, inputs):
    return MLP.apply(params, {}, inputs, False, None)[0]


def a_superposition(tasks=6, seed=0):
    """Weights of two layers, random masks of them, and inputs."""
    random = np.random.default_rng(seed)
    shapes = {"w0": (4, 7), "w1": (7, 5)}
    weights: dict[str, Any] = {
        n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()
    }
    stacked: dict[str, Any] = {
        n: random.random((tasks, *s)) < 0.5 for n, s in shapes.items()
    }
    biases = {"b0": np.zeros(7, np.float32), "b1": np.zeros(5, np.float32)}
    inputs = random.normal(size=(8, 4)).astype(np.float32)
    return weights | biases, stacked | dict.fromkeys(biases), jnp.asarray(inputs)


def of_task(stacked, task):
    return jax.tree.map(lambda m: m[task], stacked)


def test_a_mixture_of_one_is_the_network_of_that_task():
    weights, stacked, inputs = a_superposition()
    for task in range(6):
        alphas = jnp.asarray(np.eye(6, dtype=np.float32)[task])
        found = superposition.mixed(weights, stacked, alphas)
        own = masks.apply(weights, of_task(stacked, task))
        jax.tree.map(np.testing.assert_array_equal, found, own)
        np.testing.assert_array_equal(mlp(found, inputs), mlp(own, inputs))


def test_a_mixture_is_linear_in_its_masks():
    weights = {"w": jnp.array([[2.0], [-4.0]]), "b": jnp.array([7.0])}
    stacked = {"w": jnp.array([[[1], [0]], [[1], [1]]], bool), "b": None}
    found = superposition.mixed(weights, stacked, jnp.array([0.25, 0.75]))
    assert found["w"].tolist() == [[2], [-3]]
    assert found["b"].tolist() == [7]


def test_entropy():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]))
    expected = (1.5 * np.log(2) + np.log(3)) / 2
    assert superposition.entropy(logits) == pytest.approx(expected, rel=1e-6)
    assert superposition.entropy(jnp.array([[0.0, 1e4]])) == 0  # sure, and not NaN


def test_the_gradient_agrees_with_finite_differences():
    weights, stacked, inputs = a_superposition()

    def smooth(params, inputs):
        hidden = jnp.tanh(inputs @ params["w0"] + params["b0"][None])
        return hidden @ params["w1"] + params["b1"][None]

    def entropy(alphas):
        params = superposition.mixed(weights, stacked, alphas)
        return float(superposition.entropy(smooth(params, inputs)))

    alphas = jnp.array([0.3, 0.1, 0.0, 0.2, 0.25, 0.15])
    found = superposition.gradient(
        smooth, weights, stacked, alphas=alphas, inputs=inputs
    )
    for i in range(6):
        step = jnp.zeros(6).at[i].set(0.02)
        slope = (entropy(alphas + step) - entropy(alphas - step)) / 0.04
        assert float(found[i]) == pytest.approx(slope, abs=5e-4)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("find", FINDERS)
def test_the_planted_task_is_found(find, tasks, batch):
    for task in range(tasks):
        found = find(linear, *planted(tasks, task, batch))
        assert found.dtype == jnp.int32
        assert int(found) == task


@jax.jit
def slopes(weights, stacked, inputs):
    tasks = len(stacked["w0"])
    alphas = jnp.full(tasks, 1 / tasks)
    return superposition.gradient(mlp, weights, stacked, alphas=alphas, inputs=inputs)


@pytest.mark.parametrize("tasks", [5, 6, 11])
def test_binary_is_repeated_halving(tasks):
    found, expected = [], []
    for seed in range(5):
        weights, stacked, inputs = a_superposition(tasks, seed)
        left = np.arange(tasks)
        while len(left) > 1:  # with the masks that leave really gone
            some = jax.tree.map(lambda m, left=left: m[left], stacked)
            order = np.argsort(slopes(weights, some, inputs))
            left = left[np.sort(order[: -(-len(left) // 2)])]
        expected.append(left[0])
        found.append(int(superposition.binary(mlp, weights, stacked, inputs)))
    assert found == expected
    assert len(set(found)) > 1


@pytest.mark.parametrize("find", FINDERS)
def test_batches_can_be_mapped(find):
    weights, stacked, _ = a_superposition()
    batches = np.random.default_rng(9).normal(size=(12, 2, 4)).astype(np.float32)
    one = functools.partial(find, mlp, weights, stacked)
    each = [int(one(inputs)) for inputs in batches]
    assert len(set(each)) > 1
    assert jax.jit(jax.vmap(one))(batches).tolist() == each
    assert jax.lax.map(one, batches, batch_size=5).tolist() == each


class Learned(NamedTuple):
    """Three orders of the pixels of digits, learned over one frozen network."""

    model: models.Model
    key: jax.Array
    states: train.TrainState  # of all tasks
    stacked: masks.Mask
    start: masks.Mask
    test: Any  # [t, ...]


@pytest.fixture(scope="module")
def digits() -> Learned:
    splits = data.load("digits", None, validation=180, split_seed=0)
    module = models.MLP((64, 64), classes=40, initialiser="signed_constant")
    model = models.standardized(models.from_linen(module, (64,)), 5, 6)
    learned = supermask.edge_popup(model, 0.5, every=3)
    loss, _ = train.classification(learned.model.apply)
    tx = optax.rmsprop(1e-3)
    sample = data.make_sample(60, len(splits.train.targets))
    step = train.make_train(loss, sample, tx)
    random = np.random.RandomState(0)
    orders = np.stack([random.permutation(64) for _ in range(3)])

    def in_order(part, order):
        return data.Dataset(part.inputs.reshape(-1, 64)[:, order], part.targets)

    key, *keys = jax.random.split(jax.random.key(0), 4)
    early = train.init_state(learned.model.init, tx, key)

    @jax.jit
    def learn(key, order):
        start = early._replace(params=learned.model.init(key)[0])
        part = in_order(jax.tree.map(jnp.asarray, splits.train), order)
        state, _ = step(start, masks.unmasked(start.params), part, key, 300)
        return state, *(learned.choose(s.params, s.stats, key) for s in (state, start))

    states, stacked, start = jax.lax.map(
        lambda each: learn(*each), (jnp.stack(keys), jnp.asarray(orders))
    )
    test = jax.tree.map(
        lambda *parts: jnp.stack(parts), *(in_order(splits.test, o) for o in orders)
    )
    return Learned(model, key, states, stacked, start, test)


def test_all_tasks_have_the_same_frozen_weights(digits):
    weights, _ = digits.model.init(digits.key)
    for task in range(3):
        assert_same(of_task(digits.states.stats.weights, task), weights)
    for mask in (digits.start, digits.stacked):  # and scores of their own
        assert masks.overlap(of_task(mask, 0), of_task(mask, 1)) < 0.4


def test_orders_of_pixels_are_told_apart_and_none_is_forgotten(digits):
    weights, _ = digits.model.init(digits.key)

    def network(params, inputs):
        return digits.model.apply(params, {}, inputs, False, None)[0]

    for task in range(3):
        image, label = of_task(digits.test, task)
        own = masks.apply(weights, of_task(digits.stacked, task))
        assert jnp.mean(network(own, image).argmax(-1) == label) > 0.8
        for find in FINDERS:
            for inputs in (image[:16], image[16:32]):
                assert int(find(network, weights, digits.stacked, inputs)) == task


WEIGHTS = {"w": jnp.ones((4, 3)), "v": jnp.ones((3, 2)), "b": jnp.ones(3)}


def stack(w, v):
    return {"w": jnp.ones(w, bool), "v": jnp.ones(v, bool), "b": None}


@pytest.mark.parametrize(
    ("stacked", "alphas", "message"),
    [
        (dict.fromkeys(WEIGHTS), jnp.ones(0), "no masks: a superposition is of one"),
        (stack((0, 4, 3), (0, 3, 2)), jnp.ones(0), "no masks"),
        (
            stack((5, 4, 3), (5, 3, 2)),
            jnp.ones(4) / 4,
            r"5 masks take alphas of shape \(5,\); got \(4,\)",
        ),
        (stack((5, 4, 3), (5, 3, 2)), jnp.float32(1), r"got \(\)"),
        (
            stack((5, 4, 3), (3, 2)),
            jnp.ones(5) / 5,
            r"the masks of v, of shape \(3, 2\)",
        ),
        (
            stack((5, 4, 3), (6, 3, 2)),
            jnp.ones(5) / 5,
            "every leaf has a mask for each task; there are {'v': 6, 'w': 5}",
        ),
    ],
)
def test_what_cannot_be_superposed_is_refused(stacked, alphas, message):
    with pytest.raises(ValueError, match=message):
        superposition.mixed(WEIGHTS, stacked, alphas)


@pytest.mark.parametrize("find", FINDERS)
def test_tasks_are_not_sought_among_no_masks(find):
    with pytest.raises(ValueError, match="no masks"):
        find(linear, {"w": jnp.ones((4, 3))}, {"w": None}, jnp.ones((1, 4)))
