"""Early-bird masks: their distance, when they settle, and the branch of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import masks
from lth.lottery import Ticket, early_bird
from lth.train import TrainState


def bits(text):
    return {"a": np.array([c == "1" for c in text]), "bias": None}


def test_the_distance_of_masks_by_hand():
    assert early_bird.distance(bits("1100"), bits("1100")) == 0
    assert early_bird.distance(bits("1100"), bits("0011")) == 1
    assert early_bird.distance(bits("1100"), bits("1010")) == 0.5
    two = {"a": np.array([True, False]), "b": np.ones((2, 3), bool)}
    other = {"a": np.array([False, False]), "b": np.zeros((2, 3), bool)}
    assert early_bird.distance(two, other) == 7 / 8


def test_the_distance_at_a_million_weights():
    one, two = (np.random.default_rng(i).random((1000, 1000)) < 0.3 for i in (0, 1))
    found = early_bird.distance({"w": one}, {"w": two})
    np.testing.assert_allclose(found, np.mean(one ^ two), rtol=1e-6)


A, B, C = "1" * 10 + "0" * 10, "1" * 9 + "0" * 9 + "11", "0" * 10 + "1" * 10


@pytest.mark.parametrize(
    ("drawn", "window", "close", "place"),
    [
        ([A] * 5, 5, 0.1, None),  # there must be as many before it
        ([A] * 6, 5, 0.1, 5),
        ([C, A, A, A, A, A, A], 5, 0.1, 6),
        ([A, A, A, A, C, A, A, A, A, A, A], 5, 0.1, 10),
        ([A, B, A, B], 1, 0.1, None),  # 3 of 20 apart
        ([A, B, A, B], 1, 0.16, 1),
        ([A, B], 1, 3 / 20, None),  # below, not at
        ([C, A, A], 1, 0.1, 2),
    ],
)
def test_when_masks_settle_by_hand(drawn, window, close, place):
    assert early_bird.found_at([bits(x) for x in drawn], window, close) == place


@given(st.integers(0, 2**20), st.integers(1, 3), st.sampled_from([0.1, 0.2, 0.4]))
def test_when_masks_settle_restated(seed, window, close):
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.random((8, 12)) < 0.08, 0) % 2 == 0
    wanted = None
    for t in range(window, 8):
        apart = (rows[t - window : t] != rows[t]).mean(1)
        if apart.max() < close:
            wanted = t
            break
    assert early_bird.found_at([{"w": r} for r in rows], window, close) == wanted


@pytest.mark.parametrize(
    ("window", "close", "said"),
    [
        (0, 0.1, "window is at least 1 mask; got 0"),
        (5, 0, r"close is .* in \(0, 1\]; got 0"),
        (5, float("nan"), "got nan"),
    ],
)
def test_what_never_settles_is_refused(window, close, said):
    with pytest.raises(ValueError, match=said):
        early_bird.found_at([], window, close)


def test_several_steps_are_enough_or_are_refused():
    with pytest.raises(ValueError, match="at least 6: one, and 5 before it; got a, b$"):
        early_bird.early_bird(("a", "b"))
    with pytest.raises(ValueError, match="got none"):
        early_bird.early_bird(())
    assert early_bird.early_bird(("step_3",)).title == "mask of step 3"
    assert early_bird.early_bird(("a", "b"), window=1).needs == ("a", "b")


def weights(*rows):
    """A state of two replicates."""
    values = np.array(rows, np.float32)
    return TrainState(jnp.zeros(2, jnp.int32), {"w": values}, {}, ())


class Known:
    """A recipe that prunes by magnitude."""

    @staticmethod
    def prune(early, ticket, density, keys):
        def one(w, mask):
            return masks.keep_top({"w": abs(w)}, {"w": mask}, density)

        return jax.vmap(one)(ticket.state.params["w"], ticket.mask["w"])


def test_each_replicate_takes_the_mask_that_settled_first():
    early = weights([9, 9, 9, 9], [9, 9, 9, 9])
    low, high = [1, 2, 3, 4], [4, 3, 2, 1]
    states = {  # the first replicate settles at b, the second not before d
        "a": weights(low, low),
        "b": weights(low, high),
        "c": weights(high, low),
        "d": weights(high, low),
        "e": weights(low, high),
    }
    pruned = {"w": np.array([[True, False, False, False]] * 2)}  # of the level before
    before = Ticket(1, pruned, early, {})
    branch = early_bird.early_bird(tuple("abcde"), window=1)
    assert branch.prune is not None
    mask = branch.prune(Known, early, before, 0.5, None, states)
    np.testing.assert_array_equal(mask["w"], [[0, 0, 1, 1], [0, 0, 1, 1]])
    never = early_bird.early_bird(("a", "c"), window=1)
    assert never.prune is not None
    mask = never.prune(Known, early, before, 0.5, None, states)
    np.testing.assert_array_equal(mask["w"], [[1, 1, 0, 0], [0, 0, 1, 1]])
    one = early_bird.early_bird(("b",))
    assert one.prune is not None
    mask = one.prune(Known, early, before, 0.25, None, states)
    np.testing.assert_array_equal(mask["w"], [[0, 0, 0, 1], [1, 0, 0, 0]])
    start, mask = one.start(early, before, None, states)
    assert start is early
    assert mask is before.mask
