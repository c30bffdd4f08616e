"""Sparse forward, dense weights: what is seen, what gradients reach, what is found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth import criteria, masks
from lth.dynamic import forward
from lth.models import Model
from tests.conftest import make_problem, plain_mlp


def two_d(path, leaf):
    return leaf.ndim == 2


def linear() -> Model:
    """inputs @ w, for gradients that can be worked out by hand."""

    def init(key):
        return {"w": jnp.array([[4.0], [-3.0], [2.0], [1.0]]), "b": jnp.zeros(1)}, {}

    def apply(params, stats, inputs, train, key):
        return inputs @ params["w"] + params["b"][None], stats

    return Model(init, apply)


INPUTS = jnp.array([[1.0, 2.0, 3.0, 4.0]])


def seen_and_gradient(model, params, stats):
    def output(params):
        outputs, _ = model.apply(params, stats, INPUTS, True, jax.random.key(0))
        return outputs[0, 0]

    return jax.value_and_grad(output)(params)


def test_straight_through_sees_the_highest_and_moves_all():
    model, final = forward.straight_through(linear(), 0.5, prunable=two_d)
    params, stats = model.init(jax.random.key(0))
    value, grads = seen_and_gradient(model, params, stats)
    assert value == 4 * 1 - 3 * 2
    np.testing.assert_array_equal(grads["w"].ravel(), [1, 2, 3, 4])
    weights, mask = final(params, stats)
    np.testing.assert_array_equal(weights["w"].ravel(), [4, -3, 0, 0])
    assert mask["b"] is None
    np.testing.assert_array_equal(mask["w"].ravel(), [1, 1, 0, 0])


def test_a_random_mask_is_drawn_anew_each_step():
    model, _ = forward.straight_through(
        linear(), 0.5, scores=criteria.random, prunable=two_d
    )
    params, stats = model.init(jax.random.key(0))
    found = set()
    for step in range(8):
        _, stats = model.apply(params, stats, INPUTS, True, jax.random.key(step))
        assert stats.mask["w"].sum() == 2
        found.add(stats.mask["w"].tobytes())
    assert len(found) > 2


def test_masks_are_chosen_every_so_many_steps():
    model, _ = forward.straight_through(linear(), 0.25, every=3, prunable=two_d)
    params, stats = model.init(jax.random.key(0))
    kept = []
    for step in range(7):
        params = {**params, "w": jnp.roll(params["w"], 1, axis=0)}
        _, stats = model.apply(params, stats, INPUTS, True, jax.random.key(step))
        kept.append(int(jnp.argmax(stats.mask["w"])))
    assert kept == [1, 1, 1, 0, 0, 0, 3]


def test_top_kast_forward_backward_and_penalty():
    model, final, penalty = forward.top_kast(linear(), 0.25, 0.75, prunable=two_d)
    params, stats = model.init(jax.random.key(0))
    value, grads = seen_and_gradient(model, params, stats)
    assert value == 4
    np.testing.assert_array_equal(grads["w"].ravel(), [1, 2, 3, 0])
    assert float(penalty(params, stats)) == pytest.approx(
        4**2 / 2 + (9 + 4) / (2 * 0.25)
    )
    pull = jax.grad(penalty)(params, stats)["w"].ravel()
    np.testing.assert_allclose(pull, [4, -12, 8, 0])
    _, mask = final(params, stats)
    np.testing.assert_array_equal(mask["w"].ravel(), [1, 0, 0, 0])
    with pytest.raises(ValueError, match="two numbers or two trees of one structure"):
        forward.top_kast(linear(), 0.5, {"w": 0.6})
    with pytest.raises(ValueError, match="0 < density <= backward <= 1; got 0.5 and"):
        forward.top_kast(linear(), 0.5, 0.25)


def test_the_penalty_is_of_the_masks_in_force():
    model, _, penalty = forward.top_kast(linear(), 0.25, 0.5, every=10, prunable=two_d)
    params, stats = model.init(jax.random.key(0))
    _, stats = model.apply(params, stats, INPUTS, True, jax.random.key(0))
    other = {**params, "w": params["w"][::-1]}  # the choice now would be another
    pull = jax.grad(penalty)(other, stats)["w"].ravel()
    np.testing.assert_allclose(pull, [1 * 1, 2 / 0.25, 0, 0])


def test_soft_thresholds_shrink_and_learn():
    model, final = forward.soft_threshold(linear(), start=0.0, prunable=two_d)
    params, stats = model.init(jax.random.key(0))
    assert params.thresholds["b"] is None
    value, grads = seen_and_gradient(model, params, stats)
    assert value == pytest.approx(3.5 * 1 - 2.5 * 2 + 1.5 * 3 + 0.5 * 4)
    # d/ds of -sigmoid(s) at 0 is -1/4, for each weight by its sign and input.
    assert float(grads.thresholds["w"]) == pytest.approx(-0.25 * (1 - 2 + 3 + 4))
    large = params._replace(thresholds={"w": jnp.float32(30.0), "b": None})
    weights, mask = final(large._replace(weights=params.weights), stats)
    np.testing.assert_array_equal(mask["w"].ravel(), [1, 1, 1, 0])
    np.testing.assert_allclose(weights["w"].ravel(), [3, -2, 1, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["straight_through", "top_kast", "soft_threshold"])
def test_they_train_as_any_model_does(name):
    make = {
        "straight_through": lambda m: forward.straight_through(
            m, 0.3, every=4, prunable=two_d
        ),
        "top_kast": lambda m: forward.top_kast(m, 0.3, 0.6, prunable=two_d)[:2],
        "soft_threshold": lambda m: forward.soft_threshold(m, -3.0, prunable=two_d),
    }[name]
    model, final = make(plain_mlp((3, 8, 3)))
    tx = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.3))
    problem = make_problem(model, tx)
    nothing = masks.unmasked(problem.early.params)
    state, first = problem.train(problem.early, nothing, 20)
    state, last = problem.train(state, nothing, 60)
    assert last["loss"] / 60 < first["loss"] / 20
    weights, mask = final(state.params, state.stats)
    kept = int(masks.count(mask))
    assert sum(int(np.count_nonzero(weights[k])) for k in ("w0", "w1")) == kept
    if name != "soft_threshold":
        assert kept == round(0.3 * 48)
    # The network found computes what the model computes in evaluation.
    x = jnp.ones((2, 3))
    outputs, _ = model.apply(state.params, state.stats, x, False, None)
    alone, _ = plain_mlp((3, 8, 3)).apply(weights, {}, x, False, None)
    np.testing.assert_allclose(outputs, alone, rtol=1e-6)


def test_evaluation_does_not_count_steps():
    model, _ = forward.straight_through(linear(), 0.5, every=2, prunable=two_d)
    params, stats = model.init(jax.random.key(0))
    _, after = model.apply(params, stats, INPUTS, False, None)
    assert after.step == stats.step
    with pytest.raises(ValueError, match="every 1 or more steps; got 0"):
        forward.straight_through(linear(), 0.5, every=0)
