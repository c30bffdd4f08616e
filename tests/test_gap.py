"""Differences within replicates, at the end of trainings and where they stopped."""

import pandas as pd
import pytest

from lth import results

# Of two replicates: validation losses at steps 1, 2, 3, and test accuracies there
CURVES = {
    ("a", "ticket", 0): [([3, 1, 2], [0.1, 0.5, 0.9]), ([3, 2, 1], [0.1, 0.2, 0.6])],
    ("b", "reinit", 4): [([3, 2, 1], [0.1, 0.2, 0.4]), ([1, 2, 3], [0.3, 0.2, 0.1])],
}


def rows():
    for (run, variant, level), replicates in CURVES.items():
        for i, (losses, accuracies) in enumerate(replicates):
            for step, (loss, accuracy) in enumerate(
                zip(losses, accuracies, strict=True), 1
            ):
                unit = (run, i, variant, level, 0.5, step)
                yield (*unit, "validation", "loss", float(loss))
                yield (*unit, "test", "accuracy", accuracy)


TABLE = pd.DataFrame(rows(), columns=list(results.COLUMNS))
A, B = {"run": "a"}, {"run": "b", "variant": "reinit", "level": 4}


def test_gap_is_within_replicates_and_in_points():
    mean, half = results.gap(TABLE, A, B)
    assert mean == pytest.approx(50)  # 90 - 40 and 60 - 10
    assert half == pytest.approx(0)


def test_mean_is_of_one_training_of_each_replicate():
    assert results.mean(TABLE, A)[0] == pytest.approx(75)
    assert results.mean(results.stopped(TABLE), A)[0] == pytest.approx(55)


def test_gap_where_trainings_stopped():
    mean, _ = results.gap(results.stopped(TABLE), A, B)
    assert mean == pytest.approx((10 + 30) / 2)  # 50 - 40 and 60 - 30


def test_gap_needs_one_training_of_each_replicate():
    with pytest.raises(ValueError, match="leaves 0 trainings"):
        results.gap(TABLE, A, {"run": "b"})
    twice = pd.concat([TABLE, TABLE.assign(level=7)])
    with pytest.raises(ValueError, match="leaves 2 trainings"):
        results.gap(twice, A, B)
