"""Rewinding restores bits, and each way restores what its name says."""

import functools

import jax
import numpy as np
import optax
import pytest

from lth import train
from lth.lottery import rewind
from tests.conftest import assert_same, make_problem, plain_mlp


def rate(step):
    return 0.1 * 0.5**step


@pytest.fixture(scope="module")
def states():
    tx = optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(rate))
    problem = make_problem(plain_mlp(), tx)
    early, _ = problem.train(problem.early, problem.mask, 3)
    late, _ = problem.train(early, problem.mask, 5)
    return problem, early, late


def schedule_position(state):
    return int(state.opt_state[1].count)


def moments(state):
    return state.opt_state[0].trace


def test_weight_rewinding_restores_every_bit(states):
    problem, early, late = states
    copy = jax.tree.map(np.array, early)
    back = rewind.weights(early, late)
    assert_same(jax.tree.map(np.asarray, back), copy)
    problem.train(back, problem.mask, 4)
    assert_same(jax.tree.map(np.asarray, early), copy)  # training cannot reach it


TABLE = [  # weights of, moments of, place of the schedule: the 8th step was at 7
    (rewind.weights, "early", "early", 3),
    (rewind.learning_rate, "late", "late", 3),
    (rewind.finetune, "late", "late", 7),
    (rewind.weights_low_rate, "early", "early", 7),
]


@pytest.mark.parametrize(("mode", "weights", "slots", "position"), TABLE)
def test_what_each_mode_takes_from_where(states, mode, weights, slots, position):
    _, early, late = states
    source = {"early": early, "late": late}
    state = mode(early, late)
    assert_same(state.params, source[weights].params)
    assert_same(moments(state), moments(source[slots]))
    assert schedule_position(state) == position
    assert int(state.step) == 3  # every mode retrains on the same batches


def test_learning_rate_rewinding_replays_the_rates_of_the_dense_run(states):
    _, early, late = states
    state = rewind.learning_rate(early, late)
    replayed = [rate(schedule_position(state) + i) for i in range(5)]
    assert replayed == [rate(step) for step in range(3, 8)]


def test_reinit_draws_fresh_weights_under_the_early_schedule(states):
    problem, early, late = states
    init = functools.partial(train.init_state, problem.model.init, problem.tx)
    state = rewind.make_reinit(init, jax.random.key(9))(early, late)
    assert_same(state.params, init(jax.random.key(9)).params)
    assert schedule_position(state) == 3
    assert not any(m.any() for m in jax.tree.leaves(moments(state)))


def test_moments_can_be_dropped_as_openlth_does(states):
    problem, early, late = states
    state = rewind.make_fresh_moments(rewind.weights, problem.tx)(early, late)
    assert_same(state.params, early.params)
    assert not any(m.any() for m in jax.tree.leaves(moments(state)))
    assert schedule_position(state) == 3


def test_adams_count_goes_with_its_moments_not_with_the_schedule():
    tx = optax.adam(optax.linear_schedule(0.1, 0.0, 10))
    problem = make_problem(plain_mlp(), tx)
    late, _ = problem.train(problem.early, problem.mask, 4)
    state = rewind.learning_rate(problem.early, late)
    assert int(state.opt_state[0].count) == 4
    assert int(state.opt_state[1].count) == 0


def test_injected_hyperparameters_are_schedules_too():
    tx = optax.inject_hyperparams(optax.sgd)(rate, momentum=0.9)
    problem = make_problem(plain_mlp(), tx)
    late, _ = problem.train(problem.early, problem.mask, 4)
    state = rewind.learning_rate(problem.early, late)
    assert int(state.opt_state.count) == 0
    assert_same(state.opt_state.inner_state, late.opt_state.inner_state)
