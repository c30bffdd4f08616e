"""Batches as a function of (key, step); splits; files that are found or fetched."""

import hashlib
import io
import os
import urllib.error

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lth import data
from lth.data import dataset, fetch, mnist

EXAMPLES, BATCH = 37, 8


@jax.jit
def places(key, start):
    """Three epochs' worth of stream positions, an epoch at a time."""
    epochs = start + jnp.arange(3, dtype=jnp.uint32) * EXAMPLES
    offsets = jnp.arange(EXAMPLES, dtype=jnp.uint32)
    return jax.vmap(lambda e: data.shuffled(key, e + offsets, EXAMPLES))(epochs)


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_every_epoch_visits_each_example_once(seed, epoch):
    found = places(jax.random.key(seed), jnp.uint32(epoch * EXAMPLES))
    for order in np.asarray(found):
        assert sorted(order) == list(range(EXAMPLES))
    assert (found[0] != found[1]).any()


def test_batches_follow_the_stream_across_epochs():
    sample = jax.jit(data.make_sample(BATCH, EXAMPLES))
    key, items = jax.random.key(5), np.arange(EXAMPLES)
    batches = np.concatenate([sample(key, step, items) for step in range(14)])
    for epoch in range(3):
        one = batches[epoch * EXAMPLES : (epoch + 1) * EXAMPLES]
        assert sorted(one) == list(range(EXAMPLES))
    again = sample(key, 9, items)
    np.testing.assert_array_equal(again, batches[9 * BATCH : 10 * BATCH])
    other = sample(jax.random.key(6), 9, items)
    assert (np.asarray(other) != again).any()


def test_orders_are_uniform_over_all_permutations():
    keys = jax.random.split(jax.random.key(0), 24_000)
    where = jnp.arange(4, dtype=jnp.uint32)
    orders = jax.jit(jax.vmap(lambda key: data.shuffled(key, where, 4)))(keys)
    codes = np.asarray(orders) @ np.array([64, 16, 4, 1])
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_in_an_epoch_are_independent():
    keys = jax.random.split(jax.random.key(1), 4000)
    where = jnp.arange(60, dtype=jnp.uint32)
    orders = np.asarray(
        jax.jit(jax.vmap(lambda key: data.shuffled(key, where, 60)))(keys)
    ).astype(int)
    steps = (np.diff(orders, axis=1) % 60).ravel()
    assert stats.chisquare(np.bincount(steps, minlength=60)[1:]).pvalue > 1e-4


@pytest.mark.parametrize("batch", [0, 38])
def test_a_batch_is_part_of_the_examples(batch):
    with pytest.raises(ValueError, match=f"1 to 37 examples.*got {batch}"):
        data.make_sample(batch, EXAMPLES)


def test_hold_out_is_a_partition_that_only_the_seed_decides():
    twenty = data.Dataset(np.arange(20).reshape(20, 1, 1, 1), np.arange(20))
    rest, held = data.hold_out(twenty, 5, seed=3)
    assert sorted([*rest.targets, *held.targets]) == list(range(20))
    assert list(held.targets) == [1, 2, 4, 14, 17]  # RandomState's stream is frozen
    np.testing.assert_array_equal(rest.inputs.ravel(), rest.targets)
    with pytest.raises(data.DataError, match="20 examples cannot be held out of 20"):
        data.hold_out(twenty, 20, seed=3)


@given(st.integers(5, 40), st.integers(1, 9), st.integers(0, 3))
def test_hold_out_end_keeps_neighbours_apart(examples, count, gap):
    numbers = data.Dataset(np.arange(examples)[:, None], np.arange(examples))
    if count + gap >= examples:
        with pytest.raises(data.DataError, match=f"{count} examples cannot be held"):
            dataset.hold_out_end(numbers, count, gap)
        return
    rest, held = dataset.hold_out_end(numbers, count, gap)
    assert list(rest.targets) == list(range(examples - count - gap))
    assert list(held.targets) == list(range(examples - count, examples))


def test_digits_are_three_sets():
    splits = data.load("digits", None, 180, 0)
    assert [len(s.targets) for s in splits] == [1257, 180, 360]
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.inputs.max() == 16
    whole = {tuple(i.ravel()) for s in splits for i in s.inputs}
    assert (
        len(whole) == 1797
    )  # the digits are all different, so no image is in two sets


def test_missing_data_without_a_network_says_which_files_go_where(
    tmp_path, monkeypatch
):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(fetch.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(data.DataError) as error:
        data.load("mnist", tmp_path / "here", 5, 0)
    message = str(error.value)
    for name in mnist.IDX_FILES:
        assert str(tmp_path / "here" / "mnist" / name) in message
    assert "--data-dir" in message
    assert "no network" in message


def test_downloads_are_checked_before_they_appear(tmp_path, monkeypatch):
    body = b"published bytes"
    good = fetch.Remote("f.gz", hashlib.md5(body).hexdigest(), ("one", "two"))
    answers = {"one": b"something else", "two": body}
    monkeypatch.setattr(
        fetch.urllib.request, "urlopen", lambda a, timeout: io.BytesIO(answers[a])
    )
    (path,) = fetch.find("set", [good], tmp_path)
    assert path.read_bytes() == body
    assert os.listdir(tmp_path / "set") == ["f.gz"]
    with pytest.raises(data.DataError, match="has MD5"):
        fetch.find("set", [good._replace(name="g.gz", addresses=("one",))], tmp_path)
    assert os.listdir(tmp_path / "set") == ["f.gz"]


def test_a_download_without_end_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LARGEST", 100)
    monkeypatch.setattr(
        fetch.urllib.request, "urlopen", lambda a, timeout: io.BytesIO(bytes(101))
    )
    with pytest.raises(data.DataError, match="one has more than 100 bytes"):
        fetch.find("set", [fetch.Remote("f", "", ("one",))], tmp_path)
    assert os.listdir(tmp_path / "set") == []


@pytest.mark.skipif("LTH_DATA" not in os.environ, reason="LTH_DATA is not set")
def test_real_mnist():
    splits = data.load("mnist", None, 5000, 0)
    assert [s.inputs.shape for s in splits] == [
        (55_000, 28, 28, 1),
        (5_000, 28, 28, 1),
        (10_000, 28, 28, 1),
    ]
    assert set(splits.test.targets) == set(range(10))
