"""Actions keep what they say: multisets, counts, signs, and whatever is not pruned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import data, masks, models, train
from lth.lottery import starts
from tests.conftest import assert_same, make_problem, plain_mlp

SHAPES = {"a": (6, 5), "b": (7, 2), "bias": (5,)}


def tree(rng, values=None):
    def leaf(shape):
        if values is None:
            return rng.normal(size=shape).astype(np.float32)
        return rng.choice(values, size=shape).astype(np.float32)

    return {name: leaf(shape) for name, shape in SHAPES.items()}


@st.composite
def cases(draw):
    """Weights at the start and the end, a mask, and a key; zeros and ties at times."""
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    values = draw(st.sampled_from([None, np.float32([-2, -1, -0.0, 0, 1, 3])]))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    mask = {k: rng.random(SHAPES[k]) < share for k in ("a", "b")} | {"bias": None}
    return tree(rng, values), tree(rng, values), mask, jax.random.key(seed)


def same_values(one, other):
    np.testing.assert_array_equal(np.sort(np.ravel(one)), np.sort(np.ravel(other)))


def leaves(*trees):
    for name in ("a", "b"):
        yield tuple(np.asarray(t[name]) for t in trees)


@given(cases())
def test_kept_weights_change_places_among_themselves(case):
    params, _, mask, key = case
    new = starts.reshuffled(params, mask, key)
    for w, m, n in leaves(params, mask, new):
        same_values(n[m], w[m])
        np.testing.assert_array_equal(n[~m], w[~m])
    assert_same(new["bias"], params["bias"])


@given(cases())
def test_kept_magnitudes_change_places_and_signs_stay(case):
    params, _, mask, key = case
    new = starts.reshuffled_signs_kept(params, mask, key)
    for w, m, n in leaves(params, mask, new):
        same_values(np.abs(n[m]), np.abs(w[m]))
        np.testing.assert_array_equal(n[~m], w[~m])
        np.testing.assert_array_equal(np.signbit(n), np.signbit(w))
    assert_same(new["bias"], params["bias"])


@given(cases())
def test_a_leaf_permuted_has_its_values(case):
    params, _, mask, key = case
    new = starts.permuted(params, mask, key)
    for w, n in leaves(params, new):
        same_values(n, w)
    assert_same(new["bias"], params["bias"])


@given(cases())
def test_a_draw_with_the_signs_of_the_weights(case):
    params, fresh, _, _ = case
    new = starts.signs_kept(fresh, params)
    for name in SHAPES:
        w = params[name]
        np.testing.assert_array_equal(new[name], np.sign(w) * np.abs(fresh[name]))


@given(cases(), st.sampled_from([None, 0.25]))
def test_signed_constants(case, deviation):
    params, _, mask, key = case
    new = starts.signed_constant(params, mask, deviation)
    moved = starts.random_signed_constant(params, mask, key, deviation)
    for w, n, r in leaves(params, new, moved):
        size = w.astype(np.float64).std() if deviation is None else deviation
        np.testing.assert_allclose(n, np.sign(w) * size, rtol=1e-5)
        same_values(r, n)
    assert_same(new["bias"], params["bias"])
    assert_same(moved["bias"], params["bias"])


@given(cases())
def test_rescaling_undoes_the_share_that_is_kept(case):
    params, _, mask, _ = case
    new = starts.rescaled(params, mask)
    for w, m, n in leaves(params, mask, new):
        np.testing.assert_allclose(n, w * (m.size / max(m.sum(), 1)), rtol=1e-6)
    assert_same(new["bias"], params["bias"])


@given(cases())
def test_what_pruned_weights_are_frozen_at(case):
    initial, final, mask, key = case
    stay = starts.freeze_init(initial, mask)
    shrunk = starts.freeze_init_zero_shrunk(initial, final, mask)
    grown = starts.freeze_init_zero_grown(initial, final, mask)
    moved = starts.freeze_init_zero_reshuffled(initial, shrunk, mask, key)
    for i, f, m, *frozen in leaves(initial, final, mask, stay, shrunk, grown, moved):
        for x in frozen:
            assert not x[m].any()
            assert (np.equal(x, i) | np.equal(x, 0))[~m].all()
        smaller, larger = np.abs(f) < np.abs(i), np.abs(f) > np.abs(i)
        np.testing.assert_array_equal(frozen[0][~m], i[~m])
        np.testing.assert_array_equal(frozen[1][~m], np.where(smaller, 0, i)[~m])
        np.testing.assert_array_equal(frozen[2][~m], np.where(larger, 0, i)[~m])
        zeros = (frozen[1] == 0)[~m].sum()
        at_random = (frozen[3] == 0)[~m].sum()
        assert zeros <= at_random + (i == 0)[~m].sum()
        if i.all():
            assert zeros == at_random
    for tree in (stay, shrunk, grown, moved):
        assert_same(tree["bias"], initial["bias"])


@given(cases())
def test_kept_weights_that_shrank_start_at_zero(case):
    initial, final, mask, _ = case
    start = starts.zero_shrunk(initial, final, mask)
    for i, f, s in leaves(initial, final, start):
        np.testing.assert_array_equal(s, np.where(np.abs(f) < np.abs(i), 0, i))
    assert_same(start["bias"], initial["bias"])


def test_what_was_frozen_stays_so_in_later_rounds():
    initial = {"w": np.float32([1, 2, 3, 4])}
    final = {"w": np.float32([0.5, 3, 5, 1])}
    first = {"w": np.array([False, False, True, True])}
    then = {"w": np.array([False] * 4)}
    rules = {
        starts.freeze_init_zero_shrunk: [0, 2, 3, 0],
        starts.freeze_init_zero_grown: [1, 0, 0, 4],
    }
    for rule, expected in rules.items():
        frozen = rule(initial, final, first)
        start = starts.filled(initial, first, frozen)
        end = starts.filled(final, first, frozen)
        np.testing.assert_array_equal(rule(start, end, then)["w"], expected)


def test_places_are_drawn_evenly():
    mask = {"w": jnp.array([True, False, True, True, False, True])}
    params = {"w": jnp.arange(6.0)}
    keys = jax.random.split(jax.random.key(0), 4000)
    new = jax.jit(jax.vmap(lambda k: starts.reshuffled(params, mask, k)))(keys)["w"]
    places = [0, 2, 3, 5]
    for at in places:
        shares = [np.mean(np.asarray(new)[:, at] == value) for value in places]
        np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_replicates_with_masks_of_different_counts_share_a_program():
    rng = np.random.default_rng(3)
    many = [tree(rng) for _ in range(3)]
    kept = [{"a": rng.random((6, 5)) < d, "b": rng.random((7, 2)) < d, "bias": None}
            for d in (0.2, 0.5, 0.9)]  # fmt: skip
    keys = jax.random.split(jax.random.key(1), 3)
    traces = []

    def all_of(params, mask, key):
        traces.append(1)
        frozen = starts.freeze_init(params, mask)
        return (
            starts.reshuffled(params, mask, key),
            starts.reshuffled_signs_kept(params, mask, key),
            starts.permuted(params, mask, key),
            starts.random_signed_constant(params, mask, key),
            starts.freeze_init_zero_reshuffled(params, frozen, mask, key),
        )

    stack = [jax.tree.map(lambda *x: jnp.stack(x), *t) for t in (many, kept)]
    program = jax.jit(jax.vmap(all_of))
    together = program(*stack, keys)
    program(stack[0], jax.tree.map(jnp.logical_not, stack[1]), keys)
    assert len(traces) == 1
    for r in range(3):
        alone = all_of(many[r], kept[r], keys[r])
        for one, other in zip(
            jax.tree.leaves(alone), jax.tree.leaves(together), strict=True
        ):
            np.testing.assert_allclose(one, other[r], rtol=1e-6)


@pytest.fixture(scope="module")
def frozen_problem():
    tx = optax.sgd(0.1, momentum=0.9)
    problem = make_problem(plain_mlp(), tx)
    scores = jax.tree.map(jnp.abs, problem.early.params)
    mask = masks.keep_top(scores, problem.mask, 0.4)
    loss, _ = train.classification(models.standardized(problem.model, 0, 255).apply)
    sample = data.make_sample(8, 50)

    @jax.jit
    def run(state, mask, frozen, n):
        wrapped = starts.with_frozen(loss, mask, frozen)
        step = train.make_train(wrapped, sample, tx)
        dataset = jax.tree.map(jnp.asarray, problem.data)
        return step(state, mask, dataset, jax.random.key(1), n)[0]

    return problem, mask, run


def test_nothing_frozen_trains_as_ever(frozen_problem):
    problem, mask, run = frozen_problem
    zeros = jax.tree.map(jnp.zeros_like, problem.early.params)
    expected, _ = problem.train(problem.early, mask, 9)
    state = run(problem.early, mask, zeros, 9)
    for one, other in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_frozen_weights_take_part_and_stay(frozen_problem):
    problem, mask, run = frozen_problem
    frozen = starts.freeze_init(problem.early.params, mask)
    state = run(problem.early, mask, frozen, 9)
    assert not np.asarray(state.params["w0"])[~np.asarray(mask["w0"])].any()
    # By hand: the dense network, whose updates are masked and not its weights.
    loss, _ = train.classification(models.standardized(problem.model, 0, 255).apply)
    params, velocity = problem.early.params, None
    order, _ = jax.random.split(jax.random.key(1))
    for step in range(9):
        batch = data.make_sample(8, 50)(order, step, problem.data)
        grads = jax.grad(loss, has_aux=True)(params, {}, batch, None)[0]
        grads = masks.apply(grads, mask)
        old = jax.tree.map(jnp.zeros_like, grads) if velocity is None else velocity
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, old, grads)
        params = jax.tree.map(lambda w, v: w - 0.1 * v, params, velocity)
    whole = starts.filled(state.params, mask, frozen)
    for name, value in whole.items():
        np.testing.assert_allclose(value, params[name], atol=1e-5)


def test_an_apply_is_wrapped_like_a_loss(frozen_problem):
    problem, mask, _ = frozen_problem
    start = problem.early.params
    inputs = jnp.ones((2, 3))
    frozen = starts.freeze_init(start, mask)
    masked = masks.apply(start, mask)
    wrapped = starts.with_frozen(problem.model.apply, mask, frozen)
    assert_same(
        wrapped(masked, {}, inputs, False, None),
        problem.model.apply(start, {}, inputs, False, None),
    )
