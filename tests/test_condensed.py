"""Constant fan-in condensed: the dense product's numbers, and no other kernels."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import dynamic, masks
from lth.compress import condensed


def layer(rng, inputs, outputs, fan_in, dead=0):
    """A kernel [in, out] whose outputs read `fan_in` inputs each, but for the dead."""
    order = np.argsort(rng.random((inputs, outputs)), 0)
    keep = order < fan_in
    keep[:, rng.permutation(outputs)[:dead]] = False
    return rng.normal(size=(inputs, outputs)).astype(np.float32), keep


def test_by_hand():
    w = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]], np.float32)
    keep = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0]], bool)
    found = condensed.condense(w, keep)
    np.testing.assert_array_equal(found.values, [[1, 7], [6, 9]])
    np.testing.assert_array_equal(found.indices, [[0, 2], [1, 2]])
    np.testing.assert_array_equal(found.living, [0, 2])
    assert found.nbytes == 4 * (4 + 4 + 2)
    x = np.array([[1, 10, 100, 1000], [2, 0, 1, 0]], np.float32)
    np.testing.assert_array_equal(condensed.product(found, x), [[701, 960], [9, 9]])
    np.testing.assert_array_equal(condensed.product(found, x[:1]), [[701, 960]])


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.sampled_from([1, 3]))
def test_it_is_the_dense_product(seed, dead, batch):
    rng = np.random.default_rng(seed)
    w, keep = layer(rng, 9, 6, rng.integers(1, 10), dead)
    x = rng.normal(size=(batch, 9)).astype(np.float32)
    layer_of = condensed.condense(w, keep)
    found = condensed.product(layer_of, x)
    expected = x @ np.where(keep, w, 0)
    np.testing.assert_allclose(
        found, expected[:, layer_of.living], rtol=1e-5, atol=1e-5
    )
    gone = np.setdiff1d(np.arange(6), layer_of.living)
    assert len(gone) == dead
    assert not expected[:, gone].any()


def test_a_million_weights():
    rng = np.random.default_rng(0)
    w, keep = layer(rng, 1000, 1000, 50, dead=300)
    found = condensed.condense(w, keep)
    assert found.values.shape == (700, 50)
    for batch in (1, 4):
        x = rng.normal(size=(batch, 1000)).astype(np.float32)
        expected = x.astype(float) @ np.where(keep, w, 0).astype(float)
        got = jax.jit(condensed.product)(found, x)
        np.testing.assert_allclose(got, expected[:, found.living], rtol=1e-4, atol=1e-4)


def test_what_srigl_trains_condenses():
    params = {"kernel": jax.random.normal(jax.random.key(0), (30, 20))}
    rule = dynamic.srigl(0.2, end_step=10, begin_step=1, frequency=1, ablate=0.3)
    mask = rule.start(params, masks.ones(params), jax.random.key(1))
    found = condensed.condense(params["kernel"], mask["kernel"])
    assert found.values.shape == (20, 6)


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match="outputs read from 1 to 2 inputs"):
        condensed.condense(np.ones((2, 2)), np.array([[True, True], [False, True]]))
    with pytest.raises(ValueError, match=r"one matrix \[in, out\]; got \[2, 2, 2\]"):
        condensed.condense(np.ones((2, 2, 2)), np.ones((2, 2, 2), bool))
