"""Noisy labels, fewer examples, fewer classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lth import data

EXAMPLES, CLASSES = 60, 5
LABEL = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
DATA = data.Dataset(np.arange(EXAMPLES)[:, None], LABEL)
TARGETS = DATA._replace(targets=np.ones(EXAMPLES, np.float32))


@given(st.floats(0, 1), st.integers(0, 9))
def test_noise_redraws_an_exact_count_and_leaves_the_images(fraction, seed):
    noisy = data.label_noise(DATA, fraction, CLASSES, seed)
    assert (noisy.targets != LABEL).sum() <= round(fraction * EXAMPLES)
    assert noisy.targets.dtype == np.int32
    assert set(noisy.targets) <= set(range(CLASSES))
    assert noisy.inputs is DATA.inputs
    again = data.label_noise(DATA, fraction, CLASSES, seed)
    np.testing.assert_array_equal(noisy.targets, again.targets)


def test_noise_is_uniform_over_all_classes_and_the_rest_is_kept():
    large = data.Dataset(np.zeros((9000, 1)), np.zeros(9000, np.int32))
    noisy = data.label_noise(large, 0.5, 3, seed=0)
    counts = np.bincount(noisy.targets)
    # 4500 redrawn: 1500 of each class expected, standard deviation 32.
    np.testing.assert_allclose(counts[1:], 1500, atol=4 * 32)
    assert counts.sum() == 9000
    all_new = data.label_noise(large, 1.0, 10**6, seed=0)
    assert (all_new.targets != 0).sum() >= 8999
    half_new = data.label_noise(large, 0.5, 10**9, seed=0)
    assert (half_new.targets != 0).sum() == 4500


@given(st.integers(1, EXAMPLES), st.integers(0, 9))
def test_a_subsample_is_some_of_the_examples_in_their_order(count, seed):
    some = data.subsample(DATA, count, seed)
    chosen = some.inputs[:, 0]
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(some.targets, LABEL[chosen])


def test_a_balanced_subsample_has_equally_many_of_each_class():
    some = data.subsample(DATA, 20, 3, balanced=True)
    assert np.bincount(some.targets).tolist() == [4] * CLASSES
    other = data.subsample(DATA, 20, 4, balanced=True)
    assert (some.inputs != other.inputs).any()


@given(st.permutations(range(CLASSES)), st.integers(1, CLASSES))
def test_chosen_classes_are_numbered_as_given(order, count):
    chosen = order[:count]
    kept = data.only_classes(DATA, chosen)
    assert len(kept.targets) == count * EXAMPLES // CLASSES
    assert [chosen[i] for i in kept.targets] == LABEL[kept.inputs[:, 0]].tolist()
    assert kept.targets.dtype == np.int32


REFUSED = {
    "fraction": (lambda: data.label_noise(DATA, 1.5, 5, 0), r"in \[0, 1\]; got 1.5"),
    "noise": (lambda: data.label_noise(TARGETS, 0.5, 5, 0), "labels are float32"),
    "many": (lambda: data.subsample(DATA, 61, 0), "61 of 60 examples: allowed are 1"),
    "none": (lambda: data.subsample(DATA, 0, 0), "0 of 60 examples"),
    "uneven": (
        lambda: data.subsample(DATA, 7, 0, balanced=True),
        "allowed are multiples of 5 up to 60",
    ),
    "rare": (
        lambda: data.subsample(
            data.Dataset(DATA.inputs, (LABEL > 3).astype(int)), 50, 0, balanced=True
        ),
        "allowed are multiples of 2 up to 24",
    ),
    "absent": (lambda: data.only_classes(DATA, [1, 5]), r"allowed are .*\[0, 1, 2"),
    "twice": (lambda: data.only_classes(DATA, [1, 1]), r"classes \[1, 1\]"),
    "no class": (lambda: data.only_classes(DATA, []), "at least one"),
    "targets": (lambda: data.only_classes(TARGETS, [1]), "one class per example"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_options_are_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(data.DataError, match=message):
        call()
