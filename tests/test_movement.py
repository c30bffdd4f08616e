"""Movement pruning: its schedules, its regulariser, and the guard of the soft form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth import data, masks, supermask, train
from lth.masks import schedules
from lth.models import Model
from tests.conftest import normal

# 1 - (1 - p)^3 at the quarters of the way.
PARTS = [0.0, 0.578125, 0.875, 0.984375, 1.0]


def matrices(*shapes) -> Model:
    """A product of matrices, all of whose weights are prunable."""

    def init(key):
        keys = jax.random.split(key, len(shapes))
        drawn = zip("abc", keys, shapes, strict=False)
        return {name: normal(k, shape) for name, k, shape in drawn}, {}

    def apply(params, stats, inputs, train, key):
        x = inputs.reshape(len(inputs), -1)
        return functools.reduce(jnp.matmul, params.values(), x), stats

    return Model(init, apply)


def everything(path, leaf):
    return True


def at(stats, step):
    return stats._replace(step=jnp.int32(step))


def test_the_densities_of_hard_movement_are_the_schedules():
    # 640 (1 - 0.9 part) for the parts above, all whole; from step 10 to 50.
    schedule = schedules.cubic(0.9, 10, 50, 1)
    learned = supermask.movement(matrices((32, 20)), schedule, prunable=everything)
    params, stats = learned.model.init(jax.random.key(0))
    params = params._replace(gates=params.weights)
    kept = {
        step: int(masks.count(learned.choose(params, at(stats, step), None)))
        for step in (0, 10, 20, 30, 40, 50, 90)
    }
    golden = {0: 640, 10: 640, 20: 307, 30: 136, 40: 73, 50: 64, 90: 64}
    assert kept == golden


def test_the_threshold_of_soft_movement_rises_along_the_schedule():
    learned = supermask.movement_soft(
        matrices((5, 1)), schedules.cubic(0.2, 10, 50, 1), prunable=everything
    )
    params, stats = learned.model.init(jax.random.key(0))
    assert np.array_equal(params.gates["a"], np.zeros((5, 1)))
    # One score between each threshold and the next: each step of them takes one.
    golden = [0.2 * part for part in PARTS]
    between = [*(np.add(golden[:-1], golden[1:]) / 2), 0.201]
    scores = np.log(np.divide(between, np.subtract(1, between)))
    params = params._replace(gates={"a": jnp.asarray(scores[:, None], jnp.float32)})
    for step, gone in ((0, 0), (10, 0), (20, 1), (30, 2), (40, 3), (50, 4), (90, 4)):
        mask = learned.choose(params, at(stats, step), None)["a"]
        assert mask.ravel().tolist() == [False] * gone + [True] * (5 - gone)
        share = float(learned.penalty(params, at(stats, step)))
        assert share == pytest.approx(np.mean(between) * PARTS[gone], abs=1e-6)


def test_the_penalty_is_a_mean_over_weights_or_over_matrices():
    def penalty(by_matrix):
        learned = supermask.movement_soft(
            matrices((4, 3), (3, 2)), 0.1, by_matrix=by_matrix, prunable=everything
        )
        params, stats = learned.model.init(jax.random.key(0))
        gates = {"a": jnp.zeros((4, 3)), "b": jnp.full((3, 2), jnp.log(3.0))}
        return float(learned.penalty(params._replace(gates=gates), stats))

    assert penalty(False) == pytest.approx((12 * 0.5 + 6 * 0.75) / 18)
    assert penalty(True) == pytest.approx((0.5 + 0.75) / 2)


def test_the_guard_keeps_its_share_of_each_matrix():
    learned = supermask.movement_soft(
        matrices((20, 10), (10, 4)), 0.5, at_least=0.1, prunable=everything
    )
    params, stats = learned.model.init(jax.random.key(0))
    low = jax.tree.map(lambda w: w - 100, params.weights)
    some = {**low, "b": params.weights["b"]}
    empty = learned.choose(params._replace(gates=low), stats, None)
    assert {k: int(m.sum()) for k, m in empty.items()} == {"a": 20, "b": 4}
    top = masks.keep_top(low, masks.ones(low, everything), 0.1, "layer")
    assert np.array_equal(empty["a"], top["a"])
    mask = learned.choose(params._replace(gates=some), stats, None)
    assert int(mask["a"].sum()) == 20
    assert np.array_equal(mask["b"], params.weights["b"] > 0)  # more than the guard


def test_soft_movement_finds_the_weights_that_matter():
    # Of 20 inputs the first 2 matter.
    schedule = schedules.cubic(0.3, 20, 200, 1)
    learned = supermask.movement_soft(matrices((20, 1)), schedule, prunable=everything)
    x = normal(jax.random.key(1), (256, 20))

    def loss(params, stats, batch, key):
        outputs, stats = learned.model.apply(params, stats, batch.inputs, True, key)
        value = jnp.mean(jnp.square(outputs[:, 0] - batch.targets))
        return value, (stats, {"loss": value})

    tx, sample = optax.adam(0.05), data.make_sample(64, 256)
    loss = supermask.penalised(loss, learned, 3.0)
    step = jax.jit(train.make_train(loss, sample, tx))
    state = train.init_state(learned.model.init, tx, jax.random.key(0))
    batches = data.Dataset(x, 2 * x[:, 0] - 2 * x[:, 1])
    nothing, key = masks.unmasked(state.params), jax.random.key(2)
    state, sums = step(state, nothing, batches, key, 300)
    assert int(sums["diverged"]) == train.NEVER
    kept = learned.choose(state.params, state.stats, None)["a"].ravel()
    assert kept.tolist() == [True, True] + [False] * 18


def test_a_threshold_that_stays_at_zero_is_refused():
    schedule = schedules.constant(0.0, 0, 10)
    with pytest.raises(ValueError, match=r"threshold is in \(0, 1\); got 0"):
        supermask.movement_soft(matrices((5, 1)), schedule)
