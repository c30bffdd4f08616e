"""Scores of how weights moved, against hand numbers and NumPy restatements."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lth import data, masks, train
from lth.criteria import history
from lth.lottery import rewind
from tests.conftest import assert_same, make_problem, plain_mlp

INF = np.inf
INITIAL = np.array([[1.0, -2.0], [0.5, -0.1], [0.4, 3.0]], np.float32)
FINAL = np.array([[2.0, 1.0], [0.25, -0.3], [-0.6, 4.0]], np.float32)
BY_HAND = {
    "large_final": [2, 1, 0.25, 0.3, 0.6, 4],
    "small_final": [-2, -1, -0.25, -0.3, -0.6, -4],
    "large_init": [1, 2, 0.5, 0.1, 0.4, 3],
    "small_init": [-1, -2, -0.5, -0.1, -0.4, -3],
    "magnitude_increase": [1, -1, -0.25, 0.2, 0.2, 1],
    "movement": [1, 3, 0.25, 0.2, 1, 1],
    # Ranks of |initial| are 3 4 2 0 1 5, of |final| 4 3 0 1 2 5, each of six.
    "large_init_large_final": np.array([3, 3, 0, 0, 1, 5]) / 6,
    "small_init_small_final": np.array([1, 1, 3, 4, 3, 0]) / 6,
    "large_final_same_sign": [2, -INF, 0.25, 0.3, -INF, 4],
    "large_final_diff_sign": [-INF, 1, -INF, -INF, 0.6, -INF],
    "magnitude_increase_same_sign": [1, -INF, -0.25, 0.2, -INF, 1],
    "magnitude_increase_diff_sign": [-INF, -1, -INF, -INF, 0.2, -INF],
}
NAMES = list(BY_HAND)


@pytest.mark.parametrize("name", NAMES)
def test_scores_by_hand(name):
    tree = getattr(history, name)({"w": INITIAL}, {"w": FINAL})
    expected = np.reshape(BY_HAND[name], INITIAL.shape)
    np.testing.assert_allclose(tree["w"], expected, rtol=1e-6)


def restated(name, i, f):
    """The score of one weight, and for ranks how many of the leaf rank below it."""
    size_i, size_f = np.abs(i), np.abs(f)
    if name == "large_init_large_final":
        return np.minimum(rank(np.where(f == 0, 0, size_i)), rank(size_f))
    if name == "small_init_small_final":
        return np.minimum(rank(-np.where(f == 0, 0, size_i)), rank(-size_f))
    same = np.sign(i) == np.sign(f)
    base, _, sign = name.partition("_same")
    base, _, other = base.partition("_diff")
    score = {
        "large_final": size_f,
        "small_final": -size_f,
        "large_init": size_i,
        "small_init": -size_i,
        "magnitude_increase": size_f - size_i,
        "movement": np.abs(i - f),
    }[base]
    if sign:
        return np.where(same, score, -INF)
    return np.where(same, -INF, score) if other else score


def rank(values):
    flat = values.ravel()
    index = np.arange(flat.size)
    below = [
        np.sum((flat < v) | ((flat == v) & (index > at))) for at, v in enumerate(flat)
    ]
    return np.reshape(below, values.shape) / flat.size


floats = st.floats(-10, 10, width=16)
shapes = st.sampled_from([(1,), (4, 6), (3, 2, 5)])  # few: each is compiled
pairs = shapes.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=floats)] * 2)
)


@pytest.mark.parametrize("name", NAMES)
@given(pairs)
def test_scores_are_as_restated_and_know_no_sign(name, pair):
    i, f = pair
    score = np.asarray(getattr(history, name)({"w": i}, {"w": f})["w"])
    assert score.shape == i.shape
    assert score.dtype == np.float32
    assert np.isfinite(score).all() or name.endswith("_sign")
    assert not np.isnan(score).any()
    np.testing.assert_allclose(score, restated(name, i, f), rtol=1e-6)
    flip = np.where(np.arange(i.size).reshape(i.shape) % 2, -1, 1).astype(np.float32)
    flipped = getattr(history, name)({"w": i * flip}, {"w": f * flip})["w"]
    np.testing.assert_array_equal(flipped, score)


def common_percentile(scores, kept):
    """The weights above one percentile in both scores: found by bisection, or None."""
    size = scores[0].size
    order = [np.argsort(s, kind="stable") for s in scores]

    def above(cut):
        keep = np.ones(size, bool)
        for o in order:
            keep[o[:cut]] = False
        return keep

    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if above(middle).sum() > kept else (low, middle)
    return above(low) if above(low).sum() == kept else None


@pytest.mark.parametrize("size", [1, 7, 200])
def test_the_lower_rank_is_the_common_percentile(size):
    rng = np.random.default_rng(size)
    i, f = rng.normal(size=(2, size, 1)).astype(np.float32)
    mask, met = {"w": jnp.ones((size, 1), bool)}, 0
    for name, sign in (("large_init_large_final", 1), ("small_init_small_final", -1)):
        scores = getattr(history, name)({"w": i}, {"w": f})
        for kept in range(1, size + 1):
            expected = common_percentile(
                [sign * np.abs(x).ravel() for x in (i, f)], kept
            )
            if expected is None:  # a step of the percentile may prune two weights
                continue
            new = masks.keep_top(scores, mask, kept / size, "layer")
            np.testing.assert_array_equal(np.ravel(new["w"]), expected)
            met += 1
    assert met > size / 2


@pytest.mark.parametrize("name", ["large_init_large_final", "small_init_small_final"])
def test_ranks_are_among_the_weights_left_whatever_became_of_the_others(name):
    rng = np.random.default_rng(0)
    i, f = rng.normal(size=(2, 60)).astype(np.float32)
    alive = rng.random(60) < 0.4
    f[~alive] = 0
    score = np.asarray(getattr(history, name)(i, f))[alive]
    np.testing.assert_array_equal(score, getattr(history, name)(i * alive, f)[alive])
    alone = np.asarray(getattr(history, name)(i[alive], f[alive]))
    np.testing.assert_array_equal(
        np.argsort(score, kind="stable"), np.argsort(alone, kind="stable")
    )


def test_nan_is_passed_on_for_keep_top_to_refuse():
    nan, number = np.float32([1, np.nan]), np.float32([1, 2])
    for name in NAMES:
        score = getattr(history, name)(nan, nan)
        assert np.isnan(score).tolist() == [False, True]
    for one, other in ((nan, number), (number, nan)):
        score = history.large_init_large_final(one, other)
        assert np.isnan(score).tolist() == [False, True]


def test_excluded_weights_may_be_scored_as_the_authors_code_does():
    score = history.magnitude_increase_same_sign(INITIAL, FINAL, excluded=0.0)
    np.testing.assert_allclose(np.ravel(score), [1, 0, -0.25, 0.2, 0, 1], rtol=1e-6)
    score = history.magnitude_increase_diff_sign(INITIAL, FINAL, excluded=0.0)
    np.testing.assert_allclose(np.ravel(score), [0, -1, 0, 0, 0.2, 0], rtol=1e-6)


def test_masks_of_the_sign_alone():
    keep = np.array([[True, True], [False, True], [True, False]])
    initial, final = ({"w": x, "b": np.zeros(2)} for x in (INITIAL, FINAL))
    same = history.same_sign_mask(initial, final, {"w": keep, "b": None})
    diff = history.diff_sign_mask(initial, final, {"w": keep, "b": None})
    assert same["b"] is None
    assert np.asarray(same["w"]).tolist() == [[True, False], [False, True], [False] * 2]
    assert np.asarray(diff["w"]).tolist() == [[False, True], [False] * 2, [True, False]]


def rate(step):
    return 0.1 * 0.97**step


SGD = optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(rate))


@pytest.fixture(scope="module")
def problem():
    return make_problem(plain_mlp(), history.history(SGD))


def half(problem):
    scores = jax.tree.map(jnp.abs, problem.early.params)
    return masks.keep_top(scores, problem.mask, 0.5)


def numpy_log(problem, mask, steps):
    """(g, w, dw) of every step of momentum SGD, by hand, in float64."""
    w = {k: np.asarray(v, np.float64) for k, v in problem.early.params.items()}
    m = {k: 1.0 if mask[k] is None else np.asarray(mask[k], float) for k in w}
    w = {k: v * m[k] for k, v in w.items()}
    velocity = {k: np.zeros_like(v) for k, v in w.items()}
    order, _ = jax.random.split(jax.random.key(1))
    log = []
    for step in range(steps):
        batch = data.make_sample(8, 50)(order, step, problem.data)
        x, y = np.asarray(batch.inputs) / 255.0, np.asarray(batch.targets)
        hidden = np.maximum(x @ w["w0"] + w["b0"], 0)
        logits = hidden @ w["w1"] + w["b1"]
        p = np.exp(logits - logits.max(1, keepdims=True))
        p = (p / p.sum(1, keepdims=True) - np.eye(3)[y]) / 8
        back = p @ w["w1"].T * (hidden > 0)
        g = {"w1": hidden.T @ p, "b1": p.sum(0), "w0": x.T @ back, "b0": back.sum(0)}
        g = {k: v * m[k] for k, v in g.items()}
        velocity = {k: 0.9 * velocity[k] + g[k] for k in w}
        dw = {k: -rate(step) * velocity[k] for k in w}
        log.append((g, w, dw))
        w = {k: w[k] + dw[k] for k in w}
    return log, w


def test_sums_and_scores_equal_a_log_of_fifty_steps(problem):
    mask = half(problem)
    state, _ = problem.train(problem.early, mask, 50)
    log, final = numpy_log(problem, mask, 50)
    initial = masks.apply(problem.early.params, mask)
    karnin = history.karnin(state.opt_state, initial, state.params)
    movement = history.movement_accumulated(state.opt_state)
    for k in final:
        sensitivity = -sum(g[k] * dw[k] for g, _, dw in log)
        way = final[k] - log[0][1][k]
        expected = sensitivity * final[k] / np.where(way == 0, 1, way)
        np.testing.assert_allclose(karnin[k], expected, rtol=2e-3, atol=2e-6)
        expected = -sum(g[k] * w[k] for g, w, _ in log)
        np.testing.assert_allclose(movement[k], expected, rtol=2e-3, atol=2e-6)
        assert np.ptp(movement[k]) > 1e-3  # something to compare


def test_karnin_by_hand():
    state = history.History(None, np.float32([1, 2, 3, 4]), None)
    initial, final = np.float32([1, 1, 1, 0]), np.float32([2, 0.5, 1, 0])
    score = history.karnin(state, initial, final)
    np.testing.assert_array_equal(score, [2, -2, 0, 0])
    flipped = history.karnin(state, -initial, -final)
    np.testing.assert_array_equal(flipped, score)


@given(pairs)
def test_karnin_is_finite(pair):
    state = history.History(None, jnp.ones(pair[0].shape), None)
    near = np.nextafter(pair[0], np.float32(np.inf))
    for final in (pair[1], near, pair[0]):
        assert np.isfinite(history.karnin(state, pair[0], final)).all()


def test_updates_are_those_of_the_optimizer(problem):
    params = problem.early.params
    one, other = history.history(SGD), SGD
    states = one.init(params), other.init(params)
    for step in range(3):
        grads = jax.tree.map(lambda w, s=step: jnp.sin(w + s), params)
        mine, state = one.update(grads, states[0], params)
        theirs, inner = other.update(grads, states[1], params)
        states = state, inner
        assert_same(mine, theirs)
        assert_same(state.inner, inner)
    plain = make_problem(plain_mlp(), SGD)
    mask = half(problem)
    trained, _ = problem.train(problem.early, mask, 30)
    expected, _ = plain.train(plain.early, mask, 30)
    for name, value in trained.params.items():  # compiled, they may round otherwise
        np.testing.assert_allclose(value, expected.params[name], atol=1e-6)


def test_sums_of_pruned_weights_are_exactly_zero(problem):
    dense, _ = problem.train(problem.early, problem.mask, 10)
    mask = half(problem)
    sums = train.mask_slots(problem.tx, dense, mask).opt_state
    state, _ = problem.train(dense, mask, 5)
    for tree in (sums.movement, sums.sensitivity, *state.opt_state[1:]):
        assert not np.asarray(tree["w0"])[~np.asarray(mask["w0"])].any()
        assert np.asarray(tree["w0"])[np.asarray(mask["w0"])].any()
        assert np.asarray(tree["b1"]).any()


def test_rewinding_knows_the_schedule_inside_and_treats_sums_as_moments(problem):
    early, _ = problem.train(problem.early, problem.mask, 3)
    late, _ = problem.train(early, problem.mask, 5)

    def position(state):
        return int(state.opt_state.inner[1].count)

    assert_same(rewind.weights(early, late), early)
    back = rewind.learning_rate(early, late)
    assert (position(late), position(back)) == (8, 3)
    assert_same(back.opt_state.movement, late.opt_state.movement)
    low = rewind.weights_low_rate(early, late)
    assert position(low) == 7  # of the 8th step
    assert_same(low.opt_state.sensitivity, early.opt_state.sensitivity)
    fresh = rewind.make_fresh_moments(rewind.weights, problem.tx)(early, late)
    assert position(fresh) == 3
    assert not any(x.any() for x in jax.tree.leaves(fresh.opt_state[1:]))
    problem.train(fresh, half(problem), 2)
    assert len(problem.traces) == 1


def test_sums_of_half_precision_weights_are_float32():
    tx = history.history(optax.sgd(0.1))
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    updates, state = tx.update(params, tx.init(params), params)
    assert updates["w"].dtype == jnp.bfloat16
    assert state.movement["w"].dtype == state.sensitivity["w"].dtype == jnp.float32


def test_weights_are_asked_for():
    tx = history.history(optax.sgd(0.1))
    with pytest.raises(ValueError, match="needs them"):
        tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
