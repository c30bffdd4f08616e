"""Data sets by name: text, generated regression, and what a source says of itself."""

import os

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import data
from lth.data import fetch, generated, sources, text


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 9))
def test_windows_are_stretches_of_the_text(size, length, stride):
    tokens = np.random.default_rng(0).integers(0, 9, size).astype(np.uint8)
    if size <= length:
        with pytest.raises(ValueError, match="window"):
            text.windows(tokens, length)
        return
    made = text.windows(tokens, length, stride)
    assert len(made.inputs) == (size - length - 1) // stride + 1
    for i, (now, after) in enumerate(zip(*made, strict=True)):
        np.testing.assert_array_equal(now, tokens[i * stride :][:length])
        np.testing.assert_array_equal(after, tokens[i * stride + 1 :][:length])


def test_windows_predict_each_character_once():
    made = text.windows(np.arange(41, dtype=np.uint8), 8)
    assert made.targets.dtype == np.int32
    np.testing.assert_array_equal(made.targets.ravel(), np.arange(1, 41))


def write(root, body) -> None:
    (root / "tinyshakespeare").mkdir()
    (root / "tinyshakespeare" / "input.txt").write_bytes(body)


def test_the_splits_of_a_text_share_no_character(tmp_path):
    write(tmp_path, bytes(range(1, 201)))  # each character comes once
    source = sources.tinyshakespeare(6)
    splits = data.load("tinyshakespeare", tmp_path, 5, 0, source)
    used = [{int(c) for x in split for c in x.ravel()} for split in splits]
    assert not used[0] & used[1]
    assert not (used[0] | used[1]) & used[2]
    assert max(used[0]) < min(used[1])
    assert len(splits.validation.targets) == 5
    assert min(used[2]) == 180  # a tenth is the test


def test_the_vocabulary_is_the_characters_that_occur(tmp_path):
    write(tmp_path, b"abcz" * 100)
    source = sources.tinyshakespeare(8)
    splits = data.load("tinyshakespeare", tmp_path, 3, 0, source)
    assert source.classes is None
    assert data.classes(source, splits) == 4
    assert set(splits.train.inputs.ravel()) == {0, 1, 2, 3}
    assert splits.train.inputs.dtype == np.uint8


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "0 characters of training text hold no window of 64"),
        (b"x" * 300, "30 characters of test text hold no window of 64"),
        (b"some\0thing" * 99, "not a text: byte 4 is 0"),
    ],
)
def test_files_that_are_no_text_are_named_and_refused(tmp_path, body, message):
    write(tmp_path, body)
    with pytest.raises(data.DataError, match=message) as error:
        data.load("tinyshakespeare", tmp_path, 1, 0)
    assert "input.txt" in str(error.value)


def test_a_text_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LARGEST", 99)
    write(tmp_path, b"x" * 100)
    with pytest.raises(data.DataError, match="input.txt: more than 99 bytes"):
        data.load("tinyshakespeare", tmp_path, 1, 0)


def test_regression_targets_are_linear_in_the_informative_features():
    made, coefficients = generated.linear(400, 20, 3, 0.0, seed=1)
    assert made.inputs.dtype == made.targets.dtype == np.float32
    assert (coefficients != 0).sum() == 3
    np.testing.assert_allclose(made.inputs @ coefficients, made.targets, atol=1e-5)
    np.testing.assert_array_equal(np.abs(made.inputs).max(0), np.ones(20, np.float32))
    assert np.abs(made.targets).max() == 1
    again, _ = generated.linear(400, 20, 3, 0.0, seed=1)
    noisy, _ = generated.linear(400, 20, 3, 30.0, seed=1)
    np.testing.assert_array_equal(again.targets, made.targets)
    assert (noisy.targets != made.targets).any()


@pytest.mark.parametrize("wrong", [(1, 5, 2, 1.0), (9, 5, 6, 1.0), (9, 5, 2, -1.0)])
def test_impossible_regression_problems_are_refused(wrong):
    with pytest.raises(data.DataError, match=f"got n={wrong[0]}, features=5"):
        generated.linear(*wrong, seed=0)


def test_regression_is_three_sets_of_the_shape_it_says():
    source = sources.regression(n=200, features=30, informative=4)
    splits = data.load("regression", None, 40, 0, source)
    assert [s.inputs.shape for s in splits] == [(120, 30), (40, 30), (40, 30)]
    assert data.classes(source, splits) == 1


def test_every_source_says_what_it_is():
    assert len(data.SOURCES) == 14
    for name, source in data.SOURCES.items():
        assert source.task in ("classification", "regression", "text"), name
        assert len(source.shape) == 3 if source.task == "classification" else 1
    with pytest.raises(data.DataError, match=r"digits has examples of \(9,\), these"):
        data.load("digits", None, 9, 0, data.SOURCES["digits"]._replace(shape=(9,)))


def test_batches_of_text_are_batches_of_windows():
    made = text.windows(np.arange(41, dtype=np.uint8), 8)
    sample = jax.jit(data.make_sample(5, 5))
    batch = sample(jax.random.key(0), 0, made)
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])


@pytest.mark.skipif("LTH_DATA" not in os.environ, reason="LTH_DATA is not set")
def test_real_shakespeare():
    if not any((p / "tinyshakespeare").is_dir() for p in fetch.folders(None)):
        pytest.skip("no tinyshakespeare folder in LTH_DATA")
    splits = data.load("tinyshakespeare", None, 1000, 0)
    assert [len(s.targets) for s in splits] == [14_684, 1000, 1742]
    assert data.classes(data.SOURCES["tinyshakespeare"], splits) == 65
