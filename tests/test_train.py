"""The training loop: dead stays dead, any split of a run equals the run, any model."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth import criteria, data, masks, models, train
from lth.analysis import batchnorm
from tests.conftest import assert_same, make_problem, plain_mlp


def half(problem):
    return masks.keep_top(criteria.magnitude(problem.early.params), problem.mask, 0.5)


def dead(tree, mask):
    """The values that a mask prunes."""
    picked = jax.tree.map(lambda w, m: None if m is None else w[~m], tree, mask)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(picked)])


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "clipped decay": optax.chain(
        optax.add_decayed_weights(0.1), optax.clip_by_global_norm(0.01), optax.adam(0.1)
    ),
    "rmsprop": optax.rmsprop(1e-2, initial_scale=1.0, momentum=0.5),
    "adagrad": optax.adagrad(0.1),
    "centred": optax.chain(optax.centralize(), optax.sgd(0.1, momentum=0.9)),
    "noisy": optax.chain(optax.add_noise(1.0, 0.5, jax.random.key(1)), optax.adam(0.1)),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), 2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_stays_dead_under_every_optimizer(name):
    tx = OPTIMIZERS[name]
    problem = make_problem(plain_mlp(), tx)
    dense, _ = problem.train(problem.early, problem.mask, 10)
    mask = half(problem)
    # From a dense state whose slots are full, and 10 = 3 + 7 steps on.
    state, _ = problem.train(dense, mask, 3)
    state, _ = problem.train(state, mask, 7)
    assert not dead(state.params, mask).any()
    leaves = jax.tree.leaves(state.opt_state, is_leaf=_is_params)
    slots = [leaf for leaf in leaves if _is_params(leaf)]
    assert slots or name == "sgd"
    for slot in slots:
        assert not dead(slot, mask).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def _is_params(tree):
    return isinstance(tree, dict) and "w0" in tree


def test_a_run_split_anywhere_equals_the_whole(adam):
    whole, _ = adam.train(adam.early, half(adam), 40)
    for first in (1, 7, 13):  # an epoch is 6.25 batches: never a boundary
        part, _ = adam.train(adam.early, half(adam), first)
        rest, _ = adam.train(part, half(adam), 40 - first)
        assert_same(rest, whole)


def test_one_program_serves_all_masks_and_lengths(adam):
    adam.train(adam.early, adam.mask, 2)
    before = len(adam.traces)
    state, _ = adam.train(adam.early, half(adam), 3)
    adam.train(state, adam.mask, 29)
    assert len(adam.traces) == before == 1


def test_training_leaves_its_input_whole(adam):
    copy = jax.tree.map(lambda x: np.array(x), adam.early)
    adam.train(adam.early, adam.mask, 5)
    assert_same(jax.tree.map(np.asarray, adam.early), copy)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_its_restatement_in_numpy(momentum):
    problem = make_problem(plain_mlp(), optax.sgd(0.3, momentum=momentum))
    mask, steps = half(problem), 12
    state, sums = problem.train(problem.early, mask, steps)
    w = {k: np.asarray(v, np.float64) for k, v in problem.early.params.items()}
    m = {
        k: np.ones_like(v) if mask[k] is None else np.asarray(mask[k])
        for k, v in w.items()
    }
    w = {k: v * m[k] for k, v in w.items()}
    velocity = {k: np.zeros_like(v) for k, v in w.items()}
    order, _ = jax.random.split(jax.random.key(1))
    total = 0.0
    for step in range(steps):
        batch = data.make_sample(8, 50)(order, step, problem.data)
        x, y = np.asarray(batch.inputs) / 255.0, np.asarray(batch.targets)
        hidden = np.maximum(x @ w["w0"] + w["b0"], 0)
        logits = hidden @ w["w1"] + w["b1"]
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        total += -np.log(p[np.arange(8), y]).mean()
        p[np.arange(8), y] -= 1
        back = (p / 8) @ w["w1"].T * (hidden > 0)
        grads = {
            "w1": hidden.T @ p / 8,
            "b1": p.mean(0),
            "w0": x.T @ back,
            "b0": back.sum(0),
        }
        for k in w:
            velocity[k] = momentum * velocity[k] + grads[k] * m[k]
            w[k] = (w[k] - 0.3 * velocity[k]) * m[k]
    for k in w:
        np.testing.assert_allclose(state.params[k], w[k], atol=2e-6)
    assert float(sums["loss"]) == pytest.approx(total, rel=1e-5)


class Noisy(nn.Module):
    """Batch norm and dropout: state that is not trained, and noise."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def nnx_model():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 6, rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

    return models.from_nnx(Net)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_batch_norm_and_dropout_are_carried(kind):
    model = models.from_linen(Noisy(), (3,)) if kind == "linen" else nnx_model()
    problem = make_problem(model, optax.adam(1e-2))
    mask = half(problem)
    whole, _ = problem.train(problem.early, mask, 9)
    part, _ = problem.train(problem.early, mask, 4)
    rest, _ = problem.train(part, mask, 5)
    assert_same(rest, whole)
    means = [
        np.asarray(v)
        for p, v in jax.tree_util.tree_leaves_with_path(whole.stats)
        if "mean" in masks.name(p)
    ]
    assert means
    assert all(m.any() for m in means)
    assert len(masks.paths(mask)) == 2  # two kernels; no bias, no norm
    assert not dead(whole.params, mask).any()
    inputs = np.ones((4, 3), np.float32)
    a, _ = model.apply(whole.params, whole.stats, inputs, False, None)
    b, _ = model.apply(whole.params, whole.stats, inputs, False, None)
    assert_same(a, b)  # no noise in evaluation
    one, _ = model.apply(whole.params, whole.stats, inputs, True, jax.random.key(0))
    two, _ = model.apply(whole.params, whole.stats, inputs, True, jax.random.key(1))
    assert np.abs(np.asarray(one) - np.asarray(two)).max() > 0


def test_evaluation_is_the_mean_over_all_examples_whatever_the_chunk():
    rng = np.random.default_rng(0)
    examples = {"x": rng.normal(size=(23,)).astype(np.float32)}

    def measure(params, stats, batch):
        return {"square": batch["x"] ** 2 * params}

    for chunk in (1, 5, 23, 100):
        evaluate = jax.jit(train.make_evaluate(measure, chunk))
        value = evaluate(jnp.float32(2), {}, examples)["square"]
        assert float(value) == pytest.approx(2 * (examples["x"] ** 2).mean(), rel=1e-5)


def test_the_first_loss_that_is_not_finite_is_named():
    problem = make_problem(plain_mlp(), optax.sgd(1e30))
    _, sums = problem.train(problem.early, problem.mask, 6)
    assert 0 < int(sums["diverged"]) < 6
    calm = make_problem(plain_mlp(), optax.sgd(0.1))
    assert int(calm.train(calm.early, calm.mask, 6)[1]["diverged"]) == train.NEVER


def test_fit_measures_at_its_stops(adam):
    seen = []
    fit = functools.partial(
        train.fit,
        train=adam.train,
        measures={"test": lambda state: {"step": state.step * 2}},
        watch=lambda state, record: seen.append(int(record["step"])),
    )
    state, metrics = fit(adam.early, adam.mask, stops=[10, 4, 10])
    assert seen == [4, 10]
    np.testing.assert_array_equal(metrics["step"], [4, 10])
    np.testing.assert_array_equal(metrics["test_step"], [8, 20])
    assert metrics["diverged"] == train.NEVER
    later, metrics = fit(state, adam.mask, stops=[4, 10, 12])
    np.testing.assert_array_equal(metrics["step"], [12])
    whole, _ = adam.train(adam.early, adam.mask, 12)
    assert_same(later, whole)


def test_batch_norm_averages_are_taken_anew():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = x.reshape(len(x), -1)
            return nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)

    model = models.from_linen(Normed(), (3,))
    rng = np.random.default_rng(0)
    images = rng.normal(3.0, 2.0, (64, 3)).astype(np.float32)
    dataset = data.Dataset(jnp.asarray(images), jnp.zeros(64, jnp.int32))
    sample = data.make_sample(64, 64)  # every batch is the whole
    state = train.init_state(model.init, optax.sgd(0.1), jax.random.key(0))
    key = jax.random.key(1)
    loss, _ = train.classification(model.apply)
    found = batchnorm.reestimate(loss, sample, state, dataset, key, 30)
    (averages,) = found.stats["batch_stats"].values()
    np.testing.assert_allclose(averages["mean"], images.mean(0), rtol=1e-5)
    np.testing.assert_allclose(averages["var"], images.var(0), rtol=1e-4)
    assert_same(found._replace(stats=state.stats), state)
