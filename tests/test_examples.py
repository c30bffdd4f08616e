"""Scores of examples by hand and by NumPy, and the choices made by them."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import data, masks
from lth.analysis import examples

KEY = jax.random.key(0)


def el2n_written_out(logits, labels):
    logits = np.asarray(logits, np.float64)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    error = shifted / shifted.sum(-1, keepdims=True)
    np.put_along_axis(
        error,
        labels[..., None],
        np.take_along_axis(error, labels[..., None], -1) - 1,
        -1,
    )
    return np.sqrt((error**2).sum(-1))


def test_el2n_by_hand():
    logits = np.log([[1.0, 1, 2], [1, 1, 2], [8, 1, 1]])
    found = examples.el2n(logits, np.array([2, 0, 0]))
    # (1/4, 1/4, -1/2), (-3/4, 1/4, 1/2), (-1/5, 1/10, 1/10)
    np.testing.assert_allclose(found**2, [6 / 16, 14 / 16, 0.06], rtol=1e-5)
    sure = examples.el2n(np.array([[200.0, 0]]), np.array([1]))
    assert sure[0] == pytest.approx(np.sqrt(2))


def test_el2n_at_a_million_and_of_texts():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(10**5, 10)).astype(np.float32) * 3
    labels = rng.integers(0, 10, 10**5).astype(np.int32)
    found = np.asarray(examples.el2n(logits, labels))
    wanted = el2n_written_out(logits, labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    text = examples.el2n(logits.reshape(100, 1000, 10), labels.reshape(100, 1000))
    np.testing.assert_array_equal(np.ravel(text), found)
    half = examples.el2n(logits[:9].astype(jnp.bfloat16), labels[:9])
    assert half.dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([0.0, 1.0]), "labels are integers, .* got float"),
        (np.array([True, False]), "labels are integers, .* got bool"),
        (np.array([[1, 0, 0], [0, 1, 0]]), r"as rows of logits, \[2\]; got \[2, 3\]"),
        (np.array([0, 3]), r"in \[0, 3\); got some in \[0, 3\]"),
        (np.array([-1, 0]), r"got some in \[-1, 0\]"),
    ],
)
def test_what_is_no_label_is_refused(labels, told):
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=told):
        examples.el2n(logits, labels)
    if "some in" not in told:  # what needs no value is refused under jit too
        with pytest.raises(ValueError, match=told):
            jax.jit(examples.el2n)(logits, labels)


def test_forgetting_by_hand():
    told = [
        "0000",  # never right
        "1111",
        "0001",
        "1010",  # forgotten twice, the second time for good
        "1001",
        "0110",
        "1000",
    ]
    correct = np.array([[c == "1" for c in row] for row in told]).T
    found = examples.forgetting(correct)
    assert found.tolist() == [4, 0, 0, 2, 1, 1, 1]
    assert found.dtype == np.int32
    assert examples.forgetting(correct[:1]).tolist() == [1, 0, 1, 0, 0, 1, 0]


def test_forgetting_at_a_million():
    rng = np.random.default_rng(0)
    correct = rng.uniform(size=(7, 10**6)) < 0.3
    steps = np.diff(correct.astype(np.int8), axis=0)
    wanted = np.where(correct.any(0), (steps == -1).sum(0), 7)
    np.testing.assert_array_equal(examples.forgetting(correct), wanted)
    learned = wanted[correct.any(0)]
    assert learned.max() == 3
    for wrong in (correct.astype(np.float32), correct[0]):
        with pytest.raises(ValueError, match=r"booleans \[times, examples\]"):
            examples.forgetting(wrong)


PARAMS = {"w": jnp.asarray(np.random.default_rng(5).normal(size=(4, 3)), jnp.float32)}
MASK = {"w": jnp.arange(12).reshape(4, 3) % 3 > 0}


def apply(params, stats, inputs, train, key):
    assert not train
    return inputs @ params["w"] + stats["shift"][None], stats


STATS = {"shift": jnp.asarray([0.0, 1.0, -1.0])}


def parts(*sizes: int) -> list[data.Dataset]:
    rng = np.random.default_rng(1)
    return [
        data.Dataset(
            rng.normal(size=(n, 4)).astype(np.float32),
            rng.integers(0, 3, n).astype(np.int32),
        )
        for n in sizes
    ]


def test_scores_go_over_all_parts_in_order():
    """Chunks that do not divide a part, parts that are less than one."""
    every = parts(23, 7, 3)
    traces = []

    def score(logits, labels):
        traces.append(len(labels))
        return examples.el2n(logits, labels)

    found = examples.scores_of(apply, PARAMS, STATS, iter(every), score, chunk=5)
    assert set(traces) == {5, 3}
    inputs, labels = (np.concatenate(x) for x in zip(*every, strict=True))
    logits = inputs @ np.asarray(PARAMS["w"]) + np.asarray(STATS["shift"])
    np.testing.assert_allclose(found, el2n_written_out(logits, labels), rtol=1e-4)
    # Of other networks nothing is compiled anew.
    known = len(traces)
    again = examples.scores_of(apply, PARAMS, STATS, every, score, chunk=5)
    np.testing.assert_array_equal(again, found)
    assert len(traces) == known
    # The same of networks mapped over.
    two = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), (PARAMS, STATS))
    both = jax.vmap(
        lambda p, s: examples.scores_of(apply, p, s, every, score, chunk=5)
    )(*two)
    np.testing.assert_allclose(both[0], found, rtol=1e-5)
    np.testing.assert_allclose(both[1], el2n_written_out(2 * logits, labels), rtol=1e-4)


def test_scores_of_texts_are_means_and_other_trees_are_measured():
    (part,) = parts(6)
    text = (part.inputs[:, None].repeat(2, 1), np.stack([part.targets] * 2, 1))

    def twice(params, stats, inputs, train, key):
        return apply(params, stats, inputs.reshape(-1, 4), train, key)[0].reshape(
            -1, 2, 3
        ), stats

    one = examples.scores_of(apply, PARAMS, STATS, [part], examples.el2n)
    two = examples.scores_of(twice, PARAMS, STATS, [text], examples.el2n)
    np.testing.assert_allclose(one, two, rtol=1e-5)

    def measure(params, stats, batch):
        right = apply(params, stats, batch["points"], False, None)[0].argmax(-1)
        return {"accuracy": right == batch["largest"], "first": batch["points"][:, 0]}

    tree = {"points": part.inputs, "largest": part.targets}
    found = examples.measured(measure, PARAMS, STATS, [tree, tree], chunk=4)
    assert found["accuracy"].dtype == bool
    np.testing.assert_array_equal(found["first"], [*part.inputs[:, 0]] * 2)
    dicts = cast("Any", [tree])
    with pytest.raises(ValueError, match="pairs of inputs and targets; got dict"):
        examples.scores_of(apply, PARAMS, STATS, dicts, examples.el2n)
    with pytest.raises(ValueError, match="no examples"):
        examples.scores_of(apply, PARAMS, STATS, [], examples.el2n)
    wrong = part._replace(targets=part.targets.astype(np.float32))
    with pytest.raises(ValueError, match="labels are integers"):
        examples.scores_of(apply, PARAMS, STATS, [wrong], examples.el2n)


def test_grand_is_the_gradient_of_each_example():
    """For softmax regression it is |error| |x|, of the columns that are left."""
    (part,) = parts(9)

    def loss(params, stats, batch, key):
        logits, _ = apply(params, stats, batch.inputs, False, key)
        picked = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), batch.targets]
        return -jnp.mean(picked), (stats, {})

    @jax.jit
    def scored(mask):
        return examples.grand(loss, PARAMS, STATS, part, mask, KEY)

    for mask in (masks.ones(PARAMS, lambda *_: True), MASK):
        keep = np.asarray(mask["w"], np.float64)
        weights = np.asarray(PARAMS["w"], np.float64) * keep
        logits = part.inputs @ weights + np.asarray(STATS["shift"])
        error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error[np.arange(9), part.targets] -= 1
        slopes = part.inputs[:, :, None] * error[:, None] * keep
        wanted = np.sqrt((slopes**2).sum((1, 2)))
        np.testing.assert_allclose(scored(mask), wanted, rtol=1e-4)


def test_chosen_by_hand():
    scores = np.array([2, 5, 2, 7, 5, 2])
    take = lambda *args: examples.chosen(scores, *args).tolist()  # noqa: E731
    assert take(0.5, "hardest") == [1, 3, 4]
    assert take(1 / 3, "hardest") == [1, 3]  # of the two 5, the lower index
    assert take(1 / 3, "easiest") == [0, 2]
    assert take(0.01, "hardest") == [3]
    assert take(0.75, "easiest") == [0, 1, 2, 5]  # round(4.5) is 4
    assert take(1, "random", KEY) == list(range(6))
    assert len(take(0.5, "random", KEY)) == 3


@given(st.sampled_from([1, 2, 7, 60]), st.floats(1e-3, 1), st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_choices_are_exact(n, share, seed):
    scores = np.random.default_rng(seed).integers(0, 5, n)
    count = max(1, round(share * n))
    order = np.lexsort((np.arange(n), -scores))[:count]
    hardest = np.asarray(examples.chosen(scores, share))
    np.testing.assert_array_equal(hardest, np.sort(order))
    easiest = np.asarray(examples.chosen(-scores, share, "easiest"))
    np.testing.assert_array_equal(easiest, hardest)
    some = np.asarray(examples.chosen(scores, share, "random", jax.random.key(seed)))
    assert len(np.unique(some)) == count
    assert (np.diff(some) > 0).all()
    assert 0 <= some[0] <= some[-1] < n


def test_chosen_at_a_million():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 1000, 10**6).astype(np.float32)
    found = np.asarray(examples.chosen(scores, 0.3))
    wanted = np.sort(np.argsort(-scores, kind="stable")[:300_000])
    np.testing.assert_array_equal(found, wanted)
    some = np.asarray(examples.chosen(scores, 0.3, "random", KEY))
    assert len(np.unique(some)) == 300_000
    # As uniform as drawing: the mean index of a draw without replacement.
    assert abs(some.mean() / 1e6 - 0.5) < 4 * np.sqrt(0.7 / 12 / 300_000)
    other = np.asarray(examples.chosen(scores, 0.3, "random", jax.random.key(1)))
    assert abs(len(np.intersect1d(some, other)) / 1e6 - 0.09) < 0.002


def test_choices_that_make_no_sense_are_refused():
    scores = np.arange(4.0)
    refused: tuple[tuple[Any, str], ...] = (
        ((0.0,), r"in \(0, 1\]; got 0.0"),
        ((1.5,), r"in \(0, 1\]; got 1.5"),
        ((0.5, "best"), "'hardest', 'easiest' or 'random'; got 'best'"),
        ((0.5, "random"), "need a key"),
    )
    for args, told in refused:
        with pytest.raises(ValueError, match=told):
            examples.chosen(scores, *args)
    with pytest.raises(ValueError, match="NaN"):
        examples.chosen(np.array([1, np.nan]), 0.5)
    with pytest.raises(ValueError, match="of an example or more"):
        examples.chosen(np.zeros((2, 2)), 0.5)
