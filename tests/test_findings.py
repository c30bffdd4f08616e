"""What a table says of a run, against numbers from hand."""

import math

import pandas as pd
import pytest

from lth import results
from tests.test_matching import table

T2 = 4.302652729911275  # Student's t of three values, at 97.5 %
TICKETS = {
    0: (1.0, [0.90, 0.92, 0.94]),
    1: (0.8, [0.91, 0.92, 0.93]),
    2: (0.64, [0.91, 0.93, 0.92]),
    3: (0.512, [0.70, 0.72, 0.71]),
}
CONTROL = {
    1: (0.8, [0.90, 0.93, 0.92]),  # behind by 1, -1, 1 points: not decided
    2: (0.64, [0.80, 0.83, 0.81]),  # by 11, 10, 11
    3: (0.512, [0.50, 0.51, 0.51]),  # by 20, 21, 20
}


def both():

    return pd.concat([table(TICKETS), table(CONTROL, variant="reinit")])


def test_from_where_on_a_control_is_behind():
    rows = results.behind(both(), "reinit")
    assert rows["level"].tolist() == [1, 2, 3]
    assert rows["behind"].tolist() == [False, True, True]
    mean = 32 / 3 / 100
    deviation = math.sqrt(sum((x / 100 - mean) ** 2 for x in (11, 10, 11)) / 2)
    assert rows["difference"][1] == pytest.approx(mean)
    assert rows["difference_ci"][1] == pytest.approx(T2 * deviation / math.sqrt(3))
    first = results.behind_from(rows)
    assert first is not None
    assert first["level"] == 2
    rows["behind"] = [True, True, False]  # it has caught up
    assert results.behind_from(rows) is None
    assert results.behind(both(), "shuffle").empty


def test_one_replicate_is_never_behind():

    one = {0: (1.0, [0.9]), 1: (0.5, [0.9])}
    other = {1: (0.5, [0.1])}
    both = pd.concat([table(one), table(other, variant="reinit")])
    rows = results.behind(both, "reinit")
    assert rows["difference"].tolist() == pytest.approx([0.8])
    assert not rows["behind"].any()
    found = results.findings(both)
    assert found["branches"]["reinit"] == {"matches_down_to": None, "behind_from": None}
    assert found["dense"] == {"score": 0.9, "interval": None, "n": 1, "deviation": None}


def test_the_share_of_steps_is_within_replicates():
    rows = table({0: (1.0, [0.9, 0.9]), 1: (0.5, [0.9, 0.9])})
    loss = (rows["split"] == "validation") & (rows["metric"] == "loss")
    # Steps to the lowest loss: dense 40 and 20, tickets 10 and 15.
    steps = {(0, 0): 40, (0, 1): 20, (1, 0): 10, (1, 1): 15}
    at = [steps[pair] for pair in zip(rows["level"], rows["replicate"], strict=True)]
    rows.loc[loss, "step"] = [n for n, own in zip(at, loss, strict=True) if own]
    share = results.speed(rows)
    assert share[["level", "n"]].to_numpy().tolist() == [[1, 2]]
    assert share["share"].tolist() == pytest.approx([(0.25 + 0.75) / 2])
    learned = rows[rows["level"] == 1]
    assert results.speed(learned).empty  # no dense network to compare with


def test_findings_by_hand():
    found = results.findings(both())
    assert found["score"] == "accuracy"
    half = T2 * 0.02 / math.sqrt(3)
    assert found["dense"]["score"] == pytest.approx(0.92)
    assert found["dense"]["interval"] == pytest.approx(half)
    assert found["dense"]["deviation"] == pytest.approx(0.02)
    tickets = found["tickets"]
    assert tickets["matches_down_to"] == {"level": 2, "density": 0.64}
    assert (tickets["level"], tickets["density"]) == (2, 0.64)
    assert tickets["score"] == pytest.approx(0.92)
    assert tickets["matching_levels"] == [1, 2]
    assert tickets["steps"]["share"] == 1.0
    control = found["branches"]["reinit"]
    assert control["matches_down_to"] == {"level": 1, "density": 0.8}
    assert control["behind_from"]["level"] == 2
    assert control["behind_from"]["n"] == 3
    apart = results.findings(both(), apart=("reinit",))["branches"]["reinit"]
    assert apart == {"matches_down_to": None, "behind_from": None}


def test_a_run_without_a_dense_network_has_none():
    found = results.findings(table({0: (0.3, [0.9, 0.91])}))
    assert found["dense"] is None
    assert found["tickets"] is None
    assert found["branches"] == {}
