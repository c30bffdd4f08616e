"""End to end on problems whose answer is known, with nothing but plain functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth import criteria, data, lottery, masks, train
from lth.lottery import rewind
from tests.conftest import assert_same, normal

SUPPORT = np.array([3, 8, 17, 30])


@pytest.fixture(scope="module")
def parts():
    """Linear regression in which 4 of 32 inputs matter."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 32)).astype(np.float32)
    truth = np.zeros((32, 1), np.float32)
    truth[SUPPORT, 0] = [1.0, -2.0, 1.5, -1.0]
    examples = {"x": x, "y": x @ truth}
    tx = optax.adam(0.05)

    def init(key):
        return {
            "kernel": 0.1 * normal(key, (32, 1)),
            "bias": jnp.zeros(1),
        }, {}

    def loss(params, stats, batch, key):
        out = batch["x"] @ params["kernel"] + params["bias"][None]
        value = jnp.mean((out - batch["y"]) ** 2)
        return value, (stats, {"loss": value})

    early = train.init_state(init, tx, jax.random.key(0))
    step = jax.jit(train.make_train(loss, data.make_sample(20, 200), tx))
    key = jax.random.key(1)
    fit = functools.partial(
        train.fit,
        train=lambda state, mask, n: step(state, mask, examples, key, n),
        measures={},
        stops=[150],
    )
    mask = masks.ones(early.params)
    dense = lottery.Ticket(0, mask, *fit(early, mask))

    def prune(state, mask, density):
        return masks.keep_top(criteria.magnitude(state.params), mask, density)

    return early, dense, {"train": fit, "prune": prune, "rewind": rewind.weights}


def test_imp_finds_the_planted_support(parts):
    early, dense, how = parts
    *_, ticket = lottery.imp(early, dense, [0.5, 0.25, 0.125], **how)
    np.testing.assert_array_equal(np.flatnonzero(ticket.mask["kernel"]), SUPPORT)
    assert ticket.level == 3
    found = np.asarray(ticket.state.params["kernel"])[SUPPORT, 0]
    np.testing.assert_allclose(found, [1.0, -2.0, 1.5, -1.0], atol=0.02)


def test_one_shot_pruning_finds_it_too(parts):
    early, dense, how = parts
    ticket = lottery.prune_once(early, dense, 0.125, **how)
    np.testing.assert_array_equal(np.flatnonzero(ticket.mask["kernel"]), SUPPORT)


def test_tickets_start_from_masked_early_weights(parts):
    early, dense, how = parts
    starts = []

    def spy(state, mask):
        starts.append(masks.apply(state.params, mask))
        return how["train"](state, mask)

    *_, ticket = lottery.imp(early, dense, [0.5, 0.3], **{**how, "train": spy})
    assert_same(starts[1], masks.apply(early.params, ticket.mask))


def test_a_resumed_loop_equals_the_unbroken_one(parts):
    early, dense, how = parts
    densities = [0.7, 0.5, 0.3]
    whole = list(lottery.imp(early, dense, densities, **how))
    first = next(lottery.imp(early, dense, densities[:1], **how))
    rest = list(lottery.imp(early, first, densities[1:], **how))
    for a, b in zip(whole, [first, *rest], strict=True):
        assert a.level == b.level
        assert_same(a[1:], b[1:])


def test_masks_are_nested_and_counted(parts):
    early, dense, how = parts
    before = dense.mask["kernel"]
    for ticket in lottery.imp(early, dense, [0.8**n for n in (1, 2, 3)], **how):
        mask = ticket.mask["kernel"]
        assert int(mask.sum()) == round(0.8**ticket.level * 32)
        assert not (mask & ~before).any()
        before = mask


def test_a_pruning_that_leaves_nothing_is_refused(parts):
    early, dense, how = parts
    broken = dense._replace(
        state=dense.state._replace(params={"kernel": jnp.full((32, 1), jnp.nan)})
    )
    prune = jax.jit(
        lambda s, m, d: masks.keep_top(
            {"kernel": s.params["kernel"], "bias": None}, m, d
        )
    )
    with pytest.raises(ValueError, match="pruning to level 1 left no weight"):
        next(lottery.imp(early, broken, [0.5], **{**how, "prune": prune}))
